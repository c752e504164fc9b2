"""The sandbox's kubelet, one per node: gives pods a place, runs the demo program, says so in their status, ends them.

It speaks HTTP like the real one, so it serves the emulator and a real API server alike. The only image that it runs is
the demo's (`podidctl.demo_pod`); a pod of any other image is a place with an address, for people and tests to run
programs in.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from podidctl.sandbox.network import Network, Place
from podidctl.sandbox.processes import Program, ProgramError, python
from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.kube.errors import ApiError, Conflict, NotFound
from podidentity.kube.informer import Informer
from podidentity.resources import Kind, Pod, PodSpec, Wire

log = logging.getLogger(__name__)

DEMO_IMAGE: Final = re.compile(r".*aad-pod-identity/demo([:@].*)?")
RETRY_SECONDS: Final = 0.5
RESTART_SECONDS: Final = 1.0  # before a program that ended is started again
STOP_SECONDS: Final = 2.0  # what a pod's program may take to end; the demo's has nothing to save
FOLLOW_SECONDS: Final = 0.2  # how often a log that is followed is read


class FieldRef(Wire, frozen=True):
    field_path: str = ""


class EnvSource(Wire, frozen=True):
    field_ref: FieldRef | None = None


class EnvVar(Wire, frozen=True):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class Container(Wire, frozen=True):
    name: str
    image: str = ""
    args: list[str] = msgspec.field(default_factory=list)
    env: list[EnvVar] = msgspec.field(default_factory=list)


class NodePodSpec(PodSpec, frozen=True):
    """What a kubelet needs to know of a pod."""

    containers: list[Container] = msgspec.field(default_factory=list)
    restart_policy: str = "Always"


class NodePod(Pod, frozen=True):
    spec: NodePodSpec = NodePodSpec()


NODE_PODS: Final = Kind("Pod", "pods", NodePod)

Running = Callable[[str, NodePod, Place], None]
"""Told of each pod (its node, itself, its place) when it runs."""


class _Sitter:
    """What the kubelet holds of one pod (by uid): its task, its place and programs, and the order to end it."""

    def __init__(self, pod: NodePod) -> None:
        self.pod = pod
        self.place: Place | None = None
        self.programs: dict[str, Program] = {}
        self.end = asyncio.Event()
        self.gone = False
        """The object is gone already: there is nothing left to delete."""


class Kubelet:
    """The pods of *node*; `run` is the task that does it all.

    *environment* is what every pod's program finds in its environment, beside what the pod itself says. *logs* is a
    folder for their output. *running* is told of each pod when it runs.
    """

    def __init__(
        self,
        client: Client,
        node: str,
        network: Network,
        *,
        host_address: str,
        logs: Path,
        environment: Mapping[str, str],
        running: Running | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self._client = client
        self._network = network
        self._host_address = host_address
        self._logs = logs
        self._environment = environment
        self._running = running
        self._clock = clock
        self._sitters: dict[str, _Sitter] = {}
        self._arrivals: asyncio.Queue[_Sitter] = asyncio.Queue()
        self._informer = Informer(client, NODE_PODS, self, field_selector=f"spec.nodeName={node}")

    def upserted(self, old: NodePod | None, new: NodePod) -> None:
        """A pod has come to this node, or has changed."""
        del old
        sitter = self._sitters.get(new.metadata.uid)
        if sitter is None:
            if new.finished:
                return
            sitter = self._sitters[new.metadata.uid] = _Sitter(new)
            self._arrivals.put_nowait(sitter)
        sitter.pod = new
        if new.metadata.deletion_timestamp is not None:
            sitter.end.set()

    def deleted(self, old: NodePod) -> None:
        """The pod is gone from the API server, whoever removed it."""
        sitter = self._sitters.get(old.metadata.uid)
        if sitter is not None:
            sitter.gone = True
            sitter.end.set()

    async def run(self) -> NoReturn:
        """Look after the node's pods until cancelled; then their programs are stopped and their places removed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name=f"watch pods of {self.node}")
            while True:
                sitter = await self._arrivals.get()
                tasks.create_task(self._sit(sitter), name=f"pod {'/'.join(sitter.pod.key)}")

    def place(self, namespace: str, name: str) -> Place | None:
        """Where the pod of this name runs, once it does."""
        return next((sitter.place for sitter in self._sitters.values() if sitter.pod.key == (namespace, name)), None)

    def log_file(self, namespace: str, name: str, container: str = "") -> Path | None:
        """The file with the output of the pod's container (the first, without *container*), or None without one."""
        for sitter in self._sitters.values():
            names = [known.name for known in sitter.pod.spec.containers]
            if sitter.pod.key == (namespace, name) and (container in names or (names and not container)):
                return self._log(sitter.pod, container or names[0])
        return None

    async def read_log(
        self, namespace: str, name: str, container: str = "", *, follow: bool, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """The output so far (of that the last *tail* lines), in pieces; with *follow* also what comes, to the end."""
        file, offset = self.log_file(namespace, name, container), 0
        while file is not None:
            piece = await asyncio.to_thread(_read, file, offset)
            offset += len(piece)
            if tail is not None:
                piece, tail = b"".join(piece.splitlines(keepends=True)[-tail:] if tail else []), None
            if piece:
                yield piece
            elif not follow:
                return
            else:
                await asyncio.sleep(FOLLOW_SECONDS)
                file = self.log_file(namespace, name, container)

    async def _sit(self, sitter: _Sitter) -> None:
        uid = sitter.pod.metadata.uid
        try:
            await self._begin(sitter)
            await self._watch_programs(sitter)
        finally:
            for program in sitter.programs.values():
                await program.stop(STOP_SECONDS)
            if not sitter.pod.spec.host_network:
                await asyncio.to_thread(self._network.remove_pod, self.node, uid)
            sitter.place = None
        if not sitter.gone and sitter.end.is_set():
            await self._delete(sitter.pod)
        del self._sitters[uid]

    async def _begin(self, sitter: _Sitter) -> None:
        pod = sitter.pod
        if sitter.end.is_set():
            return
        if pod.spec.host_network:
            sitter.place = Place(self._host_address)
        else:
            sitter.place = await asyncio.to_thread(self._network.add_pod, self.node, pod.metadata.uid)
        # The address is published before the program starts: NMI may know the pod when its first request comes.
        await self._publish(sitter, "Running")
        if self._running is not None:
            self._running(self.node, pod, sitter.place)
        for container in pod.spec.containers:
            if DEMO_IMAGE.fullmatch(container.image) and not sitter.end.is_set():
                await self._start(sitter, container)

    async def _start(self, sitter: _Sitter, container: Container) -> None:
        if sitter.place is None:
            return
        environment = {**self._environment, **self._declared(sitter.pod, container, sitter.place)}
        try:
            sitter.programs[container.name] = await Program.start(
                f"pod {'/'.join(sitter.pod.key)}",
                python("podidctl.demo_pod", *container.args),
                place=sitter.place,
                log=self._log(sitter.pod, container.name),
                environment=environment,
            )
        except ProgramError as error:
            log.warning(
                "a pod's program cannot be started; check the sandbox's Python installation",
                extra={"pod": "/".join(sitter.pod.key), "error": error},
            )

    async def _watch_programs(self, sitter: _Sitter) -> None:
        """Return when the pod is to end, or when all its programs have ended for good."""
        ending = asyncio.ensure_future(sitter.end.wait())
        waits = {asyncio.ensure_future(program.wait()): name for name, program in sitter.programs.items()}
        codes: list[int] = []
        try:
            while not ending.done():
                done, _ = await asyncio.wait([ending, *waits], return_when=asyncio.FIRST_COMPLETED)
                for wait in done - {ending}:
                    name, code = waits.pop(wait), wait.result()
                    policy = sitter.pod.spec.restart_policy
                    if policy == "Always" or (policy == "OnFailure" and code != 0):
                        await asyncio.sleep(RESTART_SECONDS)
                        container = next(known for known in sitter.pod.spec.containers if known.name == name)
                        await self._start(sitter, container)
                        waits[asyncio.ensure_future(sitter.programs[name].wait())] = name
                    else:
                        codes.append(code)
                if codes and not waits:
                    await self._publish(sitter, "Failed" if any(codes) else "Succeeded")
                    return
        finally:
            for task in (ending, *waits):
                task.cancel()

    async def _publish(self, sitter: _Sitter, phase: str) -> None:
        """Write the pod's status; tried until it is written or the pod is gone."""
        if sitter.place is None:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))
        running = phase == "Running"
        state = (
            {"running": {"startedAt": moment}}
            if running
            else {"terminated": {"exitCode": 1 if phase == "Failed" else 0, "finishedAt": moment}}
        )
        status: dict[str, Any] = {
            "phase": phase,
            "hostIP": self._host_address,
            "podIP": sitter.place.address,
            "podIPs": [{"ip": sitter.place.address}],
            "startTime": moment,
            "conditions": [
                {"type": kind, "status": "True" if running else "False", "lastTransitionTime": moment}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "name": container.name,
                    "image": container.image,
                    "imageID": "",
                    "ready": running,
                    "started": running,
                    "restartCount": 0,
                    "state": state,
                }
                for container in sitter.pod.spec.containers
            ],
        }
        path = NODE_PODS.path(*sitter.pod.key, "status")
        body = msgspec.json.encode({"metadata": {"uid": sitter.pod.metadata.uid}, "status": status})
        await self._until_done(sitter.pod, "PATCH", path, body, MERGE_PATCH)

    async def _delete(self, pod: NodePod) -> None:
        """Take the object away for good, as a kubelet does once the pod's processes are gone."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}}
        await self._until_done(pod, "DELETE", NODE_PODS.path(*pod.key), msgspec.json.encode(options))

    async def _until_done(
        self, pod: NodePod, method: str, path: str, body: bytes, content_type: str = "application/json"
    ) -> None:
        while True:
            try:
                await self._client.request(method, path, body=body, content_type=content_type)
            except (NotFound, Conflict):
                return  # gone, or a namesake has come
            except ApiError as error:
                log.warning(
                    "a pod's object could not be written and is tried again; see why the API server refuses",
                    extra={"pod": "/".join(pod.key), "node": self.node, "error": error},
                )
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _declared(self, pod: NodePod, container: Container, place: Place) -> dict[str, str]:
        """The environment that the container's own specification asks for."""
        fields = {
            "metadata.name": pod.metadata.name,
            "metadata.namespace": pod.metadata.namespace,
            "metadata.uid": pod.metadata.uid,
            "spec.nodeName": self.node,
            "status.podIP": place.address,
            "status.hostIP": self._host_address,
        }
        declared = {}
        for variable in container.env:
            source = variable.value_from
            field = source.field_ref if source is not None else None
            declared[variable.name] = fields.get(field.field_path, "") if field is not None else variable.value
        return declared

    def _log(self, pod: NodePod, container: str) -> Path:
        return self._logs / f"{pod.metadata.namespace}_{pod.metadata.name}_{pod.metadata.uid}_{container}.log"


def _read(file: Path, offset: int) -> bytes:
    try:
        with file.open("rb") as output:
            output.seek(offset)
            return output.read()
    except FileNotFoundError:
        return b""
