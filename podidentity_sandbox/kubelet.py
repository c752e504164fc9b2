"""The sandbox's kubelet, one per node: gives pods a place, runs the demo program, says so in their status, ends them.

It speaks HTTP like the real one, so it serves the emulator and a real API server alike. The images that it runs are the
demo's (`podidentity_demo`) and, where nodes are network namespaces, NMI's and MIC's, as a chart or a manifest has
them: with their volumes, service account, user and rights. A pod of any other image is a place with an address, for
people and tests to run programs in.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.kube.errors import ApiError, Conflict, NotFound
from podidentity.kube.informer import Informer
from podidentity_sandbox.launching import Launcher, LaunchError
from podidentity_sandbox.network import Network, Place
from podidentity_sandbox.pod_shapes import NODE_PODS, Container, NodePod
from podidentity_sandbox.processes import Program
from podidentity_sandbox.readiness import is_ready, probe_of
from podidentity_sandbox.volumes import NodeFiles

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5
RESTART_SECONDS: Final = 1.0  # before a program that ended is started again
PROBE_SECONDS: Final = 0.2  # between two looks at whether a container is ready
FOLLOW_SECONDS: Final = 0.2  # how often a log that is followed is read


Running = Callable[[str, NodePod, Place], None]
"""Told of each pod (its node, itself, its place) when it runs."""


class _Sitter:
    """What the kubelet holds of one pod (by uid): its task, its place and programs, and the order to end it."""

    def __init__(self, pod: NodePod) -> None:
        self.pod = pod
        self.place: Place | None = None
        self.programs: dict[str, Program] = {}
        self.ready = False
        self.finished = False
        """Its programs have ended, and are not started again."""
        self.end = asyncio.Event()
        self.gone = False
        """The object is gone already: there is nothing left to delete."""


class Kubelet:
    """The pods of *node*; `run` is the task that does it all.

    *host* is where host-network pods run. *environment* is what every pod's program finds in its environment, beside
    what the pod itself says. *logs* is a folder for their output. *running* is told of each pod when it runs. With
    *files*, the node's own, NMI and MIC are run too; *relayed* are the ports on this machine's loopback that a pod of
    theirs reaches on its own.
    """

    def __init__(
        self,
        client: Client,
        node: str,
        network: Network,
        *,
        host: Place,
        logs: Path,
        environment: Mapping[str, str],
        running: Running | None = None,
        files: NodeFiles | None = None,
        relayed: Sequence[int] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self._client = client
        self._network = network
        self._host = host
        self._logs = logs
        self._launcher = Launcher(
            client, network, host=host, node=node, environment=environment, files=files, relayed=relayed
        )
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
            complete = not follow or self._finished(namespace, name)
            piece = await asyncio.to_thread(_read, file, offset)
            offset += len(piece)
            if tail is not None:
                piece, tail = b"".join(piece.splitlines(keepends=True)[-tail:] if tail else []), None
            if piece:
                yield piece
            elif complete:
                return
            else:
                await asyncio.sleep(FOLLOW_SECONDS)
                file = self.log_file(namespace, name, container)

    def _finished(self, namespace: str, name: str) -> bool:
        return any(sitter.finished for sitter in self._sitters.values() if sitter.pod.key == (namespace, name))

    async def _sit(self, sitter: _Sitter) -> None:
        uid = sitter.pod.metadata.uid
        try:
            await self._begin(sitter)
            readiness = asyncio.create_task(self._follow_readiness(sitter))
            try:
                await self._watch_programs(sitter)
            finally:
                readiness.cancel()
        finally:
            await self._launcher.stop(sitter.pod, tuple(sitter.programs.values()))
            if not sitter.pod.spec.host_network:
                await asyncio.to_thread(self._network.remove_pod, self.node, uid)
            sitter.place, sitter.finished = None, True
        await sitter.end.wait()  # its log can be read as long as its object is there
        if not sitter.gone:
            await self._delete(sitter.pod)
        del self._sitters[uid]

    async def _begin(self, sitter: _Sitter) -> None:
        pod = sitter.pod
        if sitter.end.is_set():
            return
        if pod.spec.host_network:
            sitter.place = self._host
        else:
            sitter.place = await asyncio.to_thread(self._network.add_pod, self.node, pod.metadata.uid)
        first = [each for each in pod.spec.init_containers if self._launcher.runs(each)]
        programs = [each for each in pod.spec.containers if self._launcher.runs(each)]
        sitter.ready = not first and not any(probe_of(each) for each in programs)
        # The address is published before the program starts: NMI may know the pod when its first request comes.
        await self._publish(sitter, "Running")
        if self._running is not None:
            self._running(self.node, pod, sitter.place)
        for container in first:
            await self._run_to_its_end(sitter, container)
        for container in programs:
            if not sitter.end.is_set():
                await self._start(sitter, container)

    async def _run_to_its_end(self, sitter: _Sitter, container: Container) -> None:
        """An init container: again and again until it goes well, or the pod is to end."""
        while not sitter.end.is_set():
            await self._start(sitter, container)
            program = sitter.programs.pop(container.name, None)
            if program is not None:
                ended, ending = asyncio.ensure_future(program.wait()), asyncio.ensure_future(sitter.end.wait())
                await asyncio.wait({ended, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                if await program.stop() == 0:
                    return
            await asyncio.sleep(RESTART_SECONDS)

    async def _start(self, sitter: _Sitter, container: Container) -> None:
        pod, place = sitter.pod, sitter.place
        if place is None:
            return
        try:
            log_file = self._log(pod, container.name)
            sitter.programs[container.name] = await self._launcher.start(pod, container, place, log_file)
        except LaunchError as error:
            log.warning(
                "a pod's program cannot be started; see what the error says, and delete the pod to have it tried again",
                extra={"pod": "/".join(pod.key), "error": error},
            )

    async def _follow_readiness(self, sitter: _Sitter) -> None:
        """Say in the pod's status what its probes say, as long as it runs."""
        probed = any(probe_of(each) for each in sitter.pod.spec.containers)
        while sitter.programs and sitter.place is not None and (probed or not sitter.ready):
            ready = await asyncio.to_thread(is_ready, self._network, self.node, sitter.pod, sitter.place)
            if ready != sitter.ready:
                sitter.ready = ready
                await self._publish(sitter, "Running")
            await asyncio.sleep(PROBE_SECONDS)

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
            "hostIP": self._host.address,
            "podIP": sitter.place.address,
            "podIPs": [{"ip": sitter.place.address}],
            "startTime": moment,
            "conditions": [
                {"type": kind, "status": "True" if running else "False", "lastTransitionTime": moment}
                for kind in ("Initialized", "PodScheduled")
            ]
            + [
                {"type": kind, "status": str(running and sitter.ready), "lastTransitionTime": moment}
                for kind in ("Ready", "ContainersReady")
            ],
            "containerStatuses": [
                {
                    "name": container.name,
                    "image": container.image,
                    "imageID": "",
                    "ready": running and sitter.ready,
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

    def _log(self, pod: NodePod, container: str) -> Path:
        return self._logs / f"{pod.metadata.namespace}_{pod.metadata.name}_{pod.metadata.uid}_{container}.log"


def _read(file: Path, offset: int) -> bytes:
    try:
        with file.open("rb") as output:
            output.seek(offset)
            return output.read()
    except FileNotFoundError:
        return b""
