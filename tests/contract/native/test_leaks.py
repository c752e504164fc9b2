"""No object of a connection remains after any kind of end."""

import asyncio
import gc
import logging
import os
import sys

import pytest
from typing_extensions import override

from _native.connection import Connection
from _native.lane import Lane
from tests.contract.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Recorder, Serving, reset, serving

HOLD, FAIL, FINISH = b"HOLD\r\n\r\n", b"FAIL\r\n\r\n", b"FINISH\r\n\r\n"
ENDINGS = (
    *(REQUEST, LAST_REQUEST, REQUEST * 40 + LAST_REQUEST, OTHER_REQUEST, OTHER_REQUEST[:9], b""),
    *(REQUEST + OTHER_REQUEST, HOLD, FAIL, FINISH),
)
ROUNDS = 15
EACH = 20
"""The number of connections with each kind of end per round. A round takes until the lane notices a lost paused one."""


class General(Recorder):
    @override
    def go_on(self) -> None:
        if self.received == HOLD:
            self.connection.pause()
        elif self.received == FAIL:
            raise RuntimeError("on purpose")
        elif self.received == FINISH:
            self.connection.finish()
        else:
            super().go_on()

    @override
    def peer_gone(self) -> None:
        super().peer_gone()
        self.connection.finish()


def remaining() -> tuple[int, int]:
    """Return the numbers of objects of connections and of descriptors."""
    gc.collect()
    objects = sum(isinstance(item, Connection | General | Lane) for item in gc.get_objects())
    return objects, len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one number is all that is wanted


async def connect_and_end(lane: Serving) -> None:
    socks = []
    for data in ENDINGS * EACH:
        sock = lane.connected()
        if data:
            sock.send(data)
        socks.append(sock)
    for _ in range(2):
        await asyncio.sleep(0)
    for number, sock in enumerate(socks):
        if number % 3:
            sock.close()
        else:
            reset(sock)
    await lane.until(lambda: lane.count("open") == 0)


async def serve_thousands() -> int:
    """Return the number of references to the record at the end."""
    async with serving(General) as lane:
        before = sys.getrefcount(lane.record)
        for _ in range(ROUNDS):
            await connect_and_end(lane)
        assert lane.count("accepted") == ROUNDS * len(ENDINGS) * EACH
        assert lane.generals
        return sys.getrefcount(lane.record) - before


async def test_thousands_of_connections_leave_no_objects_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "_native.disconnects")  # the record of a failure refers to its general lane
    before = remaining()
    assert await serve_thousands() == 0
    await asyncio.sleep(0)
    assert remaining() == before
