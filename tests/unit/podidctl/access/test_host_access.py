"""Ways in which a pod reaches its node's identities, and the effects of mounted paths of the node."""

from typing import Any

import pytest

from podidctl.access.host_access import (
    HARMLESS_READ_ONLY,
    HARMLESS_WRITABLE,
    PROCESSES,
    SECRETS,
    UNDECIDED_READ_ONLY,
    Effect,
    host_access,
    path_effect,
    undecided_access,
)
from podidctl.access.projections import (
    ContainerSecurity,
    ReviewedContainer,
    Volume,
    VolumeMount,
    WindowsOptions,
)
from podidctl.access.schema import TAKES_OVER, Way
from podidctl.facts.kinds import HostPath
from tests.support.checkout import ROOT
from tests.support.podidctl.access.small_cluster import SCALE_SET, exception, nmi, node, pod, pod_of, reviewed

HOST_PROCESS = ContainerSecurity(windows_options=WindowsOptions(host_process=True))
PRIVILEGED = ContainerSecurity(privileged=True)


def ways(exempt: str = "", *, nmi_missing: str = "", **spec: Any) -> list[Way]:
    return [access.way for access in host_access(pod("web", **spec), exempt, nmi_missing=nmi_missing)]


def undecided(**spec: Any) -> list[tuple[Way, str]]:
    return [(access.way, access.detail) for access in undecided_access(pod("web", **spec))]


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ({"host_network": True}, Way.HOST_NETWORK),
        ({"privileged": True}, Way.PRIVILEGED),
        ({"capabilities": ["SYS_ADMIN"]}, Way.CAPABILITY),
        ({"capabilities": ["CAP_SYS_MODULE"]}, Way.CAPABILITY),
        ({"capabilities": ["all"]}, Way.CAPABILITY),
        ({"host_pid": True}, Way.HOST_PID),
        ({"host_pid": True, "capabilities": ["SYS_PTRACE"]}, Way.HOST_PID),
        ({"proc_mount": "Unmasked"}, Way.PROC_MOUNT),
        ({"security_context": HOST_PROCESS}, Way.HOST_PROCESS),
        ({"init_containers": [ReviewedContainer(security_context=HOST_PROCESS)]}, Way.HOST_PROCESS),
        ({"ephemeral_containers": [ReviewedContainer(security_context=PRIVILEGED)]}, Way.PRIVILEGED),
    ],
)
def test_each_setting_of_the_pod_is_found(spec: Any, way: Way) -> None:
    assert ways(**spec) == [way]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"capabilities": ["NET_ADMIN", "NET_RAW"]},
        {"capabilities": ["SYS_PTRACE"]},
        {"capabilities": ["CHOWN", "IPC_LOCK"]},
        {"proc_mount": "Default"},
        {"host_path": "/usr/share/zoneinfo", "read_only": True},
    ],
)
def test_settings_that_do_not_suffice_are_not_reported(spec: Any) -> None:
    assert ways(**spec) == []
    assert undecided(**spec) == []


@pytest.mark.parametrize(("path", "read_only"), [("/var/lib/../lib/kubelet", True), ("/etc", False)])
def test_host_paths_with_credentials_or_code_are_found(path: str, *, read_only: bool) -> None:
    assert ways(host_path=path, read_only=read_only) == [Way.HOST_PATH]


@pytest.mark.parametrize("capability", ["NET_ADMIN", "NET_RAW"])
def test_a_network_capability_in_the_nodes_network_reaches_the_requests_of_other_pods(capability: str) -> None:
    assert ways(host_network=True, capabilities=[capability], dropped=["ALL"]) == [Way.HOST_NETWORK, Way.CAPABILITY]


def test_a_default_capability_in_the_nodes_network_is_undecided_unless_it_is_dropped() -> None:
    assert undecided(host_network=True) == [(Way.CAPABILITY, "NET_RAW")]
    assert undecided(host_network=True, dropped=["NET_RAW"]) == []
    assert undecided(host_network=True, dropped=["all"]) == []


