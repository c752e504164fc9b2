"""The load generator counts wrong responses and connection errors by kind."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks.load_server import OK, Server, group, measure, serving, write_and_close

pytestmark = pytest.mark.measures


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


HEAD = b"HTTP/1.1 200 OK\r\n"
WRONG: dict[str, tuple[str, Callable[[asyncio.StreamWriter], Any]]] = {
    "a byte more than its length": ("excess", lambda writer: writer.write(OK + b"x")),
    "two answers": ("excess", lambda writer: writer.write(OK + OK)),
    "cut within its body": ("short", lambda writer: write_and_close(writer, OK[:-1])),
    "cut within its head": ("short", lambda writer: write_and_close(writer, OK[:20])),
    "closed without a word": ("closed", lambda writer: write_and_close(writer, b"")),
    "reset": ("reset", reset),
    "no length": ("framing", lambda writer: write_and_close(writer, HEAD + b"\r\n")),
    "chunked": ("framing", lambda writer: writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    "two lengths": ("framing", lambda writer: writer.write(HEAD + b"Content-Length: 0\r\n" * 2 + b"\r\n")),
    "a length that is no number": ("framing", lambda writer: writer.write(HEAD + b"Content-Length: 1x\r\n\r\n")),
    "an empty length": ("framing", lambda writer: writer.write(HEAD + b"Content-Length: \r\n\r\n")),
    "HTTP/1.0": ("framing", lambda writer: writer.write(OK.replace(b"1.1", b"1.0", 1))),
    "a status of letters": ("framing", lambda writer: writer.write(OK.replace(b"200", b"2OO", 1))),
    "bare line feeds": ("framing", lambda writer: writer.write(OK.replace(b"\r\n", b"\n"))),
    "a head without end": ("framing", lambda writer: writer.write(HEAD + b"X: " + b"x" * 5000)),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_answer_is_counted_by_its_kind(wrong: str) -> None:
    kind, answer = WRONG[wrong]
    begin = time.monotonic()
    async with serving(lambda _server, number, writer: answer(writer) if number > 8 else writer.write(OK)) as server:
        measured = await measure(server, group())
    assert list(measured.errors) == [kind]
    assert measured.errors[kind] == len(server.heads) - 8
    assert len(server.peers) > 4, "its connections are opened again"
    assert measured.statuses == {200: 8}
    assert time.monotonic() - begin < 30


async def test_a_second_answer_is_counted_as_excess() -> None:
    async def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.5)  # the generator has read the first one
        writer.write(OK)

    async with serving(answer) as server:
        measured = await measure(server, group(15, rate=10), seconds=1.5)
    # Each connection has one request: else a late answer would be taken for that of the next request.
    assert measured.statuses == {200: 15}
    assert measured.errors.keys() == {"excess"}


async def test_a_server_without_keep_alive_is_detected() -> None:
    async with serving(lambda _server, _number, writer: write_and_close(writer, OK)) as server:
        measured = await measure(server, group(), seconds=4.5)  # longer than it takes to give up
    assert measured.statuses == {200: len(server.heads)}
    assert measured.errors.keys() <= {"closed", "reset"}, (
        "which it is depends on whether the next request has been sent"
    )
    assert len(server.heads) - 4 <= sum(measured.errors.values()) <= len(server.heads), "the last four after the end"


async def test_a_server_that_does_not_close_is_detected() -> None:
    async def answer(_server: Server, _number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(4)

    async with serving(answer) as server:
        measured = await measure(server, group(close=True), seconds=1.5)
    assert measured.statuses == {200: 4}
    assert measured.errors == {"unclosed": 4}


async def test_a_connection_error_after_the_end_is_ignored() -> None:
    def answer(_server: Server, number: int, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("peername")[0] == "127.6.0.2":
            return  # so that there is something to wait for after the end
        if number <= 2:
            asyncio.get_running_loop().call_later(0.7, writer.close)
        writer.write(OK)

    async with serving(answer) as server:
        measured = await measure(server, group(2, source=("127.6.0.1", 2)))
    assert measured.errors == {"unanswered": 1}
