"""Invariants of cache, flights, governor and breaker, for any requests of pods and any behaviour of IMDS.

The model is small: the content of each token (its identity, audience and lifetime) and the requests that IMDS has
received. It does not depend on the broker's implementation. Cancelled requests have their own, smaller steps.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.identity.request import TokenRequest
from nmi.tokens.cache import CachedToken, Refusals, TokenCache
from nmi.tokens.governor import CongestedError
from podidentity.azure.errors import AzureError
from tests.support.examples import examples
from tests.support.nmi.imds import HANG, Call, Reply
from tests.support.nmi.tokens.fakes import Bench, Node
from tests.support.nmi_objects import RESOURCE, identity
from tests.support.virtual_time import VirtualTimeLoop, now, settle

TOKENS_MAX, TOKENS_PER_IDENTITY, REFUSALS_MAX = 8, 3, 4

FAULTS: dict[str, Callable[[Call], Reply]] = {
    "well": lambda _call: Reply(),
    "slow": lambda _call: Reply(seconds=4.0),
    "hangs": lambda _call: HANG,
    "breaks": lambda _call: Reply(lost=True, seconds=1.0),
    "updating": lambda _call: Reply(410, body=b"{}"),
    "not there": lambda _call: Reply(404, body=b"{}"),
    "throttles": lambda _call: Reply(429, body=b"{}"),
    "throttles for long": lambda _call: Reply(429, b"{}", {"Retry-After": "25"}),
    "down": lambda _call: Reply(503, body=b"{}"),
    "refuses": lambda _call: Reply(400, body=b'{"error": "invalid_resource"}'),
    "refuses one": lambda call: Reply(403, body=b"{}") if call.client_id.endswith("0") else Reply(),
    "garbage": lambda _call: Reply(body=b"<html>"),
    "fails for one": lambda call: Reply(500, body=b"{}") if call.client_id.endswith("1") else Reply(),
}

Action = tuple[str, int, int, int]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)),
        st.tuples(st.just("force refresh"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("ask with capabilities"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("ask as node"), st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("flood"), st.integers(0, 3), st.integers(0, 3), st.integers(5, 80)),
        st.tuples(st.just("cancel"), st.integers(0, 60), st.just(0), st.just(0)),
        st.tuples(st.just("lifetime"), st.sampled_from([60, 400, 3600, 86400]), st.just(0), st.just(0)),
    ),
    max_size=6,
)
EPISODES = st.lists(
    st.tuples(st.sampled_from(sorted(FAULTS)), ACTIONS, st.sampled_from([0.01, 0.2, 3.0, 15.0, 60.0, 300.0, 2000.0])),
    min_size=1,
    max_size=8,
)


class History:
    """One node, its pods, and the invariants after each step."""

    def __init__(self) -> None:
        self.node = Node()
        self.node.broker._tokens = TokenCache(TOKENS_MAX, TOKENS_PER_IDENTITY)
        self.node.broker._refusals = Refusals(REFUSALS_MAX)
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, pod: int, whose: int, request: TokenRequest) -> None:
        """One request, and the invariants of its response."""
        client_id = f"c11e0000-0000-0000-0000-00000000000{whose}"
        begun = now()
        try:
            outcome: CachedToken | AzureError | CongestedError = await self.node.token(
                request, f"ns/{pod}", 45.0, client_id
            )
        except (AzureError, CongestedError) as error:
            outcome = error
        assert now() - begun <= 45.0
        if not isinstance(outcome, CachedToken):
            assert outcome.retry_after is None or 0.0 <= outcome.retry_after <= 3600.0
            return
        cached = outcome
        call = self.node.imds.call_of[cached.token.access_token]
        asked_for = (call.client_id, call.query["resource"], call.query.get("xms_cc", ""))
        assert asked_for == (client_id, request.resource, request.xms_cc)
        assert cached.left(now()) > 0.0
        if request.force_refresh:
            assert "bypass_cache" in call.query
            assert call.begun >= begun or cached.fetched_at >= begun

    async def ask_as_node(self, pod: int, request: TokenRequest) -> None:
        try:
            response = await self.node.node_identities.token(request, f"ns/{pod}", 45.0)
        except (AzureError, CongestedError):
            return
        assert response.status != 200 or b"access_token" in response.body or response.body == b"<html>"

    def take(self, action: Action) -> None:
        what, first, second, third = action
        request = TokenRequest(f"https://r{third}")
        if what == "ask":
            self._start(self.ask(first, second, request))
        elif what == "force refresh":
            self._start(self.ask(first, second, TokenRequest(f"https://r{third}", force_refresh=True)))
        elif what == "ask with capabilities":
            self._start(self.ask(first, second, TokenRequest(f"https://r{third}", xms_cc="cp1")))
        elif what == "ask as node":
            self._start(self.ask_as_node(first, request))
        elif what == "flood":
            for number in range(third):
                self._start(self.ask((first + number) % 3, second, TokenRequest(f"https://flood/{number}")))
        elif what == "cancel" and first < len(self.tasks):
            self.tasks[first].cancel()
        elif what == "lifetime":
            self.node.imds.lifetime = first

    def _start(self, request: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(request))

    def check(self) -> None:
        broker, imds = self.node.broker, self.node.imds
        assert len(broker._tokens) <= TOKENS_MAX
        assert all(len(keys) <= TOKENS_PER_IDENTITY for keys in broker._tokens._keys.values())
        assert len(broker._refusals) <= REFUSALS_MAX
        assert set(broker._timers) <= set(broker._tokens._tokens)
        assert len(broker._flights.tasks) >= len(broker._flights)
        assert imds.most_in_the_air <= 5
        assert self.node.governor.waiting <= 1024
        assert len(self.node.breaker._blamed) <= 5

    def check_rate(self) -> None:
        begun = [call.begun for call in self.node.imds.calls]
        for earlier, later in zip(begun, begun[20:], strict=False):
            assert later - earlier > 1.0

    def check_flights(self) -> None:
        """Calls of one identity for one thing at the same time: only of the node's own may there be several."""
        assert self.node.imds.most_of_one <= 1


