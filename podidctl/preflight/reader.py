"""Reader of the state before the installation: GETs, lists, and one dry run that stores nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from podidctl.facts.kinds import PLACED_NODES, Daemon
from podidctl.facts.model import Facts, ReadFailure
from podidctl.preflight.state import (
    CILIUM_GROUP,
    CONFIG_MAPS,
    PORT_PODS,
    REDIRECT_POLICIES,
    SYSTEM,
    ClusterState,
    Path,
    Trial,
)
from podidctl.reading.daemons import list_daemons
from podidctl.reading.objects import RUNNING
from podidctl.reading.reader import SERVER, read, reads
from podidctl.reading.requests import decoded, or_failure, or_none
from podidctl.verify.canary_outcome import UNAUTHORIZED
from podidentity.kube.client import Client
from podidentity.kube.errors import REFUSED_WRITES, ApiError, NotFound
from podidentity.kube.paths import object_path
from podidentity.resources import PODS
from podidentity.version import VERSION

_UNDECIDED: Final = ("does not support dry run", "error looking up service account")
"""Parts of refusals that are no decision about the pod: of a webhook, and in the first second of a namespace."""


class _Named(msgspec.Struct):
    name: str


class _Groups(msgspec.Struct):
    groups: list[_Named]


class _Resources(msgspec.Struct):
    resources: list[_Named]


async def read_state(client: Client, namespace: str, repository: str = "") -> ClusterState:
    """Return the state of the cluster. Raises ApiError if the API server does not respond or rejects the
    credentials.
    """
    facts = await read(client, Facts(), (SERVER, reads("nmi", _labelled)))
    state = ClusterState(
        namespace,
        repository,
        facts,
        nodes=await or_failure(client.list(PLACED_NODES)),
        groups=await or_failure(_groups(client)),
        pods=await or_failure(client.list(PORT_PODS, field_selector=RUNNING)),
    )
    if state.has_cilium:
        state = replace(
            state,
            redirect_policies=await or_failure(_has_redirect_policies(client)),
            cilium=await or_failure(_cilium_configuration(client)),
        )
    return replace(state, trial=await or_failure(_try_pod(client, state)))


async def _labelled(client: Client, _: Facts) -> tuple[Daemon, ...]:
    return tuple(await list_daemons(client, "nmi"))


async def _groups(client: Client) -> frozenset[str]:
    response = decoded(await client.request("GET", "/apis"), _Groups, "the API groups")
    return frozenset(group.name for group in response.groups)


async def _has_redirect_policies(client: Client) -> bool:
    response = decoded(await client.request("GET", f"/apis/{CILIUM_GROUP}/v2"), _Resources, "Cilium's resources")
    return any(resource.name == REDIRECT_POLICIES for resource in response.resources)


async def _cilium_configuration(client: Client) -> Mapping[str, str] | None:
    config = await or_none(client.get(CONFIG_MAPS, SYSTEM, "cilium-config"))
    return None if config is None else config.data or {}


async def _try_pod(client: Client, state: ClusterState) -> Trial | ReadFailure:
    """Return whether the API server, with all its admission plugins and webhooks, accepts a pod like NMI's."""
    body = msgspec.json.encode(pod_like_nmi(state))
    try:
        path = object_path(PODS, state.namespace)
        await client.request("POST", path, params={"dryRun": "All"}, body=body)
    except NotFound as error:
        return Trial(
            accepted=False,
            reason=error.message,
            then=f"create the namespace and label it: kubectl create namespace {state.namespace}, then kubectl label "
            f"namespace {state.namespace} pod-security.kubernetes.io/enforce=privileged; then run this command again",
        )
    except ApiError as error:
        # RBAC decides before admission, so such a refusal shows nothing about policies.
        if error.status not in REFUSED_WRITES or UNAUTHORIZED in error.message:
            raise
        if any(text in error.message for text in _UNDECIDED):
            return ReadFailure(f"the dry run was not decided: {error.message}", is_forbidden=False)
        quota = "raise the quota of the namespace" if "exceeded quota" in error.message else ""
        return Trial(accepted=False, reason=error.message, then=quota)
    return Trial(accepted=True)


def pod_like_nmi(state: ClusterState) -> dict[str, Any]:
    """Return a pod as the chart's DaemonSet creates it on this data plane, as far as policies look at it.

    Its service account is `default`, because the chart's does not exist yet.
    """
    own_network = state.path is Path.BYPASSES
    files = {"kubelet-config": ("/etc/default/kubelet", "FileOrCreate")}
    if not own_network:
        files |= {
            "iptableslock": ("/run/xtables.lock", "FileOrCreate"),
            "handover": ("/run/aad-pod-identity", "DirectoryOrCreate"),
        }
    mounts = [
        {"name": name, "mountPath": path} | ({"readOnly": True} if name == "kubelet-config" else {})
        for name, (path, _) in files.items()
    ]
    volumes = [{"name": name, "hostPath": {"path": path, "type": kind}} for name, (path, kind) in files.items()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "aad-pod-identity-preflight",
            "labels": {"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/managed-by": "podidctl"},
        },
        "spec": {
            **({} if own_network else {"hostNetwork": True}),
            "dnsPolicy": "ClusterFirst" if own_network else "ClusterFirstWithHostNet",
            "priorityClassName": "system-node-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "nmi",
                    "image": f"{state.repository or 'registry.invalid/aad-pod-identity'}/nmi:{VERSION}",
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8085}, "periodSeconds": 5},
                    "readinessProbe": {"httpGet": {"path": "/healthz?readiness", "port": 8085}, "periodSeconds": 2},
                    "securityContext": {
                        "runAsUser": 0,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]} | ({} if own_network else {"add": ["NET_ADMIN", "NET_RAW"]}),
                    },
                    "resources": {
                        "limits": {"cpu": "1", "memory": "512Mi"},
                        "requests": {"cpu": "100m", "memory": "256Mi"},
                    },
                    "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the pod
                }
            ],
            "volumes": [*volumes, {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
        },
    }
