"""Pod objects for the NMI and MIC processes of a sandbox, so that `podidctl explain` and `podidctl doctor` find them.

The processes are not started by a kubelet. Their pods correspond to static pods: the kubelet of the node serves their
logs and does not run them.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from podidentity.kube.client import MERGE_PATCH
from podidentity.kube.errors import ApiError, NotFound
from podidentity.resources import PODS
from podidentity.version import VERSION
from podidentity_sandbox.cluster import Cluster
from podidentity_sandbox.daemon_accounts import ACCOUNTS
from podidentity_sandbox.settings import NAMESPACE

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonPod:
    """One process, described as a pod. `is_ready` blocks while it probes the process."""

    name: str
    program: str
    node: str
    address: str
    flags: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]

    def document(self) -> dict[str, Any]:
        """Return the pod's manifest."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "labels": {
                    "app.kubernetes.io/name": "aad-pod-identity",
                    "app.kubernetes.io/component": self.program,
                },
            },
            "spec": {
                "nodeName": self.node,
                "hostNetwork": True,
                "serviceAccountName": ACCOUNTS[self.program],
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": self.program,
                        "image": f"aad-pod-identity/{self.program}:{VERSION}",
                        "args": list(self.flags),
                        "env": [{"name": name, "value": value} for name, value in self.environment.items()],
                    }
                ],
            },
        }

    def status(self, *, ready: bool, now: float) -> dict[str, Any]:
        """Return the pod's status at *now*, in Unix seconds."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        conditions = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        return {
            "phase": "Running",
            "hostIP": self.address,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": moment,
            "conditions": [
                {"type": kind, "status": str(value), "lastTransitionTime": moment} for kind, value in conditions.items()
            ],
            "containerStatuses": [
                {
                    "name": self.program,
                    "image": f"aad-pod-identity/{self.program}:{VERSION}",
                    "imageID": "",
                    "ready": ready,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": moment}},
                }
            ],
        }


class DaemonPods:
    """Keeps the pod objects of *pods* in the API server, with their readiness, from `start` to `stop`."""

    def __init__(self, cluster: Cluster, pods: Sequence[DaemonPod], *, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._pods = pods
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the pods. Raise ApiError."""
        await self._publish()
        self._task = asyncio.create_task(self._run(), name="pods of MIC and NMI")

    async def stop(self) -> None:
        """Delete the pods."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        for pod in self._pods:
            try:
                await self._delete(pod)
            except NotFound:
                continue
            except ApiError as error:
                log.warning(
                    "a pod of the sandbox is left on the API server; delete it", extra={"pod": pod.name, "error": error}
                )

    async def _publish(self) -> None:
        """Create the pods that are missing, and write each status that differs. Raise ApiError."""
        for pod in self._pods:
            ready = await asyncio.to_thread(pod.is_ready)
            published = await self._readiness(pod)
            if published is None:
                self._cluster.kubelets[pod.node].static_logs[NAMESPACE, pod.name] = pod.log
                await self._cluster.apply(pod.document())
            elif published == ready:
                continue
            body = msgspec.json.encode({"status": pod.status(ready=ready, now=self._clock())})
            path = PODS.path(NAMESPACE, pod.name, "status")
            await self._cluster.client.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def _run(self) -> NoReturn:
        """Publish every second until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._publish()
            except ApiError as error:
                log.warning("cannot write the pods of NMI and MIC; they are written again", extra={"error": error})

    async def _readiness(self, pod: DaemonPod) -> bool | None:
        """Return whether the existing pod is ready; None if it does not exist. Complete its deletion, as a kubelet
        does, if a client has requested one.
        """
        try:
            found = msgspec.json.decode(await self._cluster.client.request("GET", PODS.path(NAMESPACE, pod.name)))
            if not found["metadata"].get("deletionTimestamp"):
                conditions = found.get("status", {}).get("conditions") or ()
                return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
            await self._delete(pod)
        except NotFound:
            pass
        return None

    async def _delete(self, pod: DaemonPod) -> None:
        body = msgspec.json.encode({"gracePeriodSeconds": 0})
        path = PODS.path(NAMESPACE, pod.name)
        await self._cluster.client.request("DELETE", path, body=body, content_type="application/json")
