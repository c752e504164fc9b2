"""Settings with which a pod takes over its node, or may do so. Pure.

Not evaluated, because none of them opens or closes a way alone: the profiles of seccomp, AppArmor and SELinux, the user
of a container, and sysctls, which belong to the pod's own namespaces. `mountPropagation: Bidirectional` is possible for
privileged containers only.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from podidctl.access import capabilities
from podidctl.access.host_paths import PROCESSES_WHY, Effect, path_effect
from podidctl.access.projections import ContainerSecurity, ReviewedPodSpec
from podidctl.access.schema import HostAccess, Way

Setting: TypeAlias = tuple[Effect, HostAccess]

PRIVILEGED_WHY: Final = "it has every capability, and every device of the node"
HOST_PROCESS_WHY: Final = "its processes are processes of the node"
UNMASKED: Final = "Unmasked"
UNMASKED_WHY: Final = "it writes to the kernel's settings, such as the program that the kernel starts for a crash"
USER_NAMESPACE_WHY: Final = "it is harmless if the node's runtime supports user namespaces"
HOST_IPC_WHY: Final = "it shares memory with programs of the node and other pods that use the node's IPC namespace"
NET_RAW: Final = "NET_RAW"
DEFAULT_RAW_WHY: Final = f"most container runtimes give it by default: {capabilities.WITH_HOST_NETWORK[NET_RAW]}"


def node_settings(spec: ReviewedPodSpec) -> list[Setting]:
    """Return the settings that are not harmless, in the order of `Way`."""
    order = list(Way)
    return sorted(set(_settings(spec)), key=lambda setting: (order.index(setting[1].way), setting[1].detail))


def _settings(spec: ReviewedPodSpec) -> Iterator[Setting]:
    securities = [container.security_context or ContainerSecurity() for container in spec.all_containers]
    if any(security.privileged for security in securities):
        yield Effect.TAKES_OVER, HostAccess(way=Way.PRIVILEGED, why=PRIVILEGED_WHY)
    if any(security.is_host_process for security in (*securities, spec.security_context or ContainerSecurity())):
        yield Effect.TAKES_OVER, HostAccess(way=Way.HOST_PROCESS, why=HOST_PROCESS_WHY)
    yield from _by_capabilities(spec, securities)
    if spec.host_ipc:
        yield Effect.UNDECIDED, HostAccess(way=Way.HOST_IPC, why=HOST_IPC_WHY)
    if any(security.proc_mount == UNMASKED for security in securities):
        effect, why = (
            (Effect.UNDECIDED, USER_NAMESPACE_WHY) if spec.host_users is False else (Effect.TAKES_OVER, UNMASKED_WHY)
        )
        yield effect, HostAccess(way=Way.PROC_MOUNT, detail=UNMASKED, why=why)
    for path, read_only in _mounted_paths(spec).items():
        effect, why = path_effect(path, read_only=read_only)
        if effect is not Effect.HARMLESS:
            yield effect, HostAccess(way=Way.HOST_PATH, detail=path, why=why)


def _by_capabilities(spec: ReviewedPodSpec, securities: list[ContainerSecurity]) -> Iterator[Setting]:
    """Yield the capabilities, and `hostPID`, whose detail is the capability that extends it."""
    added = frozenset[str]().union(*(security.added for security in securities))
    takes_over = capabilities.TAKES_OVER | (capabilities.WITH_HOST_NETWORK if spec.host_network else {})
    for name in added:
        if (why := takes_over.get(name)) is not None:
            yield Effect.TAKES_OVER, HostAccess(way=Way.CAPABILITY, detail=name, why=why)
        elif name not in capabilities.HARMLESS:
            why = capabilities.UNDECIDED.get(name, capabilities.UNDECIDED_WHY)
            yield Effect.UNDECIDED, HostAccess(way=Way.CAPABILITY, detail=name, why=why)
    keeps_raw = any(security.dropped.isdisjoint({"ALL", NET_RAW}) for security in securities)
    if spec.host_network and keeps_raw and NET_RAW not in added:
        yield Effect.UNDECIDED, HostAccess(way=Way.CAPABILITY, detail=NET_RAW, why=DEFAULT_RAW_WHY)
    if spec.host_pid:
        traced = next((name for name in capabilities.WITH_HOST_PID if name in added), "")
        why = capabilities.WITH_HOST_PID.get(traced, PROCESSES_WHY)
        yield Effect.TAKES_OVER, HostAccess(way=Way.HOST_PID, detail=traced, why=why)


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
