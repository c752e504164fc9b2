"""The refreshed view in virtual time: reads at the interval, redraws, keys, and failures of a later read."""

import asyncio
import io
import os
import pty
import termios
from datetime import UTC, datetime

import pytest
from rich.console import Console, RenderableType

from podidctl.diagnosis.metrics_pages import Unread
from podidctl.top.counters import Counters
from podidctl.top.live import LiveView, Sampler, keyboard
from podidctl.top.rates import Reading
from podidctl.top.reader import NodeReading
from podidctl.top.view import COLUMNS
from podidentity.kube.errors import NoResponse
from tests.virtual_time import in_virtual_time

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Nodes:
    """Two nodes: the requests of the first grow by 20 a second, the second one cannot be read."""

    def __init__(self) -> None:
        self.reads: list[float] = []
        self.failing = False

    async def read(self) -> list[NodeReading]:
        now = asyncio.get_running_loop().time()
        self.reads.append(now)
        if self.failing:
            raise NoResponse("no response within 30 s")
        counted = Counters(requests=20.0 * now, refusals={"policy": now}, imds_calls=0.0)
        return [
            NodeReading("n0", Reading("kube-system/nmi-0", "uid-0", now, counted)),
            NodeReading("n1", Unread("kube-system/nmi-1", "not allowed")),
        ]


class Screen:
    """The drawn frames as text."""

    def __init__(self) -> None:
        self.frames: list[str] = []

    def draw(self, shown: RenderableType) -> None:
        stream = io.StringIO()
        Console(file=stream, width=160, color_system=None).print(shown)
        self.frames.append(stream.getvalue())


class Running:
    """A live view with an interval of two seconds."""

    def __init__(self) -> None:
        self.nodes, self.screen = Nodes(), Screen()
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        sampler = Sampler(self.nodes.read, now=lambda: NOW)
        self.live = LiveView(sampler, self.screen.draw, interval_seconds=2.0, height=lambda: 30)
        self.task = asyncio.create_task(self.live.run(self.typed))

    async def type(self, data: bytes) -> None:
        self.typed.put_nowait(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@in_virtual_time
async def test_the_view_is_refreshed_at_the_interval() -> None:
    running = Running()
    await asyncio.sleep(5.0)
    await running.type(b"q")
    await running.task

    first, second = running.nodes.reads[:2]
    assert (len(running.nodes.reads), second - first) == (3, 2.0)
    assert "0.0 requests/s" in running.screen.frames[0], "the first read has no rate"
    assert "20.0 requests/s  1.0 refusals/s  0.0 IMDS calls/s" in running.screen.frames[1]
    assert "n1: not allowed" in running.screen.frames[1]


@in_virtual_time
async def test_a_key_redraws_immediately_and_q_quits() -> None:
    running = Running()
    await asyncio.sleep(0.1)
    await running.type(b"\x1b[C\x1b[C")
    assert COLUMNS[running.live.view.column].title == "PODS"
    assert "PODS ▼" in running.screen.frames[-1]
    await running.type(b"r")
    assert "PODS ▲" in running.screen.frames[-1]
    assert len(running.nodes.reads) == 1
    await running.type(b"q")
    await asyncio.wait_for(running.task, 0.1)


@in_virtual_time
async def test_a_failed_refresh_is_shown_and_repeated() -> None:
    running = Running()
    await asyncio.sleep(0.1)
    running.nodes.failing = True
    await asyncio.sleep(2.0)
    assert "cannot list the pods of NMI: no response within 30 s; trying again" in running.screen.frames[-1]
    assert "n0" in running.screen.frames[-1], "the last sample remains"
    running.nodes.failing = False
    await asyncio.sleep(2.0)
    assert "cannot list" not in running.screen.frames[-1]
    await running.type(b"q")
    await running.task


@in_virtual_time
async def test_a_failed_first_read_ends_the_command() -> None:
    running = Running()
    running.nodes.failing = True
    with pytest.raises(NoResponse):
        await running.task


async def test_the_terminal_gets_its_mode_back() -> None:
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with keyboard(terminal) as typed:
        assert not termios.tcgetattr(terminal)[3] & termios.ICANON
        os.write(controller, b"\x1b[C")
        assert await asyncio.wait_for(typed.get(), 5) == b"\x1b[C"
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
    os.close(controller)


async def test_a_closed_terminal_quits() -> None:
    controller, terminal = pty.openpty()
    with keyboard(terminal) as typed:
        os.close(controller)
        assert await asyncio.wait_for(typed.get(), 5) == b"q"
        assert not asyncio.get_running_loop().remove_reader(terminal), "it is not read again"
    os.close(terminal)
