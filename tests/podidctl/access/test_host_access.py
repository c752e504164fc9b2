"""Ways in which a pod reaches its node's identities."""

from typing import Any

import pytest

from podidctl.access.host_access import host_access
from podidctl.access.schema import Way
from tests.podidctl.access.small_cluster import SCALE_SET, exception, nmi, node, pod, pod_of, reviewed


def ways(exempt: str = "", *, nmi_missing: str = "", **spec: Any) -> list[Way]:
    return [each.way for each in host_access(pod("web", **spec), exempt, nmi_missing=nmi_missing)]


def test_an_ordinary_pod_has_none() -> None:
    assert ways() == []


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ({"host_network": True}, Way.HOST_NETWORK),
        ({"privileged": True}, Way.PRIVILEGED),
        ({"capabilities": ["SYS_ADMIN"]}, Way.CAPABILITY),
        ({"capabilities": ["CAP_SYS_MODULE"]}, Way.CAPABILITY),
        ({"capabilities": ["all"]}, Way.CAPABILITY),
        ({"host_pid": True, "capabilities": ["SYS_PTRACE"]}, Way.HOST_PID),
    ],
)
def test_each_setting_of_the_pod_is_found(spec: Any, way: Way) -> None:
    assert ways(**spec) == [way]


@pytest.mark.parametrize(
    "spec",
    [
        {"host_pid": True},
        {"capabilities": ["NET_ADMIN", "NET_RAW"]},
        {"capabilities": ["SYS_PTRACE"]},
        {"host_path": "/var/log", "read_only": False},
        {"host_path": "/usr/share/zoneinfo", "read_only": True},
    ],
)
def test_settings_that_do_not_suffice_are_not_reported(spec: Any) -> None:
    assert ways(**spec) == []


@pytest.mark.parametrize(
    ("path", "read_only"),
    [
        ("/", True),
        ("/", False),
        ("/var/lib/kubelet/pods", True),
        ("/var/run/docker.sock", True),
        ("/run//containerd/", True),
        ("/var/lib/../lib/kubelet", True),
        ("/etc", False),
        ("/usr/local/bin", False),
        ("/proc/sys", False),
        ("/run/aad-pod-identity", True),
        ("/var/lib/waagent", True),
        ("/sys/fs/cgroup", False),
        ("//etc/kubernetes", True),
        ("/proc/1/root/var/lib/kubelet", True),
        ("/proc/1/root/proc/self/cwd/", True),
    ],
)
def test_host_paths_with_credentials_or_code_are_found(path: str, *, read_only: bool) -> None:
    assert ways(host_path=path, read_only=read_only) == [Way.HOST_PATH]


def test_paths_that_only_look_alike_are_not_found() -> None:
    assert ways(host_path="/procedures") == []
    assert ways(host_path="/proc/1/rooted", read_only=True) == []
    assert ways(host_path="/sys", read_only=True) == []
    assert ways(host_path="/var/lib/kubelet-logs", read_only=True) == []


def test_exemptions_name_their_cause_and_do_not_apply_to_mirror_pods() -> None:
    assert ways("MIC") == [Way.MIC]
    (by_exception,) = host_access(pod("web"), "exception shop/legacy", nmi_missing="")
    assert (by_exception.way, by_exception.detail) == (Way.EXCEPTION, "shop/legacy")
    assert ways("exception shop/legacy", mirror=True) == []


def test_a_missing_nmi_opens_its_node() -> None:
    assert ways(nmi_missing="why") == [Way.NO_NMI]


def test_the_review_finds_exceptions_and_nodes_without_nmi() -> None:
    old = pod("old", labels={"app": "Old"})
    lonely = pod("lonely", node="node-9")
    found = reviewed(
        pods=(old, lonely),
        exceptions=(exception(app="old"),),
        nodes=(node("node-0", ""), node("node-9", f"{SCALE_SET}/virtualMachines/9")),
        nmi=(nmi("node-0"),),
    )
    assert [each.way for each in pod_of(found, "shop/old").host_access] == [Way.EXCEPTION]
    assert [each.way for each in pod_of(found, "shop/lonely").host_access] == [Way.NO_NMI]
    assert {each.name: each.nmi for each in found.nodes} == {"node-0": "ready", "node-9": "none"}
    assert [(each.full_name, each.labels, each.pods) for each in found.exceptions] == [
        ("shop/legacy", {"app": "old"}, 1)
    ]


def test_without_any_nmi_pod_its_absence_is_unknown() -> None:
    found = reviewed(pods=(pod("web"),), nmi=())
    assert found.pods == []
    assert {each.nmi for each in found.nodes} == {"unknown"}
