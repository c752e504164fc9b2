"""The sandbox's kubelet, one per node: creates each pod's execution context, runs its programs, writes its status.

It uses HTTP like the real kubelet, so it works with the emulator and with a real API server. The images that it runs
are the demo's (`podidentity_demo`) and, where nodes are network namespaces, NMI's and MIC's, as a chart or a manifest
has them: with their volumes, service account, user and rights. A pod of any other image is a place with an address, for
people and tests to run programs in.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from podidentity.exits import StartError
from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.kube.errors import ApiError, Conflict, NotFound
from podidentity.kube.informer import Informer
from podidentity_sandbox.launching import Launcher
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.pod_projection import NODE_PODS, Container, NodePod, pod_status
from podidentity_sandbox.probes import is_ready, probe_of
from podidentity_sandbox.processes import Program

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5
RESTART_SECONDS: Final = 1.0  # delay before a restart
PROBE_SECONDS: Final = 0.2  # interval of the readiness probe
FOLLOW_SECONDS: Final = 0.2  # interval of reads of a followed log


PodObserver = Callable[[str, NodePod, ExecutionContext], None]
"""Called for each pod that runs, with its node, the pod and its execution context."""


class _ManagedPod:
    """The kubelet's state of one pod: its execution context, its programs, and the order to end it."""

    def __init__(self, pod: NodePod) -> None:
        self.pod = pod
        self.context: ExecutionContext | None = None
        self.programs: dict[str, Program] = {}
        self.ready = False
        self.finished = False
        """Its programs have ended and are not started again."""
        self.end = asyncio.Event()
        self.gone = False
        """The object is already deleted, so the kubelet does not delete it."""


