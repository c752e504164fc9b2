"""The API server and IMDS around one NMI, as a separate process: `python -m benchmarks.load.emulators`.

It reads commands as lines (`emulator_commands`), responds with one line each, and exits at the end of its input. There
is no kubelet and no MIC: the process writes pods and AzureAssignedIdentities in their final states, about as large as
real ones.
"""

import argparse
import asyncio
import ipaddress
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from typing_extensions import override

from benchmarks.controller import stream
from benchmarks.load.addresses import addresses
from benchmarks.load.emulator_commands import AddPods, Churn, Command, Counts, Relist, SetImds, line
from podidentity.resources import ASSIGNED_IDENTITIES, POD_UID_ANNOTATION, PODS
from podidentity_sandbox.cluster import CRDS, read_documents
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.imds import HostIdentities, Imds, ImdsVm
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import TOKEN_SECONDS, TokenMint

ASSIGNED: Final = f"{ASSIGNED_IDENTITIES.plural}.{ASSIGNED_IDENTITIES.group}"
TENANT: Final = "7e4a0000-0000-4000-8000-000000000000"
TOKEN_BYTES: Final = 1500
"""With it a response has about 1.7 kB, as a real one."""
TICK_SECONDS: Final = 0.01
"""The interval at which a churn makes the writes that are due."""
PAGE: Final = 100
"""Pods that are created before other tasks of the loop run."""


