"""Tests of tokens that one broker passes to another: what is passed, used, and refused."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.identity.request import TokenRequest
from nmi.tokens.cache import SOON_SECONDS
from nmi.tokens.source import Token, TokenKey, Workload
from nmi.tokens.transfer import (
    LIFETIME_MAX_SECONDS,
    PACKET_MAX,
    PassedToken,
    ReceivedTokens,
    is_valid,
    packets_of,
    tokens_in,
)
from tests.support.nmi.tokens.fakes import FORCE_REFRESH, REQUEST, Bench
from tests.support.nmi_objects import identity
from tests.unit.nmi.tokens.test_separate_tokens import A, B

KEY = TokenKey(0, "client", "/resource/id", "", "", "", "", "https://vault.azure.net", "")
SECRET_KEY = KEY._replace(type=1, secret="default/secret", credential="uid/1")


def token(**changes: Any) -> Token:
    fields = {
        "access_token": "the-token",
        "expires_on": 10**10,
        "not_before": 0,
        "resource": "r",
        "client_id": "CLIENT",
    }
    return Token(**{**fields, **changes})


def passed(key: TokenKey = KEY, *tokens: Token, expires_in: float = 3600.0, refresh_in: float = 60.0) -> PassedToken:
    return PassedToken(key, tokens or (token(),), expires_in, refresh_in, "object", "correlation")


def store(*tokens: PassedToken, now: float = 0.0) -> ReceivedTokens:
    received = ReceivedTokens()
    for packet in packets_of(tokens):
        received.add(packet, now)
    return received


def move(former: Bench, latter: Bench) -> tuple[int, int]:
    return latter.broker.receive_tokens(former.broker.tokens_to_pass())


async def test_a_passed_token_is_used_without_a_call_and_refreshed_when_the_sender_would_have() -> None:
    former, latter = Bench(), Bench()
    before = await former.broker.token(identity(), REQUEST, "ns/a")
    assert move(former, latter) == (1, 0)
    assert latter.broker.state()["received_tokens"] == 1
    assert latter.broker.state()["tokens_in_all"] == 0, "apart from the cache"
    assert latter.broker.object_ids == {}
    after = await latter.broker.token(identity(), REQUEST, "ns/b")
    assert after.token == before.token
    assert after.refresh_at == pytest.approx(before.refresh_at, abs=1)
    assert after.expires_at == pytest.approx(before.expires_at, abs=2)
    assert after.used, "the next refresh is due"
    assert latter.source.sent == 0
    assert latter.broker.state()["received_tokens"] == 0
    assert latter.broker.object_ids == former.broker.object_ids != {}


async def test_a_second_handover_replaces_the_tokens_of_one_that_failed() -> None:
    former, latter = Bench(), Bench()
    await former.token()
    assert [move(former, latter), move(former, latter)] == [(1, 0), (1, 0)]
    assert latter.broker.state()["received_tokens"] == 1


async def test_a_token_that_no_successor_accepts_is_not_passed() -> None:
    former = Bench()
    await former.token(TokenRequest("a resource\ud800"))
    await former.token(TokenRequest("good"))
    (packet,) = former.broker.tokens_to_pass()
    assert [entry.key.resource for entry in tokens_in(packet)[0]] == ["good"]


async def test_only_the_same_key_gets_a_passed_token() -> None:
    former, latter = Bench(), Bench()
    await former.token()
    move(former, latter)
    for unlike in (identity(client_id="another"), identity(name="another")):
        await latter.broker.token(unlike, REQUEST, "ns/a")
    assert latter.source.sent == 2
    await latter.token(TokenRequest("another"))
    assert latter.source.sent == 3
    await latter.token()
    assert latter.source.sent == 3


async def test_a_forced_refresh_drops_the_passed_token() -> None:
    former, latter = Bench(), Bench()
    await former.token()
    move(former, latter)
    await latter.token(FORCE_REFRESH)
    assert latter.source.sent == 1
    assert latter.broker.state()["received_tokens"] == 0


async def test_without_a_cache_nothing_is_passed_or_received() -> None:
    former, latter, cached = Bench(caching=False), Bench(caching=False), Bench()
    await former.token()
    await cached.token()
    assert list(former.broker.tokens_to_pass()) == []
    assert move(cached, latter) == (0, 0)
    await latter.token()
    assert latter.source.sent == 1


async def test_a_token_of_one_pod_goes_to_this_pod_only_and_is_dropped_with_it() -> None:
    former, latter = Bench(), Bench()
    for bench in (former, latter):
        bench.source.per_pod = True
    for pod in (A, B):
        await former.broker.token(identity(), REQUEST, "ns/a", workload=pod)
    assert move(former, latter) == (2, 0)
    await latter.broker.token(identity(), REQUEST, "ns/c", workload=Workload("ns", "c", "uid-c", "builder"))
    assert latter.source.sent == 1
    latter.broker.forget_pod(A.uid)
    await latter.broker.token(identity(), REQUEST, "ns/a", workload=A)
    assert latter.source.sent == 2
    await latter.broker.token(identity(), REQUEST, "ns/b", workload=B)
    assert latter.source.sent == 2


async def test_the_version_of_a_secret_is_passed_with_its_token() -> None:
    former, latter = Bench(), Bench()
    former.source.stored_version = "uid/7"
    await former.token()
    move(former, latter)
    await latter.token()
    await latter.token()
    assert latter.source.version == "uid/7"
    assert latter.source.sent == 0


def test_a_token_of_another_version_of_the_secret_is_dropped() -> None:
    received = store(passed(SECRET_KEY))
    assert received.take(SECRET_KEY._replace(credential="uid/2"), 0) is None
    assert len(received) == 0


def test_an_expired_token_is_not_used_and_all_expired_ones_are_dropped() -> None:
    received = store(
        passed(), passed(KEY._replace(resource="other")), passed(KEY._replace(resource="third"), expires_in=9e4)
    )
    assert received.take(KEY, 3600.0 - SOON_SECONDS) is None
    assert received.take(KEY._replace(resource="unknown"), 3601.0) is None
    assert len(received) == 1


@pytest.mark.parametrize(
    "bad",
    [
        passed(KEY._replace(type=4)),
        passed(KEY._replace(type=-1)),
        passed(KEY._replace(resource="x" * 5000)),
        passed(KEY._replace(resource="two\nlines")),
        passed(KEY, *[token()] * 33),
        PassedToken(KEY, (), 3600.0, 60.0),
        passed(expires_in=SOON_SECONDS),
        passed(expires_in=-1),
        passed(expires_in=math.nan),
        passed(expires_in=math.inf),
        passed(expires_in=LIFETIME_MAX_SECONDS + 1),
        passed(refresh_in=math.nan),
        passed(KEY, token(access_token="")),
        passed(KEY, token(access_token="two words")),
        passed(KEY, token(access_token="header\r\ninjection")),
        passed(KEY, token(access_token="x" * 65_537)),
        passed(KEY, token(refresh_token="a b")),
        passed(KEY, token(expires_on=2**60)),
        passed(KEY, token(not_before=-1)),
        passed(KEY, token(token_type="x" * 5000)),
        passed(KEY, token(client_id="another")),
        passed(KEY, token(), token(client_id="another")),
        passed(KEY, token(access_token="e30.eyJhcHBpZCI6ICJhbm90aGVyIn0.x")),  # its claim appid is "another"
    ],
    ids=range(23),
)
def test_tokens_that_cannot_be_right_are_refused_and_the_others_are_not(bad: PassedToken) -> None:
    assert not is_valid(bad)
    good = passed(KEY._replace(resource="good"))
    (packet,) = packets_of([bad, good])
    assert tokens_in(packet) == ([good], 1)
    received = ReceivedTokens()
    assert received.add(packet, 0) == (1, 1)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_understood(packet: bytes) -> None:
    tokens, _ = tokens_in(packet)
    assert all(map(is_valid, tokens))


@given(st.data())
def test_a_changed_packet_raises_nothing(data: st.DataObject) -> None:
    (packet,) = packets_of([passed(), passed(SECRET_KEY, token(), token())])
    changed = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    tokens, refused = tokens_in(bytes(changed))
    assert all(map(is_valid, tokens))
    assert len(tokens) + refused >= 0


def many(count: int, size: int) -> Iterable[PassedToken]:
    return (passed(KEY._replace(resource=f"r{number}"), token(access_token="x" * size)) for number in range(count))


def test_packets_are_bounded_and_complete() -> None:
    packets = list(packets_of(many(500, 2000)))
    assert max(map(len, packets)) <= PACKET_MAX
    assert sum(len(tokens_in(packet)[0]) for packet in packets) == 500
    assert list(packets_of(many(3, PACKET_MAX))) == [], "a token that is larger than a packet"
    assert tokens_in(b"x" * (PACKET_MAX + 1)) == ([], 1)


def test_the_store_is_bounded_in_number_and_bytes() -> None:
    received = ReceivedTokens(most=10, most_bytes=10**6)
    (packet,) = packets_of(many(30, 100))
    assert received.add(packet, 0) == (10, 20)
    assert received.add(packet, 0) == (0, 30), "also the same ones again"
    received = ReceivedTokens(most_bytes=len(packet) + 1)
    assert received.add(packet, 0) == (30, 0)
    assert received.add(packet, 0) == (0, 1)


def test_no_text_shows_a_token() -> None:
    assert "the-token" not in f"{passed()!r} {passed()} {store(passed())!r} {store(passed())._tokens}"
