"""The groups of the load generator: requests that close the connection, and invalid groups."""

from dataclasses import replace

import pytest

from benchmarks.load import generator
from benchmarks.load.generator import Group, Request
from benchmarks.load.requests import curl

TEXT = b"GET / HTTP/1.1\r\nHost: h\r\nId: 0123456789abcdef\r\n\r\n"


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
