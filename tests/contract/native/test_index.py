"""The address index, the pod records, the bytes of their ready responses, and the histograms that count them."""

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _native.histogram import Histogram
from _native.index import READY_RESPONSES_MAX, UNKNOWN_ADDRESSES_MAX, Index, PodRecord
from _native.ready_responses import ReadyResponse, TokenResponse, Usage

NOW = time.monotonic_ns()
FOR_EVER = NOW + 10**15


def response(fresh_until_ns: int = FOR_EVER, expires_ns: int = FOR_EVER) -> ReadyResponse:
    series = Histogram([1]).series(())
    return TokenResponse(
        before=b"", after=b"", expires_ns=expires_ns, fresh_until_ns=fresh_until_ns, series=series, usage=Usage()
    )


Key = tuple[bytes, int, bytes, bytes]
"""Resource, selector kind, selector value, xms_cc."""


def plain(resource: bytes) -> Key:
    return (resource, 0, b"", b"")


def admit(record: PodRecord, ready: ReadyResponse, key: Key) -> bool:
    resource, kind, value, xms_cc = key
    return record.admit(
        record.generation, resource=resource, selector_kind=kind, selector_value=value, xms_cc=xms_cc, response=ready
    )


def test_an_address_finds_its_last_record_until_that_is_removed() -> None:
    index, record, new = Index(), PodRecord("owner"), PodRecord("new")
    index.put("10.0.0.1", record)
    assert index.get("10.0.0.1") is record
    assert index.get("10.0.0.2") is None
    index.put("10.0.0.1", new)
    assert len(index) == 1
    assert not index.remove("10.0.0.1", record), "it is the other's"
    assert index.get("10.0.0.1") is new
    assert index.remove("10.0.0.1", new)
    assert not index.remove("10.0.0.1", new)
    assert len(index) == 0


def test_one_record_may_have_addresses_of_both_kinds_which_are_not_equivalent() -> None:
    index, record = Index(), PodRecord(None)
    for address in ("10.0.0.1", "fd00::1", "::ffff:10.0.0.2"):
        index.put(address, record)
    assert index.get("FD00:0::1") is index.get("10.0.0.1") is record
    assert index.get("10.0.0.2") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0", "10.1", "0x0a.0.0.1", "167772161", "10.0.0.256", "010.0.0.1", "10.0.0.1 ", "localhost"),
        *("fd00::1%eth0", "é"),
    ],
)
def test_an_invalid_address_is_rejected(text: str) -> None:
    index = Index()
    with pytest.raises(ValueError, match="not an IP address"):
        index.put(text, PodRecord(None))
    with pytest.raises(ValueError, match="not an IP address"):
        index.get(text)


def test_ten_thousand_addresses_find_their_own_records() -> None:
    index = Index()
    first = int(ipaddress.ip_address("10.244.0.0"))
    records = {str(ipaddress.ip_address(first + at)): PodRecord(at) for at in range(10_000)}
    for address, record in records.items():
        index.put(address, record)
    assert all(index.get(address) is record for address, record in records.items())


@pytest.mark.parametrize(
    "other",
    [(b"r2", 1, b"v", b"c"), (b"r", 2, b"v", b"c"), (b"r", 1, b"w", b"c"), (b"r", 1, b"v", b"d"), (b"r", 0, b"", b"c")],
)
def test_a_lookup_compares_each_part_of_the_key(other: Key) -> None:
    record, ready = PodRecord(None), response()
    assert admit(record, ready, (b"r", 1, b"v", b"c"))
    assert record.find(b"r", 1, b"v", b"c", NOW) is ready
    assert record.find(*other, NOW) is None


def test_parts_of_the_key_do_not_run_into_each_other() -> None:
    record = PodRecord(None)
    admit(record, response(), (b"ab", 1, b"c", b""))
    assert record.find(b"a", 1, b"bc", b"", NOW) is None
    assert record.find(b"ab", 1, b"", b"c", NOW) is None


def test_a_selector_matches_in_any_case_and_a_resource_does_not() -> None:
    record, ready = PodRecord(None), response()
    admit(record, ready, (b"Res", 1, b"AbC", b""))
    assert record.find(b"Res", 1, b"aBc", b"", NOW) is ready
    assert record.find(b"res", 1, b"abc", b"", NOW) is None


def test_an_answer_of_an_older_decision_is_not_stored() -> None:
    record = PodRecord(None)
    for name in (b"a", b"b"):
        admit(record, response(), plain(name))
    decided = record.generation
    assert record.invalidate() == decided + 1 == record.generation
    assert not record.admit(
        decided, resource=b"r", selector_kind=0, selector_value=b"", xms_cc=b"", response=response()
    )
    assert [record.find(*plain(name), NOW) for name in (b"a", b"b", b"r")] == [None, None, None]


@pytest.mark.parametrize(("fresh", "expires"), [(NOW, FOR_EVER), (FOR_EVER, NOW)], ids=["not-fresh", "expired"])
def test_an_answer_that_is_not_fresh_is_not_found(fresh: int, expires: int) -> None:
    record, ready = PodRecord("owner"), response(fresh, expires)
    admit(record, ready, plain(b"r"))
    assert record.find(*plain(b"r"), NOW - 1) is ready
    assert record.find(*plain(b"r"), NOW) is None


