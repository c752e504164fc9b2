"""NMI and MIC as pods: missing, not ready, or with flags that contradict each other's."""

from typing import Any

import msgspec
import pytest

from podidctl.diagnosis.daemons import DaemonVolume, HostPath
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Level
from tests.podidctl.doctor_inputs import bad, examined, mic, nmi, node, objects, one
from tests.support.nmi_objects import exception

TWO = objects(nodes=(node(), node("node-2")))
MANAGED = ("--operation-mode=managed", "--forceNamespaced")


def test_a_node_without_nmi_is_named() -> None:
    line = one(examined(objects=TWO))
    assert (line.check, line.level) == ("NMI", Level.PROBLEM)
    assert "node-2" in line.says
    assert bad(examined(objects=TWO, nmi=(nmi(), nmi(name="nmi-2", node="node-2")))) == []


@pytest.mark.parametrize("labels", [{"kubernetes__io/os": "windows"}, {"type": "virtual-kubelet"}])
def test_a_node_where_nmi_cannot_run_is_not_reported(labels: dict[str, str]) -> None:
    assert bad(examined(objects=objects(nodes=(node(), node("node-2", **labels))))) == []


@pytest.mark.parametrize(
    ("changes", "check", "level", "says"),
    [
        ({"nmi": (nmi(ready=False),)}, "NMI", Level.PROBLEM, "kube-system/nmi-1 on node-1 (phase Running)"),
        ({"mic": (mic(ready=False),)}, "MIC", Level.PROBLEM, "no MIC is ready"),
        ({"mic": ()}, "MIC", Level.UNKNOWN, "no pod has MIC's label"),
        ({"nmi": ReadFailure("not allowed: pods")}, "NMI", Level.UNKNOWN, "not allowed: pods"),
        (
            {"mic": (mic(), mic(name="mic-2", image="registry/mic:2"))},
            "versions",
            Level.WARNING,
            "mic:1, registry/mic:2",
        ),
        ({"mic": (mic(image="registry/mic:2"),)}, "versions", Level.WARNING, "nmi runs from tag 1, mic from tag 2"),
        ({"mic": (mic(alone=True),)}, "flags", Level.WARNING, "only as a pod of a ReplicaSet named mic"),
        ({"nmi": (nmi("--forceNamespaced"),)}, "flags", Level.WARNING, "--forceNamespaced differs"),
        ({"nmi": (nmi("--flag-of-tomorrow"),)}, "flags", Level.WARNING, "unknown flag --flag-of-tomorrow"),
        ({"nmi": (nmi("--MICNamespace=default"),)}, "flags", Level.WARNING, "MIC runs in kube-system"),
        ({"nmi": (nmi("--allow-network-plugin-kubenet"),)}, "flags", Level.WARNING, "kubenet"),
    ],
)
def test_a_fault_is_reported(changes: dict[str, Any], check: str, level: Level, says: str) -> None:
    line = one(examined(**changes))
    assert (line.check, line.level) == (check, level)
    assert says in line.says


def test_mic_in_another_namespace_is_ok_if_an_exception_covers_it() -> None:
    covers = exception(labels={"component": "mic"}, namespace="kube-system")
    report = examined(nmi=(nmi("--MICNamespace=default"),), objects=objects(exceptions=(covers,)))
    assert bad(report) == []


def test_nmi_with_a_network_of_its_own_and_a_file_of_the_node_is_nmi() -> None:
    own = nmi("--redirect=cilium", host_network=False)
    of_node = msgspec.structs.replace(own.spec, volumes=[DaemonVolume(host_path=HostPath("/etc/default/kubelet"))])
    assert bad(examined(nmi=(msgspec.structs.replace(own, spec=of_node),))) == []


def test_mic_on_the_host_network_requires_nothing_of_nmi() -> None:
    assert bad(examined(mic=(mic(alone=True, host_network=True),))) == []


def test_an_exception_that_nmi_does_not_count_does_not_cover_mic() -> None:
    covers = exception(labels={"component": "mic"}, namespace="kube-system")
    flags = ("--MICNamespace=default", "--exception-namespaces=default")
    line = one(examined(nmi=(nmi(*flags),), objects=objects(exceptions=(covers,))))
    assert line.check == "flags"
    assert "AzurePodIdentityException" in line.next


def test_matching_flags_are_ok() -> None:
    assert bad(examined(nmi=(nmi("--forceNamespaced"),), mic=(mic("--forceNamespaced"),))) == []


def test_in_managed_mode_a_mic_is_reported_and_none_is_ok() -> None:
    assert bad(examined(nmi=(nmi(*MANAGED),), mic=(), locks=())) == []
    lines = bad(examined(nmi=(nmi(*MANAGED),), mic=(mic("--forceNamespaced"),)))
    assert [each.check for each in lines] == ["MIC"]


def test_two_modes_in_one_cluster_are_reported() -> None:
    both = (nmi(), nmi(*MANAGED, name="nmi-2", node="node-2"))
    assert "different operation modes" in " ".join(each.says for each in bad(examined(objects=TWO, nmi=both)))
