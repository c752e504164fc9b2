"""The program of load pods: what it reports for the responses of a server on loopback."""

import base64
import json
import os
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.system.node.evaluation import parse_load_log
from tests.system.node.programs import compiled

pytestmark = pytest.mark.tools


def token_response(claims: dict[str, str]) -> bytes:
    encoded = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=").decode()
    body = json.dumps({"access_token": f"head.{encoded}.signature", "expires_in": "3600"}, separators=(",", ":"))
    return response(200, body)


def response(status: int, body: str = "", fields: str = "") -> bytes:
    return f"HTTP/1.1 {status} Any\r\nContent-Length: {len(body)}\r\n{fields}\r\n{body}".encode()


MANAGED = token_response({"appid": "client", "xms_mirid": "/subscriptions/s/userAssignedIdentities/demo"})


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Answer each request with these bytes in two parts, and yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while b"\r\n\r\n" in connection.recv(4096):
                cut = len(answer) // 2
                connection.sendall(answer[:cut])
                connection.sendall(answer[cut:])
                if not answer:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()


def outcomes(port: int, *, new_percent: int = 50) -> Counter[str]:
    """Return what the program counts for 20 requests or more, as the test bed reads it from a container's log."""
    variables = {"RATE": "400", "NEW_PERCENT": str(new_percent), "HOST": "127.0.0.1", "PORT": str(port)}
    process = subprocess.Popen(
        [compiled("load_client")], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed: list[str] = []
    while counted(printed).total() < 20:
        printed.append(process.stdout.readline())  # one each second; then the program handles SIGTERM
    process.terminate()
    printed += process.communicate(timeout=30)[0].splitlines()
    assert process.returncode == 0
    return counted(printed)


def counted(printed: list[str]) -> Counter[str]:
    found, _ = parse_load_log("\n".join(f"2026-01-01T00:00:00Z stdout F {line.strip()}" for line in printed))
    return found


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (MANAGED, "token demo"),
        (token_response({"appid": "00000000-client"}), "token 00000000-client"),
        (token_response({"appid": "text with spaces"}), "token text?with?spaces"),
        (response(404, "nothing"), "http 404"),
        (response(200, "{}"), "invalid"),
        (b"HTTP/1.1 200 Any\r\n\r\n", "invalid"),
        (b"SSH-2.0-server\r\nContent-Length: 0\r\n\r\n", "invalid"),
        (b"", "closed"),
    ],
)
def test_each_response_is_counted_by_its_content(answer: bytes, expected: str) -> None:
    with server(answer) as port:
        counted = outcomes(port)
    assert {each.split(" ", 1)[1] for each in counted} == {expected}
    assert {each.split(" ", 1)[0] for each in counted} == {"new", "kept"}


def test_a_refused_connection_is_no_response() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert set(outcomes(unused.getsockname()[1])) == {"new refused", "kept refused"}


def test_a_closing_server_costs_the_next_request_nothing() -> None:
    with server(response(404, fields="Connection: close\r\n")) as port:
        assert set(outcomes(port, new_percent=0)) == {"kept http 404"}
