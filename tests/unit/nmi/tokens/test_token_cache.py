"""The broker's cached tokens, their lifetime and refreshes. Excluded: shared fetches (`test_flights`)."""

import asyncio
import json

import pytest

from _native.ready_responses import Usage
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.tokens.cache import CachedToken, ObjectIds, Refusals, TokenCache
from nmi.tokens.source import FetchedToken, Token
from podidentity.azure.errors import AzureError, Refused, Unreachable
from tests.support.nmi.tokens.fakes import FORCE_REFRESH, REQUEST, Bench, key_of
from tests.support.nmi_objects import RESOURCE, identity
from tests.support.virtual_time import now, settle

HOUR = 3600.0


def not_found() -> Refused:
    return Refused("Identity not found", status=400, code="invalid_request")


async def pass_time(seconds: float) -> None:
    await asyncio.sleep(seconds)
    await settle()


@pytest.mark.parametrize("fast_lane", [False, True], ids=["by a request", "by a ready response"])
async def test_a_used_token_is_renewed_at_half_of_its_lifetime(fake: Bench, fast_lane: bool) -> None:
    cached = await fake.broker.token(identity(), REQUEST, "ns/a")
    if fast_lane:
        await pass_time(1.0)
        cached.usage.touch()
    else:
        assert await fake.token() == "token-1"
    await pass_time(12 * HOUR - 2)
    assert fake.source.sent == 1
    await pass_time(4)
    assert fake.source.sent == 2
    assert await fake.token() == "token-2"


async def test_an_unused_token_is_not_renewed(fake: Bench) -> None:
    await fake.token()
    await pass_time(23 * HOUR)
    assert fake.source.sent == 1
    await pass_time(2 * HOUR)
    assert fake.source.sent == 1
    assert len(fake.broker._tokens) == 0


async def test_a_token_requested_late_is_served_and_renewed_in_the_background(fake: Bench) -> None:
    await fake.token()
    await pass_time(13 * HOUR)
    assert await fake.token() == "token-1"
    await settle()
    assert fake.source.sent == 2
    assert await fake.token() == "token-2"


async def test_a_valid_token_is_served_while_imds_is_down(fake: Bench) -> None:
    fake.source.lifetime = HOUR
    await fake.token()
    fake.source.failures = [Unreachable("down")] * 10_000
    for _ in range(58):
        await pass_time(60.0)
        assert await fake.token() == "token-1"
    assert fake.measures.stale_served > 0
    assert fake.source.sent < 40
    await pass_time(130.0)
    with pytest.raises(Unreachable):
        await fake.token()
    fake.source.failures = []
    assert (await fake.token()).startswith("token-")


async def test_a_token_about_to_expire_is_served_only_if_imds_is_slow(fake: Bench) -> None:
    fake.source.lifetime = HOUR
    await fake.token()
    await pass_time(HOUR - 200.0)
    assert await fake.token() == "token-2"
    await pass_time(HOUR - 200.0)
    fake.source.gate.clear()
    before = now()
    assert await fake.token() == "token-2"
    assert now() - before <= 3.0
    before = now()
    assert await fake.token(pod="ns/b") == "token-2"
    assert now() - before < 0.1
    fake.source.gate.set()
    await settle()
    assert await fake.token() == "token-3"


async def test_receiving_the_same_token_again_is_no_failure_and_causes_no_retry_storm(fake: Bench) -> None:
    fake.source.lifetime = HOUR
    fake.source.same = True
    for _ in range(59):
        assert await fake.token() == "the-same"
        await pass_time(60.0)
    assert fake.measures.failures == 0
    assert fake.measures.unchanged > 0
    assert fake.source.sent < 20


async def test_a_response_to_an_earlier_request_does_not_replace_a_force_refreshed_token(fake: Bench) -> None:
    fake.source.gate.clear()
    ordinary = asyncio.create_task(fake.token())
    await pass_time(1.0)
    slow, fake.source.gate = fake.source.gate, asyncio.Event()
    fake.source.gate.set()
    refreshed = await fake.token(FORCE_REFRESH)
    slow.set()
    assert await ordinary == refreshed
    assert await fake.token() == refreshed


