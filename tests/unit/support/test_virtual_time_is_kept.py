"""Tests in virtual time cannot use sockets, threads, processes and pauses."""

import asyncio
import inspect
import socket
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from nmi.tokens.governor import Governor
from tests.support import virtual_time
from tests.support.virtual_time import in_virtual_time, now


def listen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


def connect() -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", 1))


def thread() -> None:
    threading.Thread(target=print).start()


def process() -> None:
    subprocess.run(["true"], check=False)


def pause() -> None:
    time.sleep(0.0)


@pytest.mark.parametrize("use", [listen, connect, thread, process, pause])
def test_what_takes_real_time_fails_the_test(use: Callable[[], None]) -> None:
    with pytest.raises(pytest.fail.Exception, match="in a test in virtual time"):
        use()


async def test_an_hour_passes_immediately() -> None:
    began, real = now(), time.monotonic()
    await asyncio.sleep(3600)
    assert now() - began == 3600
    assert time.monotonic() - real < 3600


def test_a_wait_that_does_not_end_fails_although_timers_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tick() -> None:
        while True:
            await asyncio.sleep(60)

    monkeypatch.setattr(virtual_time, "JUMPS_MAX", 100)
    with pytest.raises(RuntimeError, match="waits for an event that has not come after 100 timers"):
        in_virtual_time(tick)()


async def test_a_default_clock_of_the_programs_follows_the_loop() -> None:
    clock = inspect.signature(Governor).parameters["clock"].default
    assert clock() == now()
    await asyncio.sleep(60)
    assert clock() == now()
