"""The start signal: the command of the startup probe succeeds only while an NMI of this container gives the signal.

An NMI that hands over delays the signal; one that does not must not delay it.
"""

import errno
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover import takeover as takeover_module
from nmi.handover.messages import SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.start_signal import BACKLOG, StartSignal, is_given, wait
from nmi.handover.successor import HandoverError, Successor
from nmi.handover.takeover import NAMES, Takeover
from nmi.service import is_in_use
from podidentity.telemetry.probes import PortInUse
from tests.contract.nmi.handover.ends import hello


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        yield Path(folder) / "started"


@pytest.fixture
def signal(path: Path) -> Iterator[StartSignal]:
    given = StartSignal(path)
    yield given
    given.close()


def test_the_signal_is_given_to_any_number_of_probes_until_it_is_closed(path: Path, signal: StartSignal) -> None:
    assert not is_given(str(path))
    signal.give()
    signal.give()
    assert all(is_given(str(path)) for _ in range(3 * BACKLOG))
    signal.close()
    assert not is_given(str(path))
    assert not path.exists()


def test_the_socket_of_a_killed_nmi_is_no_signal(path: Path) -> None:
    steps = ["import os, pathlib, nmi.handover.start_signal as s", f"s.StartSignal(pathlib.Path({str(path)!r})).give()"]
    killed = "; ".join([*steps, "os._exit(9)"])
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert path.exists()
    assert not is_given(str(path))
    next_one = StartSignal(path)
    next_one.give()
    assert is_given(str(path))
    next_one.close()


def test_a_file_at_the_path_is_no_signal(path: Path) -> None:
    path.write_text("")
    assert not is_given(str(path))


def test_without_a_path_nothing_is_given() -> None:
    signal = StartSignal(None)
    signal.give()
    signal.close()


def test_a_signal_that_comes_later_ends_the_wait(path: Path, signal: StartSignal) -> None:
    later = threading.Timer(0.1, signal.give)
    later.start()
    assert wait(str(path), 30)
    later.join()  # the signal must not be closed while it is given


def test_the_command_of_the_probe(path: Path, signal: StartSignal) -> None:
    command = [sys.executable, "-I", "-m", "nmi.handover.start_signal", str(path), "0.1"]
    without = subprocess.run(command, capture_output=True, text=True, check=False)
    assert without.returncode == 1
    assert "has not taken over its ports within 0.1 s" in without.stderr
    signal.give()
    assert subprocess.run(command, check=False).returncode == 0


# The moment of the signal.


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
        self.takeover = Takeover(
            Path("/nowhere"),
            hello(),
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