async def test_the_operators_view_of_the_cache_is_bounded_and_redacted(fake: Bench) -> None:
    for number in range(300):
        whose = identity(client_id=f"c11e0000-0000-0000-0000-{number:012}")
        await fake.broker.token(whose, TokenRequest("r" * 5000), f"ns/{number}")
    fake.source.gate.clear()
    waiting = asyncio.create_task(fake.token())
    await pass_time(100.0)
    state = fake.broker.state()
    tokens, flights = state["tokens"], state["flights"]
    assert isinstance(tokens, list)
    assert isinstance(flights, list)
    assert (state["tokens_in_all"], len(tokens), len(flights)) == (300, 200, 1)
    assert tokens[0]["identity"] == "type 0 c11e…0299"
    assert 100 <= tokens[0]["age_seconds"] <= 103
    assert flights[0]["waiters"] == 1
    text = json.dumps(state)
    assert "token-" not in text
    assert "0000-0000-0000" not in text
    assert len(text) < 100_000
    fake.source.gate.set()
    await waiting


async def test_a_failed_force_refresh_keeps_the_cached_token_for_others(fake: Bench) -> None:
    await fake.token()
    fake.source.failures = [Unreachable("down")]
    with pytest.raises(Unreachable):
        await fake.token(FORCE_REFRESH)
    assert await fake.token() == "token-1"
    assert fake.source.sent == 2


async def test_a_refusal_is_cached_for_ten_seconds(fake: Bench) -> None:
    fake.source.failures = [Refused("no", status=403)]
    for _ in range(3):
        with pytest.raises(Refused):
            await fake.token()
    assert fake.source.sent == 1
    await pass_time(10.0)
    assert await fake.token() == "token-2"


async def test_a_refusal_from_before_the_identity_was_usable_does_not_count(fake: Bench) -> None:
    fake.source.failures = [not_found()]
    with pytest.raises(Refused):
        await fake.broker.token(identity(), REQUEST, "ns/a", usable_since=now())
    await pass_time(1.0)
    cached = await fake.broker.token(identity(), REQUEST, "ns/b", usable_since=now())
    assert cached.token.access_token == "token-2"


@pytest.mark.parametrize(("age", "lag"), [(0.0, 10.0), (59.0, 10.0), (61.0, 0.0)], ids=["new", "59s", "61s"])
async def test_only_a_newly_usable_identity_is_retried_until_imds_knows_it(fake: Bench, age: float, lag: float) -> None:
    await fake.broker.token(identity(), REQUEST, "ns/a", usable_since=now() - age)
    assert [context.lag_seconds for context in fake.source.contexts] == [lag]


async def test_without_the_cache_every_request_fetches() -> None:
    bench = Bench(caching=False)
    assert [await bench.token() for _ in range(3)] == ["token-1", "token-2", "token-3"]
    assert len(bench.broker._tokens) == 0
    await pass_time(48 * HOUR)
    assert bench.source.sent == 3


async def test_an_expired_token_in_a_response_is_an_error(fake: Bench) -> None:
    fake.source.lifetime = -5.0
    with pytest.raises(AzureError) as raised:
        await fake.token()
    assert raised.value.code == "expired_token"


def granted(left: float) -> FetchedToken:
    return FetchedToken(Token("t", int(2_000 + left), 0, "r", "c"), int(left))


@pytest.mark.parametrize("left", [10.0, 60.0, 299.0, 301.0, 480.0, 660.0, 700.0, 1200.0, 3600.0, 86400.0])
@pytest.mark.parametrize("jitter", [0.9, 1.0, 1.1])
def test_a_renewal_is_scheduled_after_half_of_the_lifetime_and_before_its_last_minutes(
    left: float, jitter: float
) -> None:
    cached = CachedToken(granted(left), now=1_000.0, wall_now=2_000.0, jitter=jitter, usage=Usage())
    assert 1_000.0 < cached.refresh_at < cached.expires_at
    if left >= 660.0:
        latest = left - 300.0 - 30.0
        assert cached.refresh_at - 1_000.0 == pytest.approx(min(left / 2 * jitter, latest))
    assert 1_000.0 <= cached.fresh_until(1_000.0) <= cached.expires_at
    if left > 330.0:
        assert cached.left(cached.fresh_until(1_000.0)) >= 300.0


def test_the_earliest_expiry_counts() -> None:
    token = Token("t", 2_100, 0, "r", "c")
    auxiliary = Token("of another tenant", 2_070, 0, "r", "c")
    for fetched, left in (
        (FetchedToken(token, 900), 100.0),
        (FetchedToken(token, 50), 50.0),
        (FetchedToken(token, 900, auxiliary=(auxiliary,)), 70.0),
    ):
        assert CachedToken(fetched, 1_000.0, 2_000.0, 1.0, Usage()).left(1_000.0) == left


def kept(now_ns: int = 0, usage: Usage | None = None) -> CachedToken:
    """A token with a lifetime of 900 seconds from 1,000 on."""
    return CachedToken(granted(900.0), 1_000.0, 2_000.0, 1.0, usage or Usage(), now_ns=now_ns)


