"""Functions for comparison with the data plane: the oracle, which is simple and slow, and httptools, which is in C."""

import json
import time
from collections.abc import Sequence

import httptools

from tests.support.oracle.requests import Asked, judge_target, read


class Silent:
    """Callbacks that ignore the parsed parts."""

    __slots__ = ()


class Attentive:
    """Callbacks that a server needs: target, fields, and the end of the head."""

    __slots__ = ("ended", "fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.ended = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.ended = True


def oracle_reads(heads: Sequence[bytes], times: int) -> tuple[int, int]:
    """Return CPU nanoseconds, and the number of *heads* that it accepted as token requests."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for head in heads:
            taken += isinstance(read(head), Asked)
    return time.thread_time_ns() - begun, taken


def oracle_judges(targets: Sequence[str], times: int) -> tuple[int, int]:
    """Return CPU nanoseconds, and the number of accepted targets."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for target in targets:
            taken += bool(judge_target(target)[0])
    return time.thread_time_ns() - begun, taken


def httptools_parses(heads: Sequence[bytes], times: int) -> tuple[int, int]:
    """Parse without callbacks, with one parser for all heads, as on a kept connection."""
    parser = httptools.HttpRequestParser(Silent())
    feed = parser.feed_data
    begun = time.thread_time_ns()
    for _ in range(times):
        for head in heads:
            feed(head)
    return time.thread_time_ns() - begun, times * len(heads)


def httptools_tells(heads: Sequence[bytes], times: int) -> tuple[int, int]:
    """Parse with callbacks in Python that store their arguments."""
    heard = Attentive()
    feed = httptools.HttpRequestParser(heard).feed_data
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for head in heads:
            heard.target, heard.fields, heard.ended = b"", [], False
            feed(head)
            taken += heard.ended
    return time.thread_time_ns() - begun, taken


def httptools_splits(targets: Sequence[bytes], times: int) -> tuple[int, int]:
    """Parse with parse_url, which does not decode."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for target in targets:
            taken += httptools.parse_url(target).query is not None
    return time.thread_time_ns() - begun, taken


def json_writes(token: str, seconds: int, times: int) -> tuple[int, int]:
    """Build a response in the straightforward way."""
    taken = 0
    begun = time.thread_time_ns()
    for at in range(times):
        body = json.dumps({"access_token": token, "expires_in": str(seconds - at), "token_type": "Bearer"}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        taken += len(head + body) > 0
    return time.thread_time_ns() - begun, taken
