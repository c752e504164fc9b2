"""The listener causes no busy loop and is never given up, whatever fails."""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import Mock

import pytest

from _native.index import Index
from _native.lane import Lane, Limits
from tests.contract.native.test_lane_limits import no_more_descriptors
from tests.support.nmi.server.limits import limits_with


class HandLoop:
    """The loop methods that a Lane uses; the test runs the registered callbacks."""

    def __init__(self) -> None:
        self.epoll = -1
        self.iterate: Callable[[], None] = lambda: None
        self.later: list[Callable[[], None]] = []
        self.out_of_memory = False

    def add_reader(self, fd: int, call: Callable[[], None]) -> None:
        self.epoll, self.iterate = fd, call

    def remove_reader(self, fd: int) -> None:
        assert fd == self.epoll

    def call_later(self, seconds: float, call: Callable[[], None]) -> Mock:
        assert seconds > 0
        if self.out_of_memory:
            raise MemoryError("on purpose")
        self.later.append(call)
        return Mock()  # nothing runs by itself here

    def call_soon(self, call: Callable[[], None]) -> None:
        self.later.append(call)

    def is_ready(self) -> bool:
        """Whether a loop would call the lane again immediately."""
        return bool(select.select([self.epoll], [], [], 0)[0])


def no_lane(connection: Any) -> Any:
    raise AssertionError(connection)


@contextmanager
def listening(
    limits: Limits | None = None, general: Callable[[Any], Any] = no_lane, index: Index | None = None
) -> Iterator[tuple[HandLoop, socket.socket, Lane]]:
    loop, lane = HandLoop(), Lane(index=index or Index(), general=general, limits=limits or limits_with())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        lane.start(cast("asyncio.AbstractEventLoop", loop), listener)
        yield loop, listener, lane
        lane.close()


def test_a_connection_without_memory_is_closed_and_not_counted() -> None:
    with listening(limits_with(connections_per_peer=1)) as (loop, listener, lane):
        loop.out_of_memory = True
        with socket.create_connection(listener.getsockname()) as unlucky:
            loop.iterate()
            assert unlucky.recv(1) == b""
        assert (lane.counters()["open"], lane.counters()["failed"]) == (0, 1)
        loop.out_of_memory = False
        with socket.create_connection(listener.getsockname()) as next_one:
            next_one.setblocking(False)
            loop.iterate()
            assert (lane.counters()["open"], lane.counters()["refused_peer"]) == (1, 0)
            with pytest.raises(BlockingIOError):
                next_one.recv(1)


def test_a_socket_that_is_not_listening_is_rejected() -> None:
    lane = Lane(index=Index(), general=no_lane, limits=limits_with())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        with pytest.raises(ValueError, match="listen"):
            lane.start(cast("asyncio.AbstractEventLoop", HandLoop()), sock)
    lane.close()


def test_a_listener_shut_down_elsewhere_does_not_cause_a_busy_loop() -> None:
    with listening() as (loop, listener, _):
        listener.shutdown(socket.SHUT_RDWR)
        assert loop.is_ready()
        loop.iterate()
        assert not loop.is_ready()
        loop.later.pop()()
        assert loop.is_ready(), "it is tried again after a while"


def test_watching_a_listener_is_retried_after_a_failure() -> None:
    with listening() as (loop, listener, _), socket.create_connection(listener.getsockname()):
        with no_more_descriptors():
            loop.iterate()
        assert not loop.is_ready()
        with select.epoll.fromfd(os.dup(loop.epoll)) as same:
            same.register(listener, 0)  # so that the lane cannot
            loop.later.pop()()
            assert not loop.is_ready()
            same.unregister(listener)
            loop.later.pop()()
        assert loop.is_ready()


def test_connections_use_reno_whatever_the_machines_default_is() -> None:
    with listening() as (loop, listener, _), socket.create_connection(listener.getsockname()):
        assert loop.is_ready()
        accepted, _ = listener.accept()  # instead of the lane, to inspect it
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
