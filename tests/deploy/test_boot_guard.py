"""nmi.bootGuard: the container that may write to the node's units, and its arguments."""

from typing import Any

import pytest

from tests.deploy.helms import HELMS
from tools.chart.rendering import Object, render

ON = "--set=nmi.bootGuard=true"
DIRECTORY = "/etc/systemd/system"


def pods_of(objects: list[Object]) -> dict[str, Any]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in objects
        if each["kind"] in {"DaemonSet", "Deployment"}
    }


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def sees_units(container: dict[str, Any]) -> bool:
    return any(each["name"] == "systemd" for each in container.get("volumeMounts", []))


@pytest.mark.parametrize("helm", HELMS)
def test_no_pod_mounts_the_nodes_units_by_default(helm: str) -> None:
    for pod in pods_of(render(helm=helm)).values():
        assert DIRECTORY not in [each.get("hostPath", {}).get("path") for each in pod.get("volumes", [])]
        assert not any(sees_units(each) for each in containers(pod))


@pytest.mark.parametrize("helm", HELMS)
def test_one_container_installs_the_unit_and_one_removes_it(helm: str) -> None:
    pods = pods_of(render(helm=helm, options=[ON]))
    seeing = {name: [each["name"] for each in containers(pod) if sees_units(each)] for name, pod in pods.items()}
    assert {name: each for name, each in seeing.items() if each} == {
        "aad-pod-identity-nmi": ["boot-guard"],
        "aad-pod-identity-cleanup": ["cleanup"],
    }
    (guard,) = (each for each in containers(pods["aad-pod-identity-nmi"]) if each["name"] == "boot-guard")
    assert guard["args"] == [
        "--boot-guard=install",
        f"--systemd-directory=/host{DIRECTORY}",
        "--node=$(NODE_NAME)",
        "--kubelet-config=/etc/default/kubelet",
    ]
    assert [each["name"] for each in guard["env"]] == ["NODE_NAME"]
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in guard["volumeMounts"]}
    assert mounts == {f"/host{DIRECTORY}": False, "/etc/default/kubelet": True}
    assert guard["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (cleanup,) = (each for each in containers(pods["aad-pod-identity-cleanup"]) if each["name"] == "cleanup")
    assert f"--systemd-directory=/host{DIRECTORY}" in cleanup["args"]


def test_the_rule_has_nmis_addresses() -> None:
    pods = pods_of(render(options=[ON, "--set=nmi.extraArgs={--metadata-ip=169.254.1.1}"]))
    (guard,) = (each for each in containers(pods["aad-pod-identity-nmi"]) if each["name"] == "boot-guard")
    assert "--metadata-ip=169.254.1.1" in guard["args"]


def test_an_annotation_of_the_daemonset_lets_an_upgrade_remove_it() -> None:
    for options, expected in (([ON], "install"), ([], None)):
        (nmi,) = (
            each
            for each in render(options=options)
            if each["kind"] == "DaemonSet" and each["metadata"]["name"] == "aad-pod-identity-nmi"
        )
        assert nmi["metadata"]["annotations"].get("aadpodidentity.k8s.io/boot-guard") == expected
