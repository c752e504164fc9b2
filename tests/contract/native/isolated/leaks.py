"""Serve thousands of connections that end in every way, then count the remaining objects.

test_leaks.py runs it in a separate interpreter. The exit code is 1, after a line of output, if objects remain.
"""

import asyncio
import gc
import os
import socket
import sys

import uvloop

from _native.connection import Connection
from _native.lane import Lane, Limits
from tests.contract.native.isolated.lanes import REQUEST, index_with_an_answer

LAST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
OTHER = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ENDINGS = (REQUEST, LAST, REQUEST * 40 + LAST, OTHER, OTHER[:9], b"", REQUEST + OTHER, b"HOLD", b"FAIL", b"FINISH")
ROUNDS = 15
EACH = 20
"""The number of connections with each kind of end per round. A round takes until the lane notices a lost paused one."""


class General:
    made = lost = 0

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        General.made += 1

    def data_received(self, data: bytes) -> None:
        if data == b"HOLD":
            self.connection.pause()
        elif data == b"FAIL":
            raise RuntimeError("on purpose")
        elif data == b"FINISH":
            self.connection.write(b"bye")
            self.connection.finish()
        elif data.endswith(b"\r\n\r\n"):
            self.connection.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            self.connection.resume()

    def peer_gone(self) -> None:
        self.connection.finish()

    def connection_lost(self) -> None:
        General.lost += 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one number is all that is wanted


async def storm(port: int, lane: Lane) -> None:
    for _ in range(ROUNDS):
        socks = []
        for data in ENDINGS * EACH:
            sock = socket.socket()
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            if data:
                sock.send(data)
            socks.append(sock)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for at, sock in enumerate(socks):
            if at % 3 == 0:  # with a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        while lane.counters()["open"]:
            await asyncio.sleep(0.001)


async def main() -> str:
    index = index_with_an_answer("127.0.0.1")
    record = index.get("127.0.0.1")
    before = descriptors()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        listener.setblocking(False)
        lane = Lane(index=index, general=General, limits=Limits())
        lane.start(asyncio.get_running_loop(), listener)
        await storm(listener.getsockname()[1], lane)
        counters = lane.counters()
        lane.close()
    await asyncio.sleep(0)
    gc.collect()
    alive = [type(each).__name__ for each in gc.get_objects() if isinstance(each, Connection | General)]
    lane_references = sys.getrefcount(record)
    if counters["accepted"] != ROUNDS * len(ENDINGS) * EACH:
        return f"not everybody was accepted: {counters}"
    if General.made != General.lost or not General.made:
        return f"{General.made} general lanes were made, {General.lost} were notified of their end"
    if alive:
        return f"still there: {alive[:5]} and {len(alive)} in all"
    if lane_references > 3:
        return f"the record is held {lane_references} times"
    if descriptors() != before:
        return f"{descriptors() - before} descriptors more than before"
    return ""


complaint = uvloop.run(main())
if complaint:
    sys.exit(complaint)