class LongTokens(TokenMint):
    """Mint of tokens with the length of real ones, which have more claims than the sandbox's."""

    @override
    def mint(self, *, extra: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Return a token of TOKEN_BYTES within 3 bytes, or longer if its claims are longer."""
        claims["extra"] = {**(extra or {}), "wids": ""}
        claims["extra"]["wids"] = "w" * ((TOKEN_BYTES - len(super().mint(**claims))) * 3 // 4)
        return super().mint(**claims)


class Emulators:
    """Both servers, and the commands for them."""

    def __init__(self, *, identities: int, first_pod: str) -> None:
        self._size = stream.Size(pods=0, nodes=1, bindings=identities)
        self._first_pod = first_pod
        self._names: list[tuple[str, str, str]] = []
        """Namespace, name and name of the AzureAssignedIdentity of each pod."""
        self._turn = 0
        self._events = 0
        self._lists = 0
        self._churn: asyncio.Task[None] | None = None
        self._imds = Imds(LongTokens(), token_seconds=TOKEN_SECONDS)
        self._api = KubeApi(read_documents(CRDS))
        self._api.intercept = self._count_lists
        on_vm = HostIdentities(tuple(managed(number) for number in range(identities)))
        anywhere = (ipaddress.IPv4Network("0.0.0.0/0"),)
        self._imds.hosts.append(ImdsVm("vm", anywhere, lambda: on_vm, {"name": "vm", "location": "westeurope"}))

    async def start(self, kubeconfig: Path, imds_address: str, imds_port: int) -> None:
        """Listen, and write the address to *kubeconfig*. Raises OSError if IMDS's address or port is not available."""
        await self._imds.start(imds_address, imds_port)
        await self._api.start()
        self._api.write_kubeconfig(kubeconfig)

    async def stop(self) -> None:
        await self._end_churn()
        await self._api.stop()
        await self._imds.stop()

    async def take(self, command: Command) -> Counts:
        """Execute *command*; a churn is started."""
        match command:
            case AddPods():
                await self._add_pods(command.count)
            case SetImds():
                self._set_imds(command)
            case Churn():
                await self._end_churn()
                self._churn = asyncio.create_task(self._run_churn(command), name="churn")
            case Relist():
                self._relist()
            case _:
                pass
        return Counts(
            imds_port=self._imds.port,
            pods=len(self._names),
            imds_calls=len(self._imds.token_calls),
            lists=self._lists,
            watches=self._api.watch_count(),
            events=self._events,
            churning=self._churn is not None and not self._churn.done(),
        )

    async def _add_pods(self, count: int) -> None:
        store, begin = self._api.store, len(self._names)
        for number, address in enumerate(addresses(begin + count, self._first_pod)[begin:], start=begin):
            pod = unborn(stream.pod(number, self._size))
            namespace = pod["metadata"]["namespace"]
            if store.find("namespaces", namespace) is None:
                store.create("namespaces", {"metadata": {"name": namespace}})
            status = pod.pop("status") | {"podIP": address, "podIPs": [{"ip": address}]}
            uid = store.create(PODS.plural, pod)["metadata"]["uid"]
            store.patch(PODS.plural, pod["metadata"]["name"], {"status": status}, namespace, subresource="status")
            self._names.append((namespace, pod["metadata"]["name"], self._assign(number, uid)))
            if number % PAGE == 0:
                await asyncio.sleep(0)

    def _set_imds(self, command: SetImds) -> None:
        self._imds.token_seconds = command.token_seconds
        self._imds.faults.clear()
        if command.delay_ms > 0:
            self._imds.faults.add(ResponseFault(delay_seconds=command.delay_ms / 1000, times=math.inf))

    def _relist(self) -> None:
        # A client that has received the latest write could resume the watch from it, so another write follows.
        self._turn += 1
        self._api.store.patch("namespaces", "default", {"metadata": {"annotations": {"turn": str(self._turn)}}})
        self._api.compact()
        self._api.drop_watches()

    async def _run_churn(self, churn: Churn) -> None:
        streams: tuple[tuple[float, Callable[[], None]], ...] = (
            (churn.pod_events_per_second, self._touch_pod),
            (churn.assigned_events_per_second, self._touch_assigned),
        )
        written, began, elapsed = [0, 0], time.monotonic(), 0.0
        while elapsed < churn.seconds:
            await asyncio.sleep(TICK_SECONDS)
            elapsed = min(time.monotonic() - began, churn.seconds)
            for number, (rate, touch) in enumerate(streams):
                while written[number] < int(rate * elapsed):
                    touch()
                    written[number] += 1

    def _assign(self, number: int, uid: str) -> str:
        """Create the AzureAssignedIdentity of a pod and return its name."""
        assigned = unborn(stream.assigned(number, self._size))
        assigned["metadata"]["annotations"][POD_UID_ANNOTATION] = uid
        name: str = self._api.store.create(ASSIGNED, assigned)["metadata"]["name"]
        return name

    async def _end_churn(self) -> None:
        if self._churn is not None:
            self._churn.cancel()
            await asyncio.wait([self._churn])

    def _touch_pod(self) -> None:
        """Write a pod's status as its kubelet does after a probe."""
        namespace, name, _ = self._next()
        looked_at = {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": f"turn {self._turn}"}]}
        self._api.store.patch(PODS.plural, name, {"status": looked_at}, namespace, subresource="status")

    def _touch_assigned(self) -> None:
        _, _, name = self._next()
        self._api.store.patch(ASSIGNED, name, {"metadata": {"annotations": {"turn": str(self._turn)}}}, "default")

    def _next(self) -> tuple[str, str, str]:
        self._turn += 1
        self._events += 1
        return self._names[self._turn % len(self._names)]

    def _count_lists(self, request: Recorded) -> None:
        begins = request.path.startswith(f"{PODS.path()}?") and "watch=" not in request.path
        self._lists += begins and "continue=" not in request.path


def managed(number: int) -> ManagedIdentity:
    """Return the identity of each pod with this number modulo the number of identities."""
    spec = stream.identity(number)["spec"]
    return ManagedIdentity(spec["resourceID"], spec["clientID"], f"0b1ec700-0000-4000-8000-{number:012d}", TENANT)


def unborn(document: dict[str, Any]) -> dict[str, Any]:
    """Return a pod without the fields that the API server sets."""
    for name in ("uid", "resourceVersion", "generation", "creationTimestamp"):
        document["metadata"].pop(name, None)
    return document


async def serve(arguments: argparse.Namespace) -> None:
    """Execute commands from stdin until its end."""
    emulators = Emulators(identities=arguments.identities, first_pod=arguments.first_pod)
    decoder = msgspec.json.Decoder(Command)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await emulators.start(arguments.kubeconfig, arguments.imds_address, arguments.imds_port)
    try:
        while text := await reader.readline():
            sys.stdout.buffer.write(line(await emulators.take(decoder.decode(text))))
            sys.stdout.buffer.flush()
    finally:
        await emulators.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--first-pod", required=True)
    parser.add_argument("--imds-address", required=True)
    parser.add_argument("--imds-port", type=int, required=True)
    # Has a lower priority than the generator on the same core: a late generator would look like a slow server.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
