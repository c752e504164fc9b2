"""Effects of mounted paths of the node: writable ones count by default, and read-only ones are undecided by default."""

from pathlib import Path

import pytest

from podidctl.access.host_paths import (
    HARMLESS_READ_ONLY,
    HARMLESS_WRITABLE,
    PROCESSES,
    SECRETS,
    UNDECIDED_READ_ONLY,
    Effect,
    path_effect,
)


def effect(path: str, *, read_only: bool) -> Effect:
    return path_effect(path, read_only=read_only).effect


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/sudoers.d",
        "/etc/cron.daily",
        "/etc/containerd",
        "/etc/ld.so.conf.d",
        "/etc/pam.d",
        "/etc/udev",
        "/etc/profile.d",
        "/var/log",
        "/var/lib/dpkg/info",
        "/opt/bin",
        "/opt/azure/containers",
        "/mnt/aks/kubelet",
        "/data",
        "/tmp",
        "/etc/passwd",
        "/run/xtables.lock",
        "/usr/share",
        r"C:\k",
        "relative",
    ],
)
def test_a_writable_path_takes_over_the_node_unless_it_is_harmless(path: str) -> None:
    assert effect(path, read_only=False) is Effect.TAKES_OVER


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/ssh",
        "/etc/ssh/ssh_host_ed25519_key",
        "/home",
        "/home/azureuser/.ssh",
        "/var/lib/containerd",
        "/var/lib/docker/overlay2",
        "/var/lib",
        "/var/lib/cloud/instance",
        "/run",
        "/var/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/proc",
        "/proc/1/root",
        "/proc/1/task/1/root/etc",
        "/proc/thread-self/root",
        "/proc/1/cwd/var/run/docker.sock",
    ],
)
def test_a_read_only_path_with_credentials_or_a_socket_takes_over_the_node(path: str) -> None:
    assert effect(path, read_only=True) is Effect.TAKES_OVER


@pytest.mark.parametrize(
    "path", ["/data", "/var/log", "/opt", "/sys", "/dev", "/proc/sys", "/proc/1/fd/3", "/run/user"]
)
def test_an_unknown_read_only_path_is_undecided(path: str) -> None:
    assert effect(path, read_only=True) is Effect.UNDECIDED


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/run/xtables.lock", "NMI and kube-proxy"),
        ("/var/run/xtables.lock", "NMI and kube-proxy"),
        ("/run/systemd/resolve", "sockets of systemd-resolved"),
        ("/run/systemd/resolve/io.systemd.Resolve", "sockets of systemd-resolved"),
    ],
)
def test_a_read_only_mount_does_not_protect_a_lock_or_an_unknown_socket(path: str, why: str) -> None:
    found = path_effect(path, read_only=True)
    assert (found.effect, why in found.why) == (Effect.UNDECIDED, True)


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


def test_no_harmless_path_contains_credentials() -> None:
    for harmless in HARMLESS_READ_ONLY:
        assert not [secret for secret in SECRETS if f"{secret}/".startswith(f"{harmless}/")], harmless


@pytest.mark.parametrize(
    ("path", "read_only", "why"),
    [
        ("/run", True, "privileged containers"),
        ("/var/run", False, "privileged containers"),
        ("/", True, "privileged containers"),
        ("/run/aad-pod-identity", True, "cached tokens"),
        ("/etc/shadow", True, "password hashes"),
        ("/etc/shadow", False, "a known password"),
    ],
)
def test_the_reason_is_the_shortest_way_to_the_node(path: str, *, read_only: bool, why: str) -> None:
    assert why in path_effect(path, read_only=read_only).why


def test_every_path_has_its_reason() -> None:
    for path in ("/data", "/proc", *SECRETS, *HARMLESS_READ_ONLY):
        for read_only in (True, False):
            assert path_effect(path, read_only=read_only).why, path


def test_the_documentation_has_every_path_of_the_lists() -> None:
    text = (Path(__file__).parents[3] / "docs" / "access.md").read_text()
    assert [
        path for path in (*SECRETS, PROCESSES, *HARMLESS_READ_ONLY, *UNDECIDED_READ_ONLY) if f"`{path}`" not in text
    ] == []