def test_every_cache_is_bounded() -> None:
    cache, refusals, ids = TokenCache(most=3), Refusals(most=3), ObjectIds(most=3)
    keys = [key_of(str(n)) for n in range(5)]
    gone = []
    for number, key in enumerate(keys):
        gone += cache.keep(key, kept(), "ns")
        refusals.keep(key, 1_000.0, Refused("no"), "ns")
        ids.learn(str(number), "oid", "ns")
        cache.use(keys[0], "ns")
    assert (len(cache), len(refusals), len(ids.view)) == (3, 3, 3)
    assert gone == [keys[1], keys[2]]
    assert cache.find(keys[0], 1_000.0) is not None


def test_noting_the_key_of_a_cached_token_shares_one_object() -> None:
    cache = TokenCache()
    first, again = (key_of() for _ in range(2))
    assert cache.shared_key(again) is again
    cache.keep(first, kept(), "ns")
    assert cache.shared_key(again) is first
    cache.forget(first)
    assert cache.shared_key(again) is again


def test_a_pod_that_requests_ever_new_audiences_evicts_only_its_own_identitys_tokens() -> None:
    cache = TokenCache(most=100, most_per_identity=4)
    neighbour = key_of("neighbour")
    cache.keep(neighbour, kept(), "ns")
    for number in range(50):
        key = key_of("greedy", f"cp{number}")
        cache.keep(key, kept(), "ns")
    assert len(cache) == 5
    assert cache.find(neighbour, 1_000.0) is not None
    assert cache.find(key, 1_000.0) is not None
    assert cache.find(key, 1_900.0) is None
    assert len(cache) == 4


@pytest.mark.parametrize("most", [4, 100], ids=["in-total", "per-identity"])
def test_requests_that_the_fast_lane_answers_count_as_use(most: int) -> None:
    cache, usage = TokenCache(most, most_per_identity=4), Usage()
    keys = [key_of("shared", f"cp{number}") for number in range(9)]
    cache.keep(keys[0], kept(usage=usage), "ns")
    for key in keys[1:]:
        usage.touch()  # a ready response: the cache itself is not asked
        cache.keep(key, kept(now_ns=1), "ns")
    assert [number for number, key in enumerate(keys) if cache.find(key, 1_000.0)] == [0, 6, 7, 8]
    assert cache.newest()[0][0] == keys[0]


def test_a_namespace_that_fills_the_refusals_or_the_object_ids_removes_only_its_own() -> None:
    refusals, ids = Refusals(most=10), ObjectIds(most=10)
    refusals.keep(key_of("shop"), 1_000.0, Refused("no"), "shop")
    ids.learn("shop", "oid", "shop")
    for number in range(50):
        refusals.keep(key_of(str(number)), 1_000.0, Refused("no"), "evil")
        ids.learn(str(number), "other", "evil")
    assert refusals.find(key_of("shop"), 1_000.0, 0.0) is not None
    assert refusals.find(key_of("49"), 1_000.0, 0.0) is not None
    assert ids.view["shop"] == "oid"
    assert (len(refusals), len(ids.view)) == (10, 10)


async def test_a_namespace_with_many_identities_costs_no_other_one_a_fetch(fake: Bench) -> None:
    fake.broker._tokens = TokenCache(most=20)

    async def request(namespace: str, *client_ids: str) -> None:
        for client_id in client_ids:
            whose = identity(client_id=client_id, namespace=namespace)
            await fake.broker.token(whose, REQUEST, f"{namespace}/a")

    shop = ["used by both", *(f"shop-{number}" for number in range(9))]
    await request("evil", *(f"evil-{number}" for number in range(33)), "used by both")
    await request("shop", *shop)  # the cache is full
    await request("evil", *(f"more-{number}" for number in range(33)))
    await request("shop", *shop)
    assert fake.source.sent == 33 + 1 + 9 + 33
    assert len(fake.broker._tokens) == 20


async def test_the_metrics_count_each_outcome(fake: Bench) -> None:
    await fake.token()
    await fake.token()
    value = fake.registry.get_sample_value
    assert value("aadpodidentity_nmi_token_cache_hits_total") == 1.0
    assert value("aadpodidentity_nmi_token_cache_misses_total") == 1.0
    assert value("aadpodidentity_nmi_token_cache_size") == 1.0
    assert value("aadpodidentity_nmi_upstream_in_flight") == 0.0


async def test_requests_by_selector_share_the_token(fake: Bench) -> None:
    by_id = TokenRequest(RESOURCE, SelectorKind.CLIENT_ID, identity().spec.client_id)
    assert await fake.token(by_id) == await fake.token()
