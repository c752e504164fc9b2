"""The API server and IMDS around one NMI, as a process of their own: `python -m benchmarks.load.emulators`.

Orders come in as lines (`orders`), each is answered by one. It ends when its input does. There is no kubelet and no
MIC: pods are written as the one leaves them, AzureAssignedIdentities as the other does, about as large as real ones.
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
from benchmarks.load.orders import AddPods, Churn, Order, Relist, SetImds, Told, line
from podidentity.resources import ASSIGNED_IDENTITIES, POD_UID_ANNOTATION, PODS
from podidentity_sandbox.cluster import CRDS
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.imds import HostIdentities, Imds, ImdsVm
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import TOKEN_SECONDS, TokenMint

ASSIGNED: Final = f"{ASSIGNED_IDENTITIES.plural}.{ASSIGNED_IDENTITIES.group}"
TENANT: Final = "7e4a0000-0000-4000-8000-000000000000"
TICK_SECONDS: Final = 0.01
"""So often a churn catches up with what is due."""
PAGE: Final = 100
"""Pods that are made before somebody else gets the loop."""


class LongTokens(TokenMint):
    """Tokens of a given length: real ones have more claims than the sandbox's, some 1.5 kB in all."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    @override
    def mint(self, *, extra: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """To within 3 bytes as long as asked for, or as long as its claims are without more."""
        claims["extra"] = {**(extra or {}), "wids": ""}
        claims["extra"]["wids"] = "w" * ((self._length - len(super().mint(**claims))) * 3 // 4)
        return super().mint(**claims)


class Emulators:
    """Both servers, and what is asked of them."""

    def __init__(self, *, identities: int, first_pod: str, token_bytes: int) -> None:
        self._size = stream.Size(pods=0, nodes=1, bindings=identities)
        self._first_pod = first_pod
        self._names: list[tuple[str, str, str]] = []
        """For each pod its namespace, its name, and that of its AzureAssignedIdentity."""
        self._turn = 0
        self._events = 0
        self._lists = 0
        self._churn: asyncio.Task[None] | None = None
        self._imds = Imds(LongTokens(token_bytes), token_seconds=TOKEN_SECONDS)
        self._api = KubeApi(CRDS)
        self._api.intercept = self._count_lists
        on_vm = HostIdentities(tuple(managed(number) for number in range(identities)))
        anywhere = (ipaddress.IPv4Network("0.0.0.0/0"),)
        self._imds.hosts.append(ImdsVm("vm", anywhere, lambda: on_vm, {"name": "vm", "location": "westeurope"}))

    async def start(self, kubeconfig: Path, imds_address: str, imds_port: int) -> None:
        """Listen, and write to *kubeconfig* where. Raises OSError when IMDS's address or port is not to be had."""
        await self._imds.start(imds_address, imds_port)
        await self._api.start()
        self._api.write_kubeconfig(kubeconfig)

    async def stop(self) -> None:
        await self._end_churn()
        await self._api.stop()
        await self._imds.stop()

    async def take(self, order: Order) -> Told:
        """Carry out *order*; a churn is begun."""
        match order:
            case AddPods():
                await self._add_pods(order.count)
            case SetImds():
                self._set_imds(order)
            case Churn():
                await self._end_churn()
                self._churn = asyncio.create_task(self._run_churn(order), name="churn")
            case Relist():
                self._relist()
            case _:
                pass
        return Told(
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
            pod, assigned = (unborn(make(number, self._size)) for make in (stream.pod, stream.assigned))
            namespace = pod["metadata"]["namespace"]
            if store.find("namespaces", namespace) is None:
                store.create("namespaces", {"metadata": {"name": namespace}})
            status = pod.pop("status") | {"podIP": address, "podIPs": [{"ip": address}]}
            uid = store.create(PODS.plural, pod)["metadata"]["uid"]
            store.patch(PODS.plural, pod["metadata"]["name"], {"status": status}, namespace, subresource="status")
            assigned["metadata"]["annotations"][POD_UID_ANNOTATION] = uid
            name = store.create(ASSIGNED, assigned)["metadata"]["name"]
            self._names.append((namespace, pod["metadata"]["name"], name))
            if number % PAGE == 0:
                await asyncio.sleep(0)

    def _set_imds(self, order: SetImds) -> None:
        self._imds.token_seconds = order.token_seconds
        self._imds.faults.clear()
        if order.delay_ms > 0:
            self._imds.faults.add(ResponseFault(delay_seconds=order.delay_ms / 1000, times=math.inf))

    def _relist(self) -> None:
        # Whoever has seen the very latest write could resume from it, so one more is made.
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

    async def _end_churn(self) -> None:
        if self._churn is not None:
            self._churn.cancel()
            await asyncio.wait([self._churn])

    def _touch_pod(self) -> None:
        """As its kubelet does when a probe has been looked at again."""
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

    def _count_lists(self, asked: Recorded) -> None:
        begins = asked.path.startswith(f"{PODS.path()}?") and "watch=" not in asked.path
        self._lists += begins and "continue=" not in asked.path


def managed(number: int) -> ManagedIdentity:
    """The identity of each pod whose number leaves *number* when divided by how many there are."""
    spec = stream.identity(number)["spec"]
    return ManagedIdentity(spec["resourceID"], spec["clientID"], f"0b1ec700-0000-4000-8000-{number:012d}", TENANT)


def unborn(document: dict[str, Any]) -> dict[str, Any]:
    """Without what the API server itself fills in."""
    for name in ("uid", "resourceVersion", "generation", "creationTimestamp"):
        document["metadata"].pop(name, None)
    return document


async def serve(arguments: argparse.Namespace) -> None:
    """Take orders from stdin until it ends."""
    emulators = Emulators(
        identities=arguments.identities, first_pod=arguments.first_pod, token_bytes=arguments.token_bytes
    )
    decoder = msgspec.json.Decoder(Order)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await emulators.start(arguments.kubeconfig, arguments.imds_address, arguments.imds_port)
    try:
        while order := await reader.readline():
            sys.stdout.buffer.write(line(await emulators.take(decoder.decode(order))))
            sys.stdout.buffer.flush()
    finally:
        await emulators.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--first-pod", required=True)
    parser.add_argument("--token-bytes", type=int, required=True)
    parser.add_argument("--imds-address", required=True)
    parser.add_argument("--imds-port", type=int, required=True)
    # Gives way to the generator, which shares its core: what it does late would look like the server's delay.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
