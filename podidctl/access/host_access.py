"""Ways in which a pod reaches the identities of its node without NMI's decision. Pure.

Pods in the node's network are not redirected to NMI; a pod that can take over its node enters that network; NMI
forwards the requests of exempt pods; and on a node without NMI, IMDS answers every pod.

A writable path of the node counts unless `HARMLESS_WRITABLE` has it: programs of the node run, or trust, the files of
most paths. A read-only one counts if it contains one of `SECRETS`; any other one is undecided unless
`HARMLESS_READ_ONLY` has it. A capability that no table has is undecided.

Not evaluated, because none of them opens or closes a way alone: the profiles of seccomp, AppArmor and SELinux, the user
of a container, and sysctls, which belong to the pod's own namespaces. `mountPropagation: Bidirectional` is possible for
privileged containers only.
"""

import posixpath
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

from nmi.identity.exemptions import MIC
from podidctl.access.projections import ContainerSecurity, ReviewedPod, ReviewedPodSpec
from podidctl.access.schema import HostAccess, Way


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
    reason: str


TAKING_OVER: Final = {
    "ALL": "every capability",
    "BPF": "it loads programs into the kernel",
    "DAC_READ_SEARCH": "it opens each file of the node's disks by its handle",
    "SYS_ADMIN": "it mounts the node's disks and enters the namespaces of other processes",
    "SYS_MODULE": "it loads kernel modules",
    "SYS_RAWIO": "it writes to I/O ports and the machine's memory",
}
"""Capabilities, without the prefix `CAP_`, with which a container takes over its node."""
WITH_HOST_PID: Final = {"SYS_PTRACE": "it reads and changes every process of the node"}
"""With `hostPID`."""
WITH_HOST_NETWORK: Final = {
    "NET_ADMIN": "it redirects requests of the node's other pods",
    "NET_RAW": "it reads the tokens of the node's other pods from the network",
}
"""With `hostNetwork`."""

_BY_DEFAULT: Final = "container runtimes give it by default"
_OWN_NAMESPACES: Final = "it has an effect in the pod's own namespaces only"
_LIMITS: Final = "it changes limits, priorities and locks of processes that the container reaches anyway"
HARMLESS_CAPABILITIES: Final = {
    **dict.fromkeys(
        (
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ),
        _BY_DEFAULT,
    ),
    **dict.fromkeys(("IPC_OWNER", "NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE"), _OWN_NAMESPACES),
    **dict.fromkeys(("IPC_LOCK", "LEASE", "LINUX_IMMUTABLE", "SYS_NICE", "SYS_RESOURCE"), _LIMITS),
}
UNDECIDED_CAPABILITIES: Final = {
    "MAC_ADMIN": "it changes the profiles of AppArmor or SELinux",
    "PERFMON": "it samples the memory of other processes, as far as the kernel's settings permit",
    "SYS_BOOT": "it starts another kernel unless a seccomp profile prevents it",
}
"""Reasons of undecided ones."""
UNDECIDED_CAPABILITY_REASON: Final = "it has an effect on the whole node"

Setting: TypeAlias = tuple[Effect, HostAccess]

PRIVILEGED_REASON: Final = "it has every capability, and every device of the node"
HOST_PROCESS_REASON: Final = "its processes are processes of the node"
UNMASKED: Final = "Unmasked"
UNMASKED_REASON: Final = "it writes to the kernel's settings, such as the program that the kernel starts for a crash"
USER_NAMESPACE_REASON: Final = "it is harmless if the node's runtime supports user namespaces"
HOST_IPC_REASON: Final = "it shares memory with programs of the node and other pods that use the node's IPC namespace"
NET_RAW: Final = "NET_RAW"
DEFAULT_RAW_REASON: Final = f"most container runtimes give it by default: {WITH_HOST_NETWORK[NET_RAW]}"

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
PROCESSES_REASON: Final = "it reads the environment and the files of the other pods' processes"
WRITABLE_REASON: Final = "a program of the node may run or trust what the pod writes there"
READ_ONLY_REASON: Final = "it is not known whether there are credentials or sockets"

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


def host_access(pod: ReviewedPod, exempt: str, *, nmi_missing: str = "") -> list[HostAccess]:
    """Return the ways, in the order of `Way`. *exempt*: why NMI exempts the pod; *nmi_missing*: why its
    node has no NMI, so that IMDS responds to the pod.
    """
    ways = [HostAccess(way=Way.HOST_NETWORK)] if pod.spec.host_network else []
    ways += [access for effect, access in _node_settings(pod.spec) if effect is Effect.TAKES_OVER]
    # NMI refuses a mirror pod, whatever exception matches it.
    if exempt == MIC and not pod.mirror:
        ways.append(HostAccess(way=Way.MIC))
    elif exempt and not pod.mirror:
        ways.append(HostAccess(way=Way.EXCEPTION, detail=exempt.removeprefix("exception ")))
    if nmi_missing:
        ways.append(HostAccess(way=Way.NO_NMI, detail=nmi_missing))
    return ways


def undecided_access(pod: ReviewedPod) -> list[HostAccess]:
    """Return the settings by which the pod may reach them, depending on facts that the API server does not show."""
    return [access for effect, access in _node_settings(pod.spec) if effect is Effect.UNDECIDED]


def _node_settings(spec: ReviewedPodSpec) -> list[Setting]:
    """Return the settings that are not harmless, in the order of `Way`."""
    order = list(Way)
    return sorted(set(_settings(spec)), key=lambda setting: (order.index(setting[1].way), setting[1].detail))