class Kubelet:
    """Runs the pods of the node of *launcher*; `run` is its task.

    *logs* is the folder for the containers' output. *on_pod_running* is called for each pod that starts to run.
    """

    def __init__(
        self,
        client: Client,
        launcher: Launcher,
        *,
        logs: Path,
        on_pod_running: PodObserver | None,
    ) -> None:
        self.node = launcher.node
        self._client = client
        self._launcher = launcher
        self._network = launcher.network
        self._logs = logs
        self._on_pod_running = on_pod_running
        self.static_logs: dict[tuple[str, str], Path] = {}
        """The logs of pods, by namespace and name, whose programs something else runs."""
        self._managed: dict[str, _ManagedPod] = {}
        self._new_pods: asyncio.Queue[_ManagedPod] = asyncio.Queue()
        self._informer = Informer(client, NODE_PODS, self, field_selector=f"spec.nodeName={self.node}")

    def upserted(self, old: NodePod | None, new: NodePod) -> None:
        """Handle a new or changed pod of this node."""
        del old
        managed = self._managed.get(new.metadata.uid)
        if managed is None:
            if new.finished or new.key in self.static_logs:
                return
            managed = self._managed[new.metadata.uid] = _ManagedPod(new)
            self._new_pods.put_nowait(managed)
        managed.pod = new
        if new.metadata.deletion_timestamp is not None:
            managed.end.set()

    def deleted(self, old: NodePod) -> None:
        """Handle the removal of the pod from the API server."""
        managed = self._managed.get(old.metadata.uid)
        if managed is not None:
            managed.gone = True
            managed.end.set()

    async def run(self) -> NoReturn:
        """Run the node's pods until cancelled; then stop their programs and remove their execution contexts."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name=f"watch pods of {self.node}")
            while True:
                managed = await self._new_pods.get()
                tasks.create_task(self._run_pod(managed), name=f"pod {'/'.join(managed.pod.key)}")

    def context(self, namespace: str, name: str) -> ExecutionContext | None:
        """Return the execution context of the pod, or None while it does not run."""
        return next((managed.context for managed in self._of(namespace, name)), None)

    def log_file(self, namespace: str, name: str, container: str = "") -> Path | None:
        """Return the file with the output of the pod's container (by default the first), or None if there is none."""
        if (namespace, name) in self.static_logs:
            return self.static_logs[namespace, name]
        for managed in self._of(namespace, name):
            names = [container_spec.name for container_spec in managed.pod.spec.containers]
            if container in names or (names and not container):
                return self._log(managed.pod, container or names[0])
        return None

    def program(self, namespace: str, name: str, container: str) -> Program | None:
        """Return the running program of the pod's container, or None."""
        for managed in self._of(namespace, name):
            if (program := managed.programs.get(container)) is not None:
                return program if program.returncode is None else None
        return None

    async def read_log(
        self, namespace: str, name: str, container: str = "", *, follow: bool, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the output in pieces, from the last *tail* lines on; with *follow* until the pod ends."""
        file, offset = self.log_file(namespace, name, container), 0
        while file is not None:
            complete = not follow or any(managed.finished for managed in self._of(namespace, name))
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

    def _of(self, namespace: str, name: str) -> list[_ManagedPod]:
        """Return the pods of this name: a new one may exist before the former one is removed."""
        return [managed for managed in self._managed.values() if managed.pod.key == (namespace, name)]

    async def _run_pod(self, managed: _ManagedPod) -> None:
        uid = managed.pod.metadata.uid
        try:
            await self._begin(managed)
            readiness = asyncio.create_task(self._follow_readiness(managed))
            try:
                await self._watch_programs(managed)
            finally:
                readiness.cancel()
        finally:
            # Also for a pod that could not begin, because a part of it may exist.
            await self._launcher.stop(managed.pod, tuple(managed.programs.values()))
            if not managed.pod.spec.host_network:
                await asyncio.to_thread(self._network.remove_pod, self.node, uid)
            managed.context, managed.finished = None, True
        await managed.end.wait()  # its log is readable while its object exists
        if not managed.gone:
            await self._delete(managed.pod)
        del self._managed[uid]

    async def _begin(self, managed: _ManagedPod) -> None:
        pod = managed.pod
        if managed.end.is_set():
            return
        if pod.spec.host_network:
            managed.context = self._launcher.host
        else:
            managed.context = await asyncio.to_thread(self._network.add_pod, self.node, pod.metadata.uid)
        first = [container for container in pod.spec.init_containers if self._launcher.runs(container)]
        programs = [container for container in pod.spec.containers if self._launcher.runs(container)]
        # As on a real node, a pod without init containers and probes is ready when it starts.
        managed.ready = not first and not any(probe_of(container) for container in programs)
        # Publish the address before the program starts, so that NMI can know the pod at its first request.
        await self._publish(managed, "Running")
        if self._on_pod_running is not None:
            self._on_pod_running(self.node, pod, managed.context)
        for container in first:
            await self._run_to_its_end(managed, container)
        for container in programs:
            if not managed.end.is_set():
                await self._start(managed, container)

    async def _run_to_its_end(self, managed: _ManagedPod, container: Container) -> None:
        """Run an init container until it succeeds or the pod ends."""
        while not managed.end.is_set():
            await self._start(managed, container)
            program = managed.programs.pop(container.name, None)
            if program is not None:
                ended, ending = asyncio.ensure_future(program.wait()), asyncio.ensure_future(managed.end.wait())
                await asyncio.wait({ended, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                if await program.stop() == 0:
                    return
            await asyncio.sleep(RESTART_SECONDS)

    async def _start(self, managed: _ManagedPod, container: Container) -> None:
        pod, context = managed.pod, managed.context
        if context is None:
            return
        try:
            log_file = self._log(pod, container.name)
            managed.programs[container.name] = await self._launcher.start(pod, container, context, log_file)
        except StartError as error:
            log.warning(
                "cannot start a program of a pod; correct the error, then delete the pod and create it again",
                extra={"pod": "/".join(pod.key), "error": error},
            )

    async def _follow_readiness(self, managed: _ManagedPod) -> None:
        """Publish the readiness of the pod while it runs."""
        probed = any(probe_of(container) for container in managed.pod.spec.containers)
        while managed.programs and managed.context is not None and (probed or not managed.ready):
            ready = await asyncio.to_thread(is_ready, self._network, self.node, managed.pod, managed.context)
            if ready != managed.ready:
                managed.ready = ready
                await self._publish(managed, "Running")
            await asyncio.sleep(PROBE_SECONDS)

    async def _watch_programs(self, managed: _ManagedPod) -> None:
        """Return when the pod must end, or when all its programs have ended finally."""
        ending = asyncio.ensure_future(managed.end.wait())
        waits = {asyncio.ensure_future(program.wait()): name for name, program in managed.programs.items()}
        codes: list[int] = []
        try:
            while not ending.done():
                done, _ = await asyncio.wait([ending, *waits], return_when=asyncio.FIRST_COMPLETED)
                for wait in done - {ending}:
                    name, code = waits.pop(wait), wait.result()
                    policy = managed.pod.spec.restart_policy
                    if policy == "Always" or (policy == "OnFailure" and code != 0):
                        await asyncio.sleep(RESTART_SECONDS)
                        container = next(
                            container for container in managed.pod.spec.containers if container.name == name
                        )
                        await self._start(managed, container)
                        waits[asyncio.ensure_future(managed.programs[name].wait())] = name
                    else:
                        codes.append(code)
                if codes and not waits:
                    await self._publish(managed, "Failed" if any(codes) else "Succeeded")
                    return
        finally:
            for task in (ending, *waits):
                task.cancel()

    async def _publish(self, managed: _ManagedPod, phase: str) -> None:
        """Write the pod's status. Retry until it is written or the pod is deleted."""
        if managed.context is None:
            return
        status = pod_status(
            {container.name: container.image for container in managed.pod.spec.containers},
            phase,
            host=self._launcher.host.address,
            address=managed.context.address,
            ready=managed.ready,
            now=time.time(),
        )
        path = NODE_PODS.path(*managed.pod.key, "status")
        body = msgspec.json.encode({"metadata": {"uid": managed.pod.metadata.uid}, "status": status})
        await self._until_done(managed.pod, "PATCH", path, body, MERGE_PATCH)

    async def _delete(self, pod: NodePod) -> None:
        """Delete the object finally, as a kubelet does after the pod's processes have ended."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}}
        await self._until_done(pod, "DELETE", NODE_PODS.path(*pod.key), msgspec.json.encode(options))

    async def _until_done(
        self, pod: NodePod, method: str, path: str, body: bytes, content_type: str = "application/json"
    ) -> None:
        while True:
            try:
                await self._client.request(method, path, body=body, content_type=content_type)
            except (NotFound, Conflict):
                return  # deleted, or replaced by a pod of the same name
            except ApiError as error:
                log.warning(
                    "cannot write a pod, retrying; see the API server's error",
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
