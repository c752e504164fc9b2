"""The requests and groups of the load generator: their ids, requests that close the connection, and invalid groups."""

import re
from dataclasses import replace

import pytest

from benchmarks.load import generator, requests
from benchmarks.load.generator import Group, Request
from benchmarks.load.requests import curl

CLIENT_ID = "5f8d0c1e-2b7a-4c55-9a34-7f9e2d1c0b6a"
TEXT = b"GET / HTTP/1.1\r\nHost: h\r\nId: 0123456789abcdef\r\n\r\n"
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
    ("fields", "closing"),
    [
        (b"Host: h\r\n", b"Host: h\r\nConnection: close\r\n"),
        (b"connection: Keep-Alive\r\nHost: h\r\n", b"Connection: close\r\nHost: h\r\n"),
        (b"Connection: close\r\nHost: h\r\n", b"Connection: close\r\nHost: h\r\n"),
        (b"X-Connection: a\r\n", b"X-Connection: a\r\nConnection: close\r\n"),
    ],
)
def test_a_closing_request_contains_connection_close_once(fields: bytes, closing: bytes) -> None:
    assert Request(b"GET / HTTP/1.1\r\n%s\r\n" % fields).closing().text == b"GET / HTTP/1.1\r\n%s\r\n" % closing


def test_ids_keep_their_position_in_a_closing_request() -> None:
    for name, of_sdk in requests.SDKS.items():
        request = of_sdk(CLIENT_ID)
        closing = request.closing()
        of = [each.text[at : at + 17] for each in (request, closing) for at in each.ids]
        assert len(set(of)) <= 1, name
        assert len(request.ids) == len(closing.ids)


ONE = Group("one", 1, "127.0.0.1", 1, (curl(),))


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ([replace(ONE, connections=0)], "line 5: CONNECTIONS has to be a number from 1 to 20000"),
        ([replace(ONE, first_source="localhost")], "line 5: FIRST_SOURCE is no IPv4 address"),
        ([replace(ONE, requests=())], "line 5: REQUESTS"),
        ([replace(ONE, rate=0)], "line 5: MILLIHERTZ"),
        ([replace(ONE, requests=(Request(TEXT, (3,)),))], "OFFSET is not where 16 hexadecimal digits begin"),
        ([ONE, ONE], "a name of its own, not one, one"),
    ],
)
def test_a_rejection_raises_a_value_error_for_the_caller(refused: list[Group], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        generator.run("127.0.0.1", 9, refused, 0.01)
