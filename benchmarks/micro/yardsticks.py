"""What the data plane is held against: the oracle, which is slow and obvious, and httptools, which is in C."""

import json
import time
from collections.abc import Sequence

import httptools

from tests.oracle.requests import Asked, judge_target, read


class Silent:
    """Hears nothing of what is parsed."""

    __slots__ = ()


class Attentive:
    """What a server needs to hear: target, fields, and that the head has ended."""

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
    """Nanoseconds of CPU, and how many of *heads* it took for token requests."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for head in heads:
            taken += isinstance(read(head), Asked)
    return time.thread_time_ns() - begun, taken


def oracle_judges(targets: Sequence[str], times: int) -> tuple[int, int]:
    """Likewise, for targets that it takes."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for target in targets:
            taken += bool(judge_target(target)[0])
    return time.thread_time_ns() - begun, taken


def httptools_parses(heads: Sequence[bytes], times: int) -> tuple[int, int]:
    """Without a callback; one parser for all, as on a connection that is kept."""
    parser = httptools.HttpRequestParser(Silent())
    feed = parser.feed_data
    begun = time.thread_time_ns()
    for _ in range(times):
        for head in heads:
            feed(head)
    return time.thread_time_ns() - begun, times * len(heads)


def httptools_tells(heads: Sequence[bytes], times: int) -> tuple[int, int]:
    """With callbacks in Python, which keep what they are told."""
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
    """parse_url, which decodes nothing."""
    taken = 0
    begun = time.thread_time_ns()
    for _ in range(times):
        for target in targets:
            taken += httptools.parse_url(target).query is not None
    return time.thread_time_ns() - begun, taken


def json_writes(token: str, seconds: int, times: int) -> tuple[int, int]:
    """An answer as the obvious server makes it."""
    taken = 0
    begun = time.thread_time_ns()
    for at in range(times):
        body = json.dumps({"access_token": token, "expires_in": str(seconds - at), "token_type": "Bearer"}).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        taken += len(head + body) > 0
    return time.thread_time_ns() - begun, taken
