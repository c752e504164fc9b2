"""Projections of a pod: the fields that the sandbox's scheduler and kubelet read, and the status that it writes."""

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from podidentity.resources import Kind, Pod, PodSpec, Wire

DEFAULT_SCHEDULER: Final = "default-scheduler"


class FieldRef(Wire, frozen=True):
    field_path: str = ""


class KeyRef(Wire, frozen=True):
    name: str = ""
    key: str = ""


class EnvSource(Wire, frozen=True):
    field_ref: FieldRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(Wire, frozen=True):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class VolumeMount(Wire, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False


class HttpGet(Wire, frozen=True):
    path: str = "/"
    port: int | str = 80


class Probe(Wire, frozen=True):
    http_get: HttpGet | None = None


class Port(Wire, frozen=True):
    container_port: int
    name: str = ""


class Capabilities(Wire, frozen=True):
    add: list[str] = msgspec.field(default_factory=list)
    drop: list[str] = msgspec.field(default_factory=list)


class SecurityContext(Wire, frozen=True):
    run_as_user: int | None = None
    read_only_root_filesystem: bool = False
    privileged: bool = False
    capabilities: Capabilities = Capabilities()


class Container(Wire, frozen=True):
    name: str
    image: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)
    env: list[EnvVar] = msgspec.field(default_factory=list)
    ports: list[Port] = msgspec.field(default_factory=list)
    volume_mounts: list[VolumeMount] = msgspec.field(default_factory=list)
    readiness_probe: Probe | None = None
    security_context: SecurityContext = SecurityContext()


class HostPath(Wire, frozen=True):
    path: str
    type: str = ""


class SecretVolume(Wire, frozen=True):
    secret_name: str


class ConfigMapVolume(Wire, frozen=True):
    name: str


class Volume(Wire, frozen=True):
    name: str
    host_path: HostPath | None = None
    empty_dir: dict[str, Any] | None = None
    secret: SecretVolume | None = None
    config_map: ConfigMapVolume | None = None


class NodePodSpec(PodSpec, frozen=True):
    init_containers: list[Container] = msgspec.field(default_factory=list)
    containers: list[Container] = msgspec.field(default_factory=list)
    volumes: list[Volume] = msgspec.field(default_factory=list)
    restart_policy: str = "Always"
    scheduler_name: str = DEFAULT_SCHEDULER
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    service_account_name: str = "default"
    automount_service_account_token: bool | None = None


class NodePod(Pod, frozen=True):
    spec: NodePodSpec = NodePodSpec()


NODE_PODS: Final = Kind("Pod", "pods", NodePod)


def pod_status(
    images: Mapping[str, str], phase: str = "Running", *, host: str, address: str, ready: bool, now: float
) -> dict[str, Any]:
    """Return the status of a pod with these containers (name -> image) at *now*, in Unix seconds."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    running = phase == "Running"
    ready = running and ready
    state = (
        {"running": {"startedAt": moment}}
        if running
        else {"terminated": {"exitCode": 1 if phase == "Failed" else 0, "finishedAt": moment}}
    )
    conditions = {"Initialized": running, "PodScheduled": running, "Ready": ready, "ContainersReady": ready}
    return {
        "phase": phase,
        "hostIP": host,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": moment,
        "conditions": [
            {"type": kind, "status": str(value), "lastTransitionTime": moment} for kind, value in conditions.items()
        ],
        "containerStatuses": [
            {
                "name": name,
                "image": image,
                "imageID": "",
                "ready": ready,
                "started": running,
                "restartCount": 0,
                "state": state,
            }
            for name, image in images.items()
        ],
    }
