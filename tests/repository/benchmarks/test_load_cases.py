"""The suite's cases send the requests that they describe, and disturb the measurement at their interval."""

import itertools
import threading

import pytest

from _native import query, scan
from benchmarks.load import cases
from benchmarks.load.cases import Load
from benchmarks.load.disturbances import force_refresh, repeated, uncached
from benchmarks.load.generator import Request
from tests.contract.native.fast_refusals import fast_refusal
from tests.support.waiting import LIMIT_SECONDS

LOADS: tuple[Load, ...] = (
    *cases.ON_A_FULL_NODE,
    *(cases.ONE_POD, cases.MANY_PODS, cases.MANY_PODS_CLOSE),
    *cases.BEHIND_THE_RULE,
    *cases.TO_THE_NODE,
)
OTHER_KINDS = {
    "no-header-32": "NO_HEADER",
    "no-resource-32": "NO_RESOURCE",
    "no-path-32": "UNKNOWN_OTHER",
    "instance-32": "INSTANCE",
}
"""Closed loops of requests that are not for a token, and their kind for the fast lane."""


def read_query(request: Request) -> tuple[bytes, int, bytes, bytes] | None:
    """Return the request as the fast lane reads it; None if it belongs to the general lane."""
    outcome, _, text, metadata, *_ = scan.examine(request.text)
    assert outcome == "done"
    assert metadata
    return query.examine(text)


def test_all_requests_of_closed_loops_can_use_the_fast_lane() -> None:
    for load in LOADS:
        for request in load.requests:
            refusal = fast_refusal(request.text)
            assert (refusal.kind if refusal else "") == OTHER_KINDS.get(load.key, "")
            assert refusal or read_query(request)
            closing = request.closing().text
            assert closing.lower().count(b"\r\nconnection:") == closing.count(b"\r\nConnection: close\r\n") == 1


def test_each_cache_miss_requests_a_new_token_and_a_renewal_a_cached_one() -> None:
    request = uncached()
    (place,) = request.ids
    other_text = request.text[:place] + b"fedcba9876543210" + request.text[place + 16 :]
    resources = [match[0] for match in (read_query(request), read_query(Request(other_text))) if match]
    assert resources == [
        b"https://0123456789abcdef.management.azure.com/",
        b"https://fedcba9876543210.management.azure.com/",
    ]
    assert read_query(force_refresh()) is None, "a renewal belongs to the general lane"
    assert b"bypass_cache=true&resource=https%3A%2F%2Fmanagement.azure.com%2F " in force_refresh().text


def test_a_disturbance_is_repeated_until_the_load_ends_and_its_error_is_raised() -> None:
    calls = itertools.count(1)
    third = threading.Event()

    def call() -> None:
        if next(calls) == 3:
            third.set()
            raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"), repeated(call, 0.01):
        assert third.wait(LIMIT_SECONDS)
