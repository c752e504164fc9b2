"""An exception of the general lane closes one connection, never the lane, and is logged once."""

import asyncio
import logging
from functools import partial

import pytest
from typing_extensions import override

from _native.connection import Connection
from tests.contract.native.serving import OTHER_REQUEST, REQUEST, Holding, Recorder, Serving, serving


class Broken(Holding):
    """A general lane that raises *error* in the method of *call*."""

    def __init__(self, connection: Connection, call: str = "data", error: type[BaseException] = RuntimeError) -> None:
        super().__init__(connection)
        self.call, self.error = call, error

    @override
    def note(self, call: str) -> None:
        super().note(call)
        if call == self.call:
            raise self.error("on purpose")


interrupted = partial(Broken, error=KeyboardInterrupt)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_failing_handler_ends_its_connection_only(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(partial(Broken, error=error)) as lane:
        peer, other = await lane.connect(), await lane.connect()
        assert b" 200 " in await other.ask()
        peer.send(OTHER_REQUEST)
        assert await peer.ending() == b""
        await lane.generals[0].until("lost")
        assert b" 200 " in await other.ask()
        assert lane.count("failed") == 1
    (record,) = [line for line in caplog.records if line.name == "_native.disconnects"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert vars(record)["peer"] == "127.0.0.1"


async def test_a_handler_that_fails_at_the_end_notification_affects_no_other_connection() -> None:
    async with serving(partial(Broken, call="lost")) as lane:
        peer, general = await lane.held()
        general.connection.finish()
        await peer.close()
        await lane.until(lambda: lane.count("failed") == 1)
        assert b" 200 " in await (await lane.connect()).ask()


async def test_a_handler_that_fails_at_a_disconnect_loses_its_connection() -> None:
    async with serving(partial(Broken, call="peer gone")) as lane:
        peer, general = await lane.held()
        peer.half_close()
        await general.until("lost")
        assert general.calls == ["data", "peer gone", "lost"]


async def test_a_general_lane_that_cannot_be_created_ends_the_connection() -> None:
    def impossible(connection: Connection) -> Recorder:
        raise RuntimeError("no general lane today")

    async with serving(impossible) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.ending() == b""
        assert (lane.count("open"), lane.count("failed")) == (0, 1)


async def test_an_interrupt_is_propagated_and_the_lane_can_continue() -> None:
    async with serving(interrupted) as lane:
        with lane.connected() as first, lane.connected() as second:
            first.send(OTHER_REQUEST)
            with pytest.raises(KeyboardInterrupt):
                lane.iterate()
            assert lane.generals[0].calls == ["data", "lost"]
            second.send(REQUEST)
            lane.iterate()
            assert second.recv(15) == b"HTTP/1.1 200 OK"


async def test_an_interrupt_leaves_no_connection_waiting() -> None:
    async with serving(interrupted) as lane:
        with lane.connected() as first, lane.connected() as second:
            first.send(REQUEST * 32 + OTHER_REQUEST)
            second.send(REQUEST * 64)
            lane.iterate()
            assert lane.count("fast_answers") == 64, "one share each"
            with pytest.raises(KeyboardInterrupt):
                lane.lane._serve_queue()  # type: ignore[attr-defined]  # private, and so not in the stub
            await lane.until(lambda: lane.count("fast_answers") == 96)


async def test_an_interrupt_in_one_end_notification_does_not_prevent_the_others() -> None:
    interrupts = [KeyboardInterrupt()]

    class InterruptedOnce(Holding):
        @override
        def connection_lost(self) -> None:
            super().connection_lost()
            if interrupts:
                raise interrupts.pop()

    async with serving(InterruptedOnce) as lane:
        for _ in range(3):
            await lane.held()
        with pytest.raises(KeyboardInterrupt):
            lane.lane.close()
        for general in lane.generals:
            await general.until("lost")


async def test_end_notifications_run_one_after_the_other_and_never_nested() -> None:
    depths = [0]

    class EndingAll(Holding):
        @override
        def connection_lost(self) -> None:
            depths.append(depths[-1] + 1)
            super().connection_lost()
            lane.lane.close_idle()
            depths.append(depths[-1] - 1)

    async with serving(EndingAll) as lane:
        for _ in range(3):
            await lane.held()
        lane.lane.close()
    assert depths == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("end", ["finish", "close the lane"])
async def test_a_general_lane_created_for_an_ended_connection_is_notified(end: str) -> None:
    made: list[Serving] = []

    def ending(connection: Connection) -> Recorder:
        if end == "finish":
            connection.finish()
        else:
            made[0].lane.close()
        return Recorder(connection)

    async with serving(ending) as lane:
        made.append(lane)
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        assert await peer.ending() == b""
        await peer.close()
        await lane.generals[0].until("lost")
        assert lane.generals[0].calls == ["lost"]


async def test_repeated_failures_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Broken) as lane:
        for _ in range(20):
            peer = await lane.connect()
            peer.send(OTHER_REQUEST)
            await peer.ending()
        assert lane.count("failed") == 20
    assert len([record for record in caplog.records if record.name == "_native.disconnects"]) == 1