async def run(episodes: list[tuple[str, list[Action], float]]) -> None:
    history = History()
    exempt = any(action[0] == "ask as node" for _, actions, _ in episodes for action in actions)
    for imds, actions, seconds in episodes:
        history.node.imds.behave = FAULTS[imds]
        for action in actions:
            history.take(action)
            await settle(3)
            history.check()
        await asyncio.sleep(seconds)
        history.check()
    history.node.imds.behave = FAULTS["well"]
    results = await asyncio.gather(*history.tasks, return_exceptions=True)
    assert [result for result in results if result is not None and not isinstance(result, asyncio.CancelledError)] == []
    # After any history: 90 s after IMDS works again, all pods get tokens, and no flight or permit remains.
    await asyncio.sleep(90.0)
    assert not history.node.broker._flights
    assert (history.node.governor.in_flight, history.node.governor.waiting) == (0, 0)
    history.node.imds.lifetime = 86400
    for pod in range(4):
        await history.node.token(TokenRequest("https://end"), f"ns/{pod}")
    history.check()
    history.check_rate()
    if not exempt:
        history.check_flights()
    await history.node.broker.aclose()
    assert not history.node.broker._timers
    assert history.node.broker._flights.tasks == set()


@settings(max_examples=examples(80), deadline=None)
@given(EPISODES)
def test_no_history_returns_a_foreign_or_expired_token_or_grows_memory(
    episodes: list[tuple[str, list[Action], float]],
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run(episodes))


Event = tuple[str, int, int]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("force refresh"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("answer"), st.just(0), st.just(0)),
        st.tuples(st.just("hold"), st.just(0), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 400), st.just(0)),
    ),
    max_size=40,
)


async def run_events(events: list[Event], at_once: int) -> None:
    bench = Bench(at_once=at_once)
    bench.source.gate.clear()
    waiters: list[asyncio.Task[object]] = []
    cancelled: set[int] = set()
    for what, first, second in events:
        if what.startswith("ask"):
            request = TokenRequest(f"{RESOURCE}/{second}", force_refresh=what == "force refresh")
            token_request = bench.broker.token(identity(), request, f"ns/{first}")
            waiters.append(asyncio.create_task(token_request))
        elif what == "cancel" and first < len(waiters):
            if waiters[first].cancel():
                cancelled.add(first)
        elif what == "step":
            await settle(first)
        elif what == "answer":
            bench.source.gate.set()
        elif what == "hold":
            bench.source.gate.clear()
        elif what == "pass":
            await asyncio.sleep(first / 100)
    bench.source.gate.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    for number, result in enumerate(results):
        if number not in cancelled:
            assert not isinstance(result, BaseException), result
    await asyncio.sleep(5.0)
    assert (bench.governor.in_flight, bench.governor.waiting) == (0, 0)
    assert not bench.broker._flights
    assert bench.broker._flights.tasks == set()


@settings(max_examples=examples(150), deadline=None)
@given(EVENTS, st.integers(1, 3))
def test_remaining_waiters_get_a_token_and_every_permit_is_released(events: list[Event], at_once: int) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run_events(events, at_once))