@pytest.mark.parametrize(
    ("spec", "way", "detail"),
    [
        ({"host_ipc": True}, Way.HOST_IPC, ""),
        ({"capabilities": ["PERFMON"]}, Way.CAPABILITY, "PERFMON"),
        ({"capabilities": ["CAP_OF_A_LATER_KERNEL"]}, Way.CAPABILITY, "OF_A_LATER_KERNEL"),
        ({"proc_mount": "Unmasked", "host_users": False}, Way.PROC_MOUNT, "Unmasked"),
        ({"host_path": "/data", "read_only": True}, Way.HOST_PATH, "/data"),
    ],
)
def test_a_setting_whose_effect_depends_on_the_node_is_undecided(spec: Any, way: Way, detail: str) -> None:
    assert undecided(**spec) == [(way, detail)]
    assert ways(**spec) == []


def test_every_reported_setting_has_its_reason() -> None:
    every = pod(
        "web",
        privileged=True,
        capabilities=["SYS_ADMIN", "PERFMON", "SYSLOG"],
        proc_mount="Unmasked",
        host_pid=True,
        host_ipc=True,
        host_path="/etc",
        security_context=HOST_PROCESS,
    )
    settings = [*host_access(every, ""), *undecided_access(every)]
    assert {setting.way for setting in settings} == {*TAKES_OVER, Way.HOST_IPC}
    assert [setting for setting in settings if not setting.why] == []


def test_a_path_that_one_container_may_write_counts_as_written() -> None:
    mounts = [[VolumeMount(name="host", read_only=read_only)] for read_only in (True, False, True)]
    several = pod(
        "web",
        host_path="/data",
        init_containers=[ReviewedContainer(volume_mounts=volume_mounts) for volume_mounts in mounts],
    )
    assert [access.way for access in host_access(several, "")] == [Way.HOST_PATH]
    assert undecided_access(several) == []
    assert ways(volumes=[Volume(name="host", host_path=HostPath(path="/"))]) == []


def test_exemptions_name_their_cause_and_do_not_apply_to_mirror_pods() -> None:
    assert ways("MIC") == [Way.MIC]
    assert ways(nmi_missing="no machine") == [Way.NO_NMI]
    (by_exception,) = host_access(pod("web"), "exception shop/legacy", nmi_missing="")
    assert (by_exception.way, by_exception.detail) == (Way.EXCEPTION, "shop/legacy")
    assert ways("exception shop/legacy", mirror=True) == []


def test_the_review_finds_exceptions_and_nodes_without_nmi() -> None:
    old = pod("old", labels={"app": "Old"})
    lonely = pod("lonely", node="node-9")
    access_review = reviewed(
        pods=(old, lonely),
        exceptions=(exception(app="old"),),
        nodes=(node("node-0", ""), node("node-9", f"{SCALE_SET}/virtualMachines/9")),
        nmi=(nmi("node-0"),),
    )
    assert [access.way for access in pod_of(access_review, "shop/old").host_access] == [Way.EXCEPTION]
    assert [access.way for access in pod_of(access_review, "shop/lonely").host_access] == [Way.NO_NMI]
    assert {node.name: node.nmi for node in access_review.nodes} == {"node-0": "ready", "node-9": "none"}
    assert [(exception.full_name, exception.labels, exception.pods) for exception in access_review.exceptions] == [
        ("shop/legacy", {"app": "old"}, 1)
    ]
    access_review = reviewed(pods=(pod("web"),), nmi=())
    assert access_review.pods == []
    assert {node.nmi for node in access_review.nodes} == {"unknown"}


def effect(path: str, *, read_only: bool) -> Effect:
    return path_effect(path, read_only=read_only).effect


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/data",
        "/tmp",
        "/var/log",
        "/etc/passwd",
        "/run/xtables.lock",
        "/usr/share",
        "/usr/local/bin",
        "/proc/sys",
        "/sys/fs/cgroup",
        r"C:\k",
        "relative",
    ],
)
def test_a_writable_path_takes_over_the_node_unless_it_is_harmless(path: str) -> None:
    assert effect(path, read_only=False) is Effect.TAKES_OVER


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//etc/kubernetes",
        "/etc/shadow",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssl/private",
        "/home/azureuser/.ssh",
        "/root",
        "/var/lib/cloud/instance",
        "/var/lib/containerd",
        "/var/lib/containers",
        "/var/lib/docker/overlay2",
        "/var/lib/etcd",
        "/var/lib/waagent",
        "/var/lib",
        "/var/lib/../lib/kubelet",
        "/run",
        "/run/aad-pod-identity",
        "/run//containerd/",
        "/run/cri-dockerd.sock",
        "/run/crio",
        "/run/podman",
        "/run/systemd/private",
        "/var/run/dbus/system_bus_socket",
        "/var/run/docker.sock",
        "/proc",
        "/proc/1/root",
        "/proc/1/task/1/root/etc",
        "/proc/thread-self/root",
        "/proc/1/cwd/var/run/docker.sock",
        "/proc/1/root/var/lib/kubelet",
        "/proc/1/root/proc/self/cwd/",
    ],
)
def test_a_read_only_path_with_credentials_or_a_socket_takes_over_the_node(path: str) -> None:
    assert effect(path, read_only=True) is Effect.TAKES_OVER


