"""Which identity a pod gets that has several and whose requests may name none. Pure.

NMI sees the request only; a container that sets AZURE_CLIENT_ID lets Azure's SDKs name one. An application can also
name one in its code, which no object shows.
"""

from collections.abc import Sequence
from typing import Final

from podidentity.resources import Kind, Pod, PodSpec, Wire

CLIENT_ID_VARIABLE: Final = "AZURE_CLIENT_ID"
NAME_ONE: Final = f"let the application name the client id of its identity in each request ({CLIENT_ID_VARIABLE})"
"""Advice for a pod with several identities."""
FOREIGN_ADVICE: Final = (
    "if that is not intended, delete these bindings and see who may create them (podidctl access); --forceNamespaced "
    "makes each binding serve its own namespace only"
)
"""Advice for a pod that bindings of another namespace select."""


class Variable(Wire, frozen=True):
    name: str = ""


class VariableSource(Wire, frozen=True):
    """A ConfigMap or a Secret whose keys are variables."""

    prefix: str = ""


class VariableContainer(Wire, frozen=True):
    """A container with the names of its environment variables."""

    env: list[Variable] | None = None
    env_from: list[VariableSource] | None = None


class VariablePodSpec(PodSpec, frozen=True):
    containers: Sequence[VariableContainer] | None = None
    init_containers: Sequence[VariableContainer] | None = None


class VariablePod(Pod, frozen=True):
    """A pod with the names of its environment variables."""

    spec: VariablePodSpec = VariablePodSpec()


VARIABLE_PODS: Final = Kind("Pod", "pods", VariablePod)


def sets_client_id(pod: Pod) -> bool | None:
    """Return whether a container of *pod* sets AZURE_CLIENT_ID.

    None if a ConfigMap or a Secret may set it; False if the variables were not read.
    """
    spec = pod.spec if isinstance(pod, VariablePod) else VariablePodSpec()
    containers = [*(spec.containers or ()), *(spec.init_containers or ())]
    if any(variable.name == CLIENT_ID_VARIABLE for each in containers for variable in each.env or ()):
        return True
    sources = (source for each in containers for source in each.env_from or ())
    return None if any(CLIENT_ID_VARIABLE.startswith(source.prefix) for source in sources) else False
