"""If requests are cancelled at any time, the others get their tokens and no permit is lost. Excluded: the cache."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.identity.request import TokenRequest
from tests.examples import examples
from tests.nmi.tokens.fakes import Bench, identity
from tests.support.nmi_objects import RESOURCE
from tests.virtual_time import VirtualTimeLoop, settle

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


async def run(events: list[Event], at_once: int) -> None:
    bench = Bench(at_once=at_once)
    bench.source.gate.clear()
    waiters: list[asyncio.Task[object]] = []
    cancelled: set[int] = set()
    for what, first, second in events:
        if what.startswith("ask"):
            request = TokenRequest(f"{RESOURCE}/{second}", force_refresh=what == "force refresh")
            asked = bench.broker.token(identity(), request, f"ns/{first}")
            waiters.append(asyncio.create_task(asked))
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
    await bench.broker.aclose()


@settings(max_examples=examples(150), deadline=None)
@given(EVENTS, st.integers(1, 3))
def test_remaining_waiters_get_a_token_and_every_permit_is_released(events: list[Event], at_once: int) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run(events, at_once))