@pytest.mark.parametrize(
    "path",
    [
        "/data",
        "/var/log",
        "/opt",
        "/sys",
        "/dev",
        "/proc/sys",
        "/proc/1/fd/3",
        "/run/user",
        # These only look like those of processes and of the kubelet.
        "/procedures",
        "/proc/1/rooted",
        "/var/lib/kubelet-logs",
    ],
)
def test_an_unknown_read_only_path_is_undecided(path: str) -> None:
    assert effect(path, read_only=True) is Effect.UNDECIDED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/run/xtables.lock", "NMI and kube-proxy"),
        ("/var/run/xtables.lock", "NMI and kube-proxy"),
        ("/run/systemd/resolve", "sockets of systemd-resolved"),
        ("/run/systemd/resolve/io.systemd.Resolve", "sockets of systemd-resolved"),
    ],
)
def test_a_read_only_mount_does_not_protect_a_lock_or_an_unknown_socket(path: str, reason: str) -> None:
    effect = path_effect(path, read_only=True)
    assert (effect.effect, reason in effect.reason) == (Effect.UNDECIDED, True)


@pytest.mark.parametrize("path", HARMLESS_WRITABLE)
def test_a_writable_path_of_the_list_is_harmless_and_its_directory_is_not(path: str) -> None:
    assert effect(path, read_only=False) is Effect.HARMLESS
    assert effect(path.rpartition("/")[0], read_only=False) is Effect.TAKES_OVER
    assert effect(path + "-", read_only=False) is Effect.TAKES_OVER


@pytest.mark.parametrize("path", HARMLESS_READ_ONLY)
def test_a_read_only_path_of_the_list_is_harmless_and_its_directory_is_not(path: str) -> None:
    assert effect(path, read_only=True) is Effect.HARMLESS
    assert effect(path.rpartition("/")[0] or "/", read_only=True) is not Effect.HARMLESS
    assert effect(path + "-", read_only=True) is not Effect.HARMLESS


@pytest.mark.parametrize("path", ["//etc/localtime", "/etc/./localtime/", "/proc/1/root/etc/localtime"])
def test_a_harmless_path_in_another_form_is_harmless_too(path: str) -> None:
    assert effect(path, read_only=False) is Effect.HARMLESS


@pytest.mark.parametrize(
    ("path", "read_only", "reason"),
    [
        ("/run", True, "privileged containers"),
        ("/var/run", False, "privileged containers"),
        ("/", True, "privileged containers"),
        ("/run/aad-pod-identity", True, "cached tokens"),
        ("/etc/shadow", True, "password hashes"),
        ("/etc/shadow", False, "a known password"),
    ],
)
def test_the_reason_is_the_shortest_way_to_the_node(path: str, *, read_only: bool, reason: str) -> None:
    assert reason in path_effect(path, read_only=read_only).reason


def test_every_path_has_its_reason_and_its_line_in_the_documentation() -> None:
    for path in ("/data", "/proc", *SECRETS, *HARMLESS_READ_ONLY):
        for read_only in (True, False):
            assert path_effect(path, read_only=read_only).reason, path
    for harmless in HARMLESS_READ_ONLY:
        assert not [secret for secret in SECRETS if f"{secret}/".startswith(f"{harmless}/")], harmless
    text = (ROOT / "docs" / "access.md").read_text()
    assert [
        path for path in (*SECRETS, PROCESSES, *HARMLESS_READ_ONLY, *UNDECIDED_READ_ONLY) if f"`{path}`" not in text
    ] == []
