"""The moment of the start signal: an NMI that hands over delays it, one that does not must not delay it."""

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover import takeover as takeover_module
from nmi.handover.messages import VERSIONS, Hello, SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.successor import HandoverError, Successor
from nmi.handover.takeover import NAMES, Takeover
from nmi.service import is_in_use
from podidentity.telemetry.probes import PortInUse

HELLO = Hello(
    versions=VERSIONS, release="next", listen_address="127.0.0.1", listen_port=1, probe_port=2, metrics_port=3
)


class FakePredecessor:
    """An NMI that serves, and hands over all its sockets or, with *error*, none."""

    shared = frozenset(NAMES)
    attached = True

    def __init__(self, error: str = "") -> None:
        self.error = error

    async def take(self, receive_tokens: object) -> list[tuple[SocketName, socket.socket]]:
        if self.error:
            raise HandoverError(self.error)
        return [(name, socket.socket()) for name in NAMES]


class Start:
    """The start of an NMI, which records the signals. Ports are free after *refusals* attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *predecessors: FakePredecessor, refusals: int = 0) -> None:
        self.signals: list[str] = []
        self.phase = "begin"
        self._refusals = refusals
        found = list(predecessors)

        async def meet(*_: object) -> Successor | None:
            return cast("Successor", found.pop(0)) if found else None

        monkeypatch.setattr(takeover_module, "meet", meet)
        monkeypatch.setattr(takeover_module, "RETRY_SECONDS", 0.0)
        self.takeover = Takeover(
            Path("/nowhere"),
            HELLO,
            HandoverMetrics(CollectorRegistry()),
            self._bind,
            in_use=is_in_use,
            receive_tokens=lambda _: (0, 0),
            signal=lambda: self.signals.append(self.phase),
        )

    async def _bind(self, name: SocketName, sockets: Sequence[socket.socket] = ()) -> None:
        del name
        for each in sockets:
            each.close()
        if not sockets and self._refusals:
            self._refusals -= 1
            raise PortInUse(errno.EADDRINUSE, "in use")

    async def run(self) -> list[str]:
        """Return the phases in which the signal was given."""
        await self.takeover.begin()
        self.phase = "complete"
        await self.takeover.complete()
        return self.signals


async def test_the_first_nmi_of_a_node_gives_the_signal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await Start(monkeypatch).run())[0] == "begin"


async def test_a_successor_gives_the_signal_with_the_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(await Start(monkeypatch, FakePredecessor()).run()) == {"complete"}


async def test_an_nmi_that_waits_for_a_port_gives_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(monkeypatch, refusals=len(NAMES))
    await start.takeover.begin()
    assert start.takeover.problem
    assert start.signals


async def test_after_a_failed_handover_the_wait_for_the_ports_gives_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(monkeypatch, FakePredecessor("no common version"), refusals=3)
    await start.takeover.begin()
    assert not start.signals
    await start.takeover.complete()
    assert start.signals
