"""Projection of pods with the fields that only the access review reads."""

from typing import Final

import msgspec

from podidctl.facts.kinds import HostPath, VariableContainer, VariablePod, VariablePodSpec
from podidentity.resources import Kind, Wire


class Capabilities(Wire, frozen=True):
    add: list[str] | None = None
    drop: list[str] | None = None


class WindowsOptions(Wire, frozen=True):
    host_process: bool | None = None


class ContainerSecurity(Wire, frozen=True):
    """The security context of a container, or the Windows options in that of a pod."""

    privileged: bool | None = None
    capabilities: Capabilities | None = None
    proc_mount: str | None = None
    windows_options: WindowsOptions | None = None

    @property
    def added(self) -> frozenset[str]:
        """Added capabilities, without the prefix `CAP_`."""
        return _capability_names(self.capabilities.add) if self.capabilities is not None else frozenset()

    @property
    def dropped(self) -> frozenset[str]:
        return _capability_names(self.capabilities.drop) if self.capabilities is not None else frozenset()

    @property
    def is_host_process(self) -> bool:
        return self.windows_options is not None and bool(self.windows_options.host_process)


def _capability_names(names: list[str] | None) -> frozenset[str]:
    return frozenset(name.upper().removeprefix("CAP_") for name in names or ())


class VolumeMount(Wire, frozen=True):
    name: str = ""
    read_only: bool | None = None


class ReviewedContainer(VariableContainer, frozen=True):
    security_context: ContainerSecurity | None = None
    volume_mounts: list[VolumeMount] | None = None


class Volume(Wire, frozen=True):
    name: str = ""
    host_path: HostPath | None = None


class ReviewedPodSpec(VariablePodSpec, frozen=True):
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    host_users: bool | None = None
    """False in a user namespace of its own."""
    security_context: ContainerSecurity | None = None
    containers: list[ReviewedContainer] | None = None
    init_containers: list[ReviewedContainer] | None = None
    ephemeral_containers: list[ReviewedContainer] | None = None
    volumes: list[Volume] | None = None

    @property
    def all_containers(self) -> list[ReviewedContainer]:
        return [*(self.containers or ()), *(self.init_containers or ()), *(self.ephemeral_containers or ())]


class ReviewedPod(VariablePod, frozen=True):
    """A pod with the fields that can give it access to its host."""

    spec: ReviewedPodSpec = ReviewedPodSpec()


REVIEWED_PODS: Final = Kind("Pod", "pods", ReviewedPod)
