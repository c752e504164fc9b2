"""The start signal: the command of the startup probe succeeds only while an NMI of this container gives the signal.

An NMI that hands over delays the signal; one that does not must not delay it.
"""

import errno
import socket
import subprocess
import sys
import tempfile
import time
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


def test_the_socket_of_a_killed_nmi_is_no_signal(path: Path, signal: StartSignal) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert not is_given(str(path))
    signal.give()
    assert is_given(str(path))


def test_a_file_at_the_path_is_no_signal(path: Path) -> None:
    path.write_text("")
    assert not is_given(str(path))


def test_a_signal_that_comes_later_ends_the_wait(
    path: Path, signal: StartSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: signal.give())
    assert wait(str(path), 60)


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


async def phases_with_signals(
    monkeypatch: pytest.MonkeyPatch, predecessor: FakePredecessor | None = None, *, refusals: int = 0
) -> dict[str, str]:
    """Return the phases of the start of an NMI in which the signal is given, each with the problem then.

    Ports are free after *refusals*.
    """
    signals, remaining = dict[str, str](), [predecessor]

    async def meet(*_: object) -> Successor | None:
        return cast("Successor | None", remaining.pop() if remaining else None)

    async def bind(name: SocketName, sockets: Sequence[socket.socket] = ()) -> None:
        nonlocal refusals
        del name
        for sock in sockets:
            sock.close()
        if not sockets and refusals:
            refusals -= 1
            raise PortInUse(errno.EADDRINUSE, "in use")

    monkeypatch.setattr(takeover_module, "meet", meet)
    takeover = Takeover(
        Path("/nowhere"),
        hello(),
        HandoverMetrics(CollectorRegistry()),
        bind,
        in_use=is_in_use,
        receive_tokens=lambda _: (0, 0),
        signal=lambda: signals.update({phase: takeover.problem}),
    )
    phase = "begin"
    await takeover.begin()
    phase = "complete"
    await takeover.complete()
    return signals


async def test_the_first_nmi_of_a_node_gives_the_signal_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await phases_with_signals(monkeypatch))["begin"] == ""


async def test_a_successor_gives_the_signal_with_the_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(await phases_with_signals(monkeypatch, FakePredecessor())) == ["complete"]


async def test_an_nmi_that_waits_for_a_port_gives_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "waiting for a port" in (await phases_with_signals(monkeypatch, refusals=len(NAMES)))["begin"]


async def test_after_a_failed_handover_the_wait_for_the_ports_gives_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = FakePredecessor("no common version")
    assert list(await phases_with_signals(monkeypatch, failing, refusals=3)) == ["complete"]
