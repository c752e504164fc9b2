"""The program of load pods: what it reports for the responses of a server on loopback."""

import base64
import contextlib
import json
import os
import socket
import socketserver
import subprocess
import threading
from collections import Counter

import pytest
from typing_extensions import override

from tests.system.node.evaluation import parse_load_log
from tests.system.node.programs import compiled

pytestmark = pytest.mark.tools


def response(status: int, body: str = "", fields: str = "") -> bytes:
    return f"HTTP/1.1 {status} Any\r\nContent-Length: {len(body)}\r\n{fields}\r\n{body}".encode()


def token_response(claims: dict[str, str]) -> bytes:
    encoded = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=").decode()
    body = json.dumps({"access_token": f"head.{encoded}.signature", "expires_in": "3600"}, separators=(",", ":"))
    return response(200, body)


def outcomes(port: int, new_percent: int = 50) -> Counter[str]:
    """Return what the program counts for 20 requests or more, as the test bed reads it from a container's log."""
    variables = {"RATE": "400", "NEW_PERCENT": str(new_percent), "HOST": "127.0.0.1", "PORT": str(port)}
    counts: Counter[str] = Counter()
    with subprocess.Popen(
        [compiled("load_client")], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # one each second, and one at the end
            counts += parse_load_log(f"2026-01-01T00:00:00Z stdout F {line}")[0]
            if counts.total() >= 20:
                process.terminate()
    assert process.returncode == 0
    return counts


def outcomes_of(sent: bytes, new_percent: int = 50) -> Counter[str]:
    """Return the outcomes with a server that answers each request with these bytes in two parts."""

    class Handler(socketserver.BaseRequestHandler):
        @override
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                while sent and b"\r\n\r\n" in self.request.recv(4096):
                    cut = len(sent) // 2
                    self.request.sendall(sent[:cut])
                    self.request.sendall(sent[cut:])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return outcomes(server.server_address[1], new_percent)
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            token_response({"appid": "client", "xms_mirid": "/subscriptions/s/userAssignedIdentities/demo"}),
            "token demo",
        ),
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
    assert set(outcomes_of(answer)) == {f"new {expected}", f"kept {expected}"}


def test_a_refused_connection_is_no_response() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert set(outcomes(unused.getsockname()[1])) == {"new refused", "kept refused"}


def test_a_closing_server_costs_the_next_request_nothing() -> None:
    assert set(outcomes_of(response(404, fields="Connection: close\r\n"), new_percent=0)) == {"kept http 404"}
