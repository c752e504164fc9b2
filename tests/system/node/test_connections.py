"""The program that attempts to connect, against servers on loopback."""

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.system.node import connections
from tests.system.node.connections import ANSWERED, CLOSED, OPEN, REFUSED

LOCAL = "127.0.0.1"
REQUEST = "GET / HTTP/1.1"
RESET_WHILE_CONNECTING = """
import socket
def reset(*arguments):
    raise ConnectionResetError
socket.create_connection = reset
"""


def attempt(port: int, request: str = "", *, before: str = "") -> str:
    command = connections.program(LOCAL, port, request, sys.executable)
    command[2] = before + command[2]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def close(connection: socket.socket) -> None:
    """Do nothing: the caller closes the connection."""


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def wait_for_the_end(connection: socket.socket) -> None:
    connection.recv(4096)


@pytest.mark.parametrize(
    ("behaviour", "request_line", "result"),
    [
        (close, "", CLOSED),
        (reset, "", CLOSED),
        (reset, REQUEST, CLOSED),
        (answer, REQUEST, ANSWERED),
        (wait_for_the_end, "", OPEN),
    ],
)
def test_the_servers_behaviour_is_the_result(
    behaviour: Callable[[socket.socket], object], request_line: str, result: str
) -> None:
    with socket.create_server((LOCAL, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                behaviour(connection)

        threading.Thread(target=serve, daemon=True).start()
        port = int(listener.getsockname()[1])
        assert attempt(port, request_line) == result
    assert attempt(port) == REFUSED, "nothing listens any more"


def test_a_reset_while_the_program_still_connects_is_a_closed_connection() -> None:
    assert attempt(9, before=RESET_WHILE_CONNECTING) == CLOSED