def test_the_least_used_answer_of_the_pod_is_removed_when_there_are_too_many() -> None:
    record, other_record = PodRecord(None), PodRecord("other")
    admit(other_record, response(), plain(b"r"))
    names = [b"%d" % at for at in range(READY_RESPONSES_MAX)]
    for name in names:
        assert admit(record, response(), plain(name))
    for name in names[1:]:
        assert record.find(*plain(name), NOW) is not None
    assert admit(record, response(), plain(b"one more"))
    assert record.find(*plain(names[0]), NOW) is None
    assert all(record.find(*plain(name), NOW) for name in [*names[1:], b"one more"])
    assert other_record.find(*plain(b"r"), NOW) is not None


def test_a_key_that_no_fast_request_can_have_is_not_kept() -> None:
    record = PodRecord(None)
    assert not admit(record, response(), plain(b"r" * 1537))
    assert admit(record, response(), plain(b"r" * 1536))


def test_records_of_unknown_addresses_are_bounded_and_end_with_a_pod() -> None:
    index, first = Index(), "10.1.0.0"
    record = index.unknown(first)
    assert index.unknown(first) is record
    assert (index.get(first), len(index)) == (None, 0)
    for number in range(1, UNKNOWN_ADDRESSES_MAX):
        index.unknown(f"10.1.0.{number}")
    assert index.unknown(first) is record
    index.unknown("10.2.0.0")
    assert index.unknown(first) is not record
    pod = PodRecord("pod")
    index.put("10.2.0.0", pod)
    with pytest.raises(ValueError, match="belongs to a pod"):
        index.unknown("10.2.0.0")
    assert index.get("10.2.0.0") is pod


SECOND = 10**9
START = 1_000 * SECOND
BEFORE, AFTER = b'{"access_token":"t","expires_in":"', b'","token_type":"Bearer"}'


def living(lives_seconds: int, before: bytes = BEFORE, after: bytes = AFTER) -> TokenResponse:
    return TokenResponse(
        before=before,
        after=after,
        expires_ns=START + lives_seconds * SECOND,
        fresh_until_ns=START,
        series=Histogram([1]).series(()),
        usage=Usage(),
    )


def expected(seconds: int, *, close: bool) -> bytes:
    body = BEFORE + str(seconds).encode() + AFTER
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *([b"Connection: close"] if close else []), b"", b""]) + body


@pytest.mark.parametrize("lives", [0, 1, 9, 10, 86_399, 10**9])
@pytest.mark.parametrize("close", [False, True])
def test_a_ready_response_is_complete_and_contains_the_remaining_seconds(lives: int, close: bool) -> None:
    assert living(lives).render(START, close) == expected(lives, close=close)


def test_the_remaining_seconds_are_rounded_down_to_0() -> None:
    ready = living(100)
    assert b'"expires_in":"100"' in ready.render(START)
    assert b'"expires_in":"99"' in ready.render(START + 1)
    assert b'"expires_in":"99"' in ready.render(START + SECOND)
    assert b'"expires_in":"98"' in ready.render(START + SECOND + 1)
    assert ready.render(START + 10**18) == expected(0, close=False)


@given(steps=st.lists(st.tuples(st.integers(-10, 200_000), st.booleans()), max_size=30))
def test_the_remaining_seconds_do_not_depend_on_earlier_writes(steps: list[tuple[int, bool]]) -> None:
    ready = living(120_000)
    for passed, close in steps:
        assert ready.render(START + passed * SECOND, close) == expected(max(0, 120_000 - passed), close=close)


def test_an_answer_has_at_most_64_kib_including_its_head() -> None:
    room = 64 * 1024 - 160 - 20
    assert len(living(10**9, b"b" * room, b"").render(START, close=True)) <= 64 * 1024
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        living(1, b"b" * room, b"a")


def test_a_ready_response_is_immutable_and_its_repr_shows_no_content() -> None:
    ready = living(1, b"secret")
    assert repr(ready) == "<ReadyResponse>"
    with pytest.raises(TypeError, match="once"):
        ready.__init__(before=b"", after=b"", expires_ns=0, fresh_until_ns=0, series=ready.series, usage=ready.usage)


def test_an_observation_counts_where_it_is_less_than_or_equal_to_the_bound() -> None:
    series = Histogram([0.001, 0.5]).series(("200",))
    for nanoseconds in (0, 1_000_000, 1_000_001, 500_000_000, 500_000_001, 10**15):
        series.observe(nanoseconds)
    assert series.counts() == (2, 2, 2)
    assert series.sum_nanoseconds == 0 + 1_000_000 + 1_000_001 + 500_000_000 + 500_000_001 + 10**15


def test_a_clock_that_goes_backwards_counts_as_no_time() -> None:
    series = Histogram([0.001]).series(())
    series.observe(-5)
    assert (series.counts(), series.sum_nanoseconds) == ((1, 0), 0)


@pytest.mark.parametrize("bounds", [[], [0], [-1], [1, 1], [2, 1], [float("inf")], [float("nan")], list(range(1, 33))])
def test_invalid_bounds_are_rejected(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bound"):
        Histogram(bounds)


def test_at_most_31_bounds_are_accepted() -> None:
    histogram = Histogram(list(range(1, 32)))
    assert histogram.bounds_seconds == tuple(map(float, range(1, 32)))
    series = histogram.series(())
    series.observe(10**12)
    assert series.counts() == (0,) * 31 + (1,)
