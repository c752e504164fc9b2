"""The ids in the requests of the load generator, and their last request on a connection."""

import re

import pytest

from benchmarks.load import requests
from benchmarks.load.generator import Request

CLIENT_ID = "5f8d0c1e-2b7a-4c55-9a34-7f9e2d1c0b6a"
TOKEN = {**requests.SDKS, "curl": requests.curl, "plain": requests.plain}


@pytest.mark.parametrize("name", TOKEN)
def test_an_id_is_within_the_uuid_that_the_sdk_generates(name: str) -> None:
    request = TOKEN[name](CLIENT_ID)
    field = re.search(rb"(?i)\r\nx-ms-client-request-id: ([0-9a-f-]{36})\r\n", request.text)
    assert bool(field) == bool(request.ids) == (name not in {"curl", "plain", "azure-identity, Java"})
    for at in request.ids:
        assert field
        assert at == field.end(1) - 17, "its last 16 digits, and the hyphen between them"


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        (
            b"GET / HTTP/1.1\r\nconnection: Keep-Alive\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nX-Connection: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nX-Connection: a\r\nConnection: close\r\n\r\n",
        ),
    ],
)
def test_a_closing_request_contains_connection_close_once(made: bytes, meant: bytes) -> None:
    assert Request(made).closing().text == meant


def test_ids_keep_their_position_in_a_closing_request() -> None:
    for name, of_sdk in requests.SDKS.items():
        request = of_sdk(CLIENT_ID)
        closing = request.closing()
        of = [each.text[at : at + 17] for each in (request, closing) for at in each.ids]
        assert len(set(of)) <= 1, name
        assert len(request.ids) == len(closing.ids)
