"""The bytes of a ready answer while its remaining seconds decrease."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _native.answers import TokenAnswer, Usage
from _native.histogram import Histogram

SECOND = 10**9
START = 1_000 * SECOND
BEFORE, AFTER = b'{"access_token":"t","expires_in":"', b'","token_type":"Bearer"}'


def answer(lives_seconds: int, before: bytes = BEFORE, after: bytes = AFTER) -> TokenAnswer:
    return TokenAnswer(
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
def test_a_ready_answer_is_complete_and_contains_the_remaining_seconds(lives: int, close: bool) -> None:
    assert answer(lives).render(START, close) == expected(lives, close=close)


def test_the_remaining_seconds_are_rounded_down() -> None:
    ready = answer(100)
    assert b'"expires_in":"100"' in ready.render(START)
    assert b'"expires_in":"99"' in ready.render(START + 1)
    assert b'"expires_in":"99"' in ready.render(START + SECOND)
    assert b'"expires_in":"98"' in ready.render(START + SECOND + 1)


def test_an_expired_answer_contains_0_seconds() -> None:
    assert answer(5).render(START + 10**18) == expected(0, close=False)


@given(steps=st.lists(st.tuples(st.integers(-10, 200_000), st.booleans()), max_size=30))
def test_the_remaining_seconds_do_not_depend_on_earlier_writes(steps: list[tuple[int, bool]]) -> None:
    ready = answer(120_000)
    for passed, close in steps:
        assert ready.render(START + passed * SECOND, close) == expected(max(0, 120_000 - passed), close=close)


def test_the_body_is_always_valid_json() -> None:
    _, _, body = answer(1234).render(START).partition(b"\r\n\r\n")
    assert json.loads(body) == {"access_token": "t", "expires_in": "1234", "token_type": "Bearer"}


def test_an_answer_has_at_most_64_kib_including_its_head() -> None:
    room = 64 * 1024 - 160 - 20
    assert len(answer(10**9, b"b" * room, b"").render(START, close=True)) <= 64 * 1024
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        answer(1, b"b" * room, b"a")


def test_a_ready_answer_is_immutable_and_its_repr_shows_no_content() -> None:
    ready = answer(1, b"secret")
    assert repr(ready) == "<ReadyAnswer>"
    with pytest.raises(TypeError, match="once"):
        ready.__init__(before=b"", after=b"", expires_ns=0, fresh_until_ns=0, series=ready.series, usage=ready.usage)


def test_usage_counts_since_it_was_last_read() -> None:
    usage = Usage()
    assert (usage.last_ns, usage.take()) == (0, 0)
    usage.touch()
    usage.touch()
    assert usage.last_ns > 0
    assert (usage.take(), usage.take()) == (2, 0)