def _settings(spec: ReviewedPodSpec) -> Iterator[Setting]:
    securities = [container.security_context or ContainerSecurity() for container in spec.all_containers]
    if any(security.privileged for security in securities):
        yield Effect.TAKES_OVER, HostAccess(way=Way.PRIVILEGED, why=PRIVILEGED_REASON)
    if any(security.is_host_process for security in (*securities, spec.security_context or ContainerSecurity())):
        yield Effect.TAKES_OVER, HostAccess(way=Way.HOST_PROCESS, why=HOST_PROCESS_REASON)
    yield from _by_capabilities(spec, securities)
    if spec.host_ipc:
        yield Effect.UNDECIDED, HostAccess(way=Way.HOST_IPC, why=HOST_IPC_REASON)
    if any(security.proc_mount == UNMASKED for security in securities):
        effect, reason = (
            (Effect.UNDECIDED, USER_NAMESPACE_REASON)
            if spec.host_users is False
            else (Effect.TAKES_OVER, UNMASKED_REASON)
        )
        yield effect, HostAccess(way=Way.PROC_MOUNT, detail=UNMASKED, why=reason)
    for path, read_only in _mounted_paths(spec).items():
        effect, reason = path_effect(path, read_only=read_only)
        if effect is not Effect.HARMLESS:
            yield effect, HostAccess(way=Way.HOST_PATH, detail=path, why=reason)


def _by_capabilities(spec: ReviewedPodSpec, securities: list[ContainerSecurity]) -> Iterator[Setting]:
    """Yield the capabilities, and `hostPID`, whose detail is the capability that extends it."""
    added = frozenset[str]().union(*(security.added for security in securities))
    takes_over = TAKING_OVER | (WITH_HOST_NETWORK if spec.host_network else {})
    for name in added:
        if (reason := takes_over.get(name)) is not None:
            yield Effect.TAKES_OVER, HostAccess(way=Way.CAPABILITY, detail=name, why=reason)
        elif name not in HARMLESS_CAPABILITIES:
            reason = UNDECIDED_CAPABILITIES.get(name, UNDECIDED_CAPABILITY_REASON)
            yield Effect.UNDECIDED, HostAccess(way=Way.CAPABILITY, detail=name, why=reason)
    keeps_raw = any(security.dropped.isdisjoint({"ALL", NET_RAW}) for security in securities)
    if spec.host_network and keeps_raw and NET_RAW not in added:
        yield Effect.UNDECIDED, HostAccess(way=Way.CAPABILITY, detail=NET_RAW, why=DEFAULT_RAW_REASON)
    if spec.host_pid:
        # One entry for both: the capability has this effect with hostPID only.
        traced = next((name for name in WITH_HOST_PID if name in added), "")
        reason = WITH_HOST_PID.get(traced, PROCESSES_REASON)
        yield Effect.TAKES_OVER, HostAccess(way=Way.HOST_PID, detail=traced, why=reason)


def _mounted_paths(spec: ReviewedPodSpec) -> dict[str, bool]:
    """Return the paths of the node that containers mount, and whether every mount is read-only.

    The whole volume counts, also if a container mounts a part of it (`subPath`).
    """
    paths = {volume.name: volume.host_path.path for volume in spec.volumes or () if volume.host_path is not None}
    mounted: dict[str, bool] = {}
    for container in spec.all_containers:
        for mount in container.volume_mounts or ():
            if path := paths.get(mount.name, ""):
                mounted[path] = bool(mount.read_only) and mounted.get(path, True)
    return mounted


_PROCESS_ROOT: Final = re.compile(r"\A(?:/proc/[^/]+(?:/task/[^/]+)?/(?:root|cwd)(?=/|\Z))+")
_OLD_RUN: Final = re.compile(r"\A/var/(run|lock)(?=/|\Z)")
_RUN: Final = {"run": "/run", "lock": "/run/lock"}


def path_effect(path: str, *, read_only: bool) -> PathEffect:
    """Return what a pod gets that mounts *path* of its node."""
    real = _real_path(path)
    # First, because some of these are below a directory in SECRETS.
    for harmless, reason in (HARMLESS_READ_ONLY if read_only else HARMLESS_WRITABLE).items():
        if _contains(harmless, real):
            return PathEffect(Effect.HARMLESS, reason)
    for undecided, reason in UNDECIDED_READ_ONLY.items() if read_only else ():
        if _contains(undecided, real):
            return PathEffect(Effect.UNDECIDED, reason)
    for secret, reason in SECRETS.items():
        if _contains(secret, real) or _contains(real, secret):
            return PathEffect(Effect.TAKES_OVER, reason if read_only else WRITABLE_SECRETS.get(secret, reason))
    if real == PROCESSES:
        return PathEffect(Effect.TAKES_OVER, PROCESSES_REASON)
    return (
        PathEffect(Effect.UNDECIDED, READ_ONLY_REASON) if read_only else PathEffect(Effect.TAKES_OVER, WRITABLE_REASON)
    )


def _real_path(path: str) -> str:
    """Return the path of the node that *path* names, also through the root directory of one of its processes."""
    normal = _PROCESS_ROOT.sub("", "/" + posixpath.normpath(path).lstrip("/")) or "/"
    return _OLD_RUN.sub(lambda match: _RUN[match[1]], normal)


def _contains(directory: str, path: str) -> bool:
    """Return whether *path* is *directory* or below it."""
    return (path.rstrip("/") + "/").startswith(directory.rstrip("/") + "/")
