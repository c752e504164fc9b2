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
from tests.support.virtual_time import now


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


async def test_a_default_clock_of_the_programs_follows_the_loop() -> None:
    clock = inspect.signature(Governor).parameters["clock"].default
    assert clock() == now()
    await asyncio.sleep(60)
    assert clock() == now()
