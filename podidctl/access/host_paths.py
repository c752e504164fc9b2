"""Paths of the node that a pod mounts, and what the pod gets with them. Pure.

A writable path counts unless `HARMLESS_WRITABLE` has it: programs of the node run, or trust, the files of most paths. A
read-only one counts if it contains one of `SECRETS`; any other one is undecided unless `HARMLESS_READ_ONLY` has it.
"""

import posixpath
import re
from enum import Enum, auto
from typing import Final, NamedTuple


class Effect(Enum):
    """What a pod gets by one of its settings."""

    TAKES_OVER = auto()
    """Its node, or the processes of the other pods there."""
    UNDECIDED = auto()
    """It depends on the node's files or on its container runtime, which the API server does not show."""
    HARMLESS = auto()


class PathEffect(NamedTuple):
    """Effect of one path, and the reason."""

    effect: Effect
    why: str


_RUNTIME_SOCKET: Final = "the container runtime starts privileged containers for it"
_CONTAINERS: Final = "files of all containers, with the tokens of their service accounts"
_SYSTEMD: Final = "systemd starts programs for it, as root"
_HANDOVER: Final = "NMI's ports and cached tokens"

SECRETS: Final = {
    "/run/containerd": _RUNTIME_SOCKET,
    "/run/cri-dockerd.sock": _RUNTIME_SOCKET,
    "/run/crio": _RUNTIME_SOCKET,
    "/run/docker.sock": _RUNTIME_SOCKET,
    "/run/podman": _RUNTIME_SOCKET,
    "/etc/kubernetes": "credentials of the kubelet and of Azure",
    "/etc/shadow": "password hashes of the node's users",
    "/etc/ssh": "the node's SSH keys",
    "/etc/ssl/private": "private keys of the node",
    "/home": "SSH keys and credentials of the node's users",
    "/root": "SSH keys and credentials of root",
    "/run/aad-pod-identity": _HANDOVER,
    "/run/dbus": _SYSTEMD,
    "/run/systemd": _SYSTEMD,
    "/var/lib/cloud": "the data that the node was created with, such as its bootstrap token",
    "/var/lib/containerd": _CONTAINERS,
    "/var/lib/containers": _CONTAINERS,
    "/var/lib/docker": _CONTAINERS,
    "/var/lib/etcd": "every object of the cluster",
    "/var/lib/kubelet": "credentials of the kubelet, Secrets and tokens of all pods",
    "/var/lib/waagent": "credentials of Azure's agent",
}
"""Paths with credentials, and sockets. A read-only mount does not protect them. The first one that a directory contains
is its reason.
"""
WRITABLE_SECRETS: Final = {"/etc/shadow": "a user of the node can be given a known password"}
"""Reasons of writable ones, if they differ."""
PROCESSES: Final = "/proc"
"""With it a pod reads the environment and the files of processes of the same user, as with `hostPID`. Paths below it
are undecided.
"""
PROCESSES_WHY: Final = "it reads the environment and the files of the other pods' processes"
WRITABLE_WHY: Final = "a program of the node may run or trust what the pod writes there"
READ_ONLY_WHY: Final = "it is not known whether there are credentials or sockets"

_DEVICE: Final = "every container has this device"
_TIME_ZONE: Final = "the node's time zone"
HARMLESS_WRITABLE: Final = {
    "/dev/full": _DEVICE,
    "/dev/null": _DEVICE,
    "/dev/random": _DEVICE,
    "/dev/urandom": _DEVICE,
    "/dev/zero": _DEVICE,
    "/etc/localtime": _TIME_ZONE,
    "/etc/timezone": _TIME_ZONE,
}
_PUBLIC: Final = "published files of the distribution"
_CERTIFICATES: Final = "certificates of public authorities, without keys"
_NAMES: Final = "names and addresses, without secrets"
HARMLESS_READ_ONLY: Final = HARMLESS_WRITABLE | {
    "/etc/group": _NAMES,
    "/etc/hostname": _NAMES,
    "/etc/hosts": _NAMES,
    "/etc/machine-id": _NAMES,
    "/etc/os-release": _PUBLIC,
    "/etc/passwd": _NAMES,
    "/etc/pki/ca-trust": _CERTIFICATES,
    "/etc/resolv.conf": _NAMES,
    "/etc/ssl/certs": _CERTIFICATES,
    "/lib/modules": _PUBLIC,
    "/run/systemd/resolve/resolv.conf": _NAMES,
    "/run/systemd/resolve/stub-resolv.conf": _NAMES,
    "/usr/lib/modules": _PUBLIC,
    "/usr/lib/os-release": _PUBLIC,
    "/usr/local/share/ca-certificates": _CERTIFICATES,
    "/usr/share": _PUBLIC,
    "/usr/src": _PUBLIC,
}
UNDECIDED_READ_ONLY: Final = {
    "/run/systemd/resolve": "sockets of systemd-resolved are there",
    "/run/xtables.lock": "a pod that holds this lock keeps NMI and kube-proxy from writing rules on a legacy node",
}
"""Undecided paths with their own reason."""
_PROCESS_ROOT: Final = re.compile(r"\A(?:/proc/[^/]+(?:/task/[^/]+)?/(?:root|cwd)(?=/|\Z))+")
_OLD_RUN: Final = re.compile(r"\A/var/(run|lock)(?=/|\Z)")
_RUN: Final = {"run": "/run", "lock": "/run/lock"}


def path_effect(path: str, *, read_only: bool) -> PathEffect:
    """Return what a pod gets that mounts *path* of its node."""
    real = _real_path(path)
    for harmless, why in (HARMLESS_READ_ONLY if read_only else HARMLESS_WRITABLE).items():
        if _contains(harmless, real):
            return PathEffect(Effect.HARMLESS, why)
    for undecided, why in UNDECIDED_READ_ONLY.items() if read_only else ():
        if _contains(undecided, real):
            return PathEffect(Effect.UNDECIDED, why)
    for secret, why in SECRETS.items():
        if _contains(secret, real) or _contains(real, secret):
            return PathEffect(Effect.TAKES_OVER, why if read_only else WRITABLE_SECRETS.get(secret, why))
    if real == PROCESSES:
        return PathEffect(Effect.TAKES_OVER, PROCESSES_WHY)
    return PathEffect(Effect.UNDECIDED, READ_ONLY_WHY) if read_only else PathEffect(Effect.TAKES_OVER, WRITABLE_WHY)


def _real_path(path: str) -> str:
    """Return the path of the node that *path* names, also through the root directory of one of its processes."""
    normal = _PROCESS_ROOT.sub("", "/" + posixpath.normpath(path).lstrip("/")) or "/"
    return _OLD_RUN.sub(lambda found: _RUN[found[1]], normal)


def _contains(directory: str, path: str) -> bool:
    """Return whether *path* is *directory* or below it."""
    return (path.rstrip("/") + "/").startswith(directory.rstrip("/") + "/")
