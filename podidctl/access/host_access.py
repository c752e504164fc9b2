"""Ways in which a pod reaches the identities of its node without NMI's decision. Pure.

Pods in the node's network are not redirected to NMI; a pod that can take over its node enters that network; NMI
forwards the requests of exempt pods; and on a node without NMI, IMDS answers every pod.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Final

from nmi.identity.exemptions import MIC
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import HostAccess, Way

CAPABILITIES: Final = frozenset({"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF"})
"""Capabilities with which a container can leave its isolation."""
PTRACE: Final = frozenset({"SYS_PTRACE"})
"""With `hostPID`, gives access to every process of the node."""

READ_PATHS: Final = (
    "/etc/kubernetes",
    "/root",
    "/run/aad-pod-identity",
    "/run/containerd",
    "/run/crio",
    "/run/docker.sock",
    "/var/lib/kubelet",
    "/var/lib/waagent",
    "/var/run/aad-pod-identity",
    "/var/run/containerd",
    "/var/run/crio",
    "/var/run/docker.sock",
)
"""Credentials of the kubelet, the pods and Azure's agent, and sockets of container runtimes and of NMI's handover. A
read-only mount does not protect them."""
WRITE_PATHS: Final = (
    *READ_PATHS,
    "/bin",
    "/boot",
    "/dev",
    "/etc/cni",
    "/etc/cron.d",
    "/etc/crontab",
    "/etc/ld.so.preload",
    "/etc/passwd",
    "/etc/ssh",
    "/etc/sudoers",
    "/etc/systemd",
    "/home",
    "/lib",
    "/lib64",
    "/opt/cni",
    "/proc",
    "/run/dbus",
    "/run/systemd",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/run/dbus",
    "/var/spool/cron",
)
"""Paths with which a writing pod runs its code on the node."""
_PROCESS_ROOT: Final = re.compile(r"\A(?:/proc/[^/]+/(?:root|cwd)(?=/|\Z))+")


def host_access(pod: ReviewedPod, exempt: str, *, nmi_missing: str = "") -> list[HostAccess]:
    """Return the ways, in the order of `Way`. *exempt*: why NMI exempts the pod; *nmi_missing*: why its
    node has no NMI, so that IMDS responds to the pod.
    """
    return list(_ways(pod, "" if pod.mirror else exempt, nmi_missing=nmi_missing))


def _ways(pod: ReviewedPod, exempt: str, *, nmi_missing: str) -> Iterator[HostAccess]:
    spec = pod.spec
    securities = [each.security_context for each in spec.all_containers if each.security_context is not None]
    added = {
        each.upper().removeprefix("CAP_")
        for security in securities
        if security.capabilities is not None
        for each in security.capabilities.add or ()
    }
    if spec.host_network:
        yield HostAccess(way=Way.HOST_NETWORK)
    if any(each.privileged for each in securities):
        yield HostAccess(way=Way.PRIVILEGED)
    if dangerous := sorted(added & CAPABILITIES):
        yield HostAccess(way=Way.CAPABILITY, detail=", ".join(dangerous))
    if spec.host_pid and added & PTRACE:
        yield HostAccess(way=Way.HOST_PID, detail=", ".join(sorted(PTRACE)))
    if paths := sorted(set(_dangerous_paths(pod))):
        yield HostAccess(way=Way.HOST_PATH, detail=", ".join(paths))
    if exempt:
        yield (
            HostAccess(way=Way.MIC)
            if exempt == MIC
            else HostAccess(way=Way.EXCEPTION, detail=exempt.removeprefix("exception "))
        )
    if nmi_missing:
        yield HostAccess(way=Way.NO_NMI, detail=nmi_missing)


def _dangerous_paths(pod: ReviewedPod) -> Iterator[str]:
    paths = {each.name: each.host_path.path for each in pod.spec.volumes or () if each.host_path is not None}
    if not paths:
        return
    for container in pod.spec.all_containers:
        for mount in container.volume_mounts or ():
            path = paths.get(mount.name, "")
            critical = READ_PATHS if mount.read_only else WRITE_PATHS
            if path and any(_overlap(_real_path(path), each) for each in critical):
                yield path


def _real_path(path: str) -> str:
    """Return the path of the node that *path* names, also through the root directory of one of its processes."""
    normal = "/" + posixpath.normpath(path).lstrip("/")
    return _PROCESS_ROOT.sub("", normal) or "/"


def _overlap(one: str, other: str) -> bool:
    """Return whether one path is the other or contains it."""
    first, second = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return first.startswith(second) or second.startswith(first)
