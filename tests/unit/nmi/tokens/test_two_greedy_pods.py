"""Two pods that keep their queues full and start the fetches that another pod needs: they delay it by half a second.

Further requests of that time, of the same pod or of others, wait for the end of calls as well.

Excluded: instance metadata (`tests/unit/nmi/server/test_two_greedy_pods_and_metadata.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from nmi.identity.request import TokenRequest
from tests.support.nmi.imds import Reply
from tests.support.nmi.tokens.fakes import REQUEST, Node
from tests.support.virtual_time import now

ADDED_SECONDS = 0.5
"""The time by which the attack may delay another pod's request."""
FILLERS = 62
"""Requests of one attacker that wait at the same time, next to the one for the other pod's token."""

Ask = Callable[[str], Awaitable[object]]


@contextmanager
def flooding(*asks: Ask) -> Iterator[None]:
    """Keep a request of each of *asks* in progress for both attackers."""

    async def repeat(ask: Ask, pod: str) -> None:
        while True:
            await asyncio.gather(ask(pod), return_exceptions=True)

    tasks = [asyncio.create_task(repeat(ask, pod)) for pod in ("evil/a", "evil/b") for ask in asks]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def audiences(node: Node) -> Ask:
    """Return requests for ever new tokens of the identity that all pods share."""
    numbers = count()

    async def ask(pod: str) -> object:
        return await node.token(TokenRequest(f"https://{next(numbers)}"), pod)

    return ask


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.0, 0.3, 0.96, 3.0])
async def test_a_request_that_joins_an_attackers_queued_fetch_is_hardly_delayed(
    node: Node, arrival: float, call_seconds: float
) -> None:
    node.imds.behave = lambda _call: Reply(seconds=call_seconds)
    fill = audiences(node)
    with flooding(*[fill] * FILLERS):
        await asyncio.sleep(arrival)
        first = [asyncio.create_task(node.token(REQUEST, pod)) for pod in ("evil/a", "evil/b")]
        await asyncio.sleep(0.001)
        begun = now()
        await node.token(REQUEST, "shop/cart")
        assert now() - begun <= call_seconds + ADDED_SECONDS
    await asyncio.gather(*first)


@pytest.mark.parametrize("pods", [1, 4], ids=["one-pod", "four-pods"])
@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.3, 1.7, 3.0])
async def test_each_further_request_waits_at_most_for_one_call_more(
    node: Node, arrival: float, call_seconds: float, pods: int
) -> None:
    node.imds.behave = lambda _call: Reply(seconds=call_seconds)
    fill = audiences(node)

    async def added_seconds(number: int) -> float:
        begun = now()
        await node.token(TokenRequest(f"https://shop-{number}"), f"shop/{number % pods}")
        return now() - begun - call_seconds

    with flooding(*[fill] * FILLERS):
        await asyncio.sleep(arrival)
        for number, added in enumerate(await asyncio.gather(*(added_seconds(number) for number in range(4)))):
            assert added <= number * call_seconds + ADDED_SECONDS


async def test_an_attacker_that_joins_and_leaves_does_not_cost_the_other_pod_its_turn(node: Node) -> None:
    fill = audiences(node)

    async def join_and_leave(pod: str) -> None:
        joined = asyncio.create_task(node.token(REQUEST, pod))
        await asyncio.sleep(0.01)
        joined.cancel()

    with flooding(*[fill] * FILLERS, join_and_leave):
        await asyncio.sleep(3.0)
        begun = now()
        await node.token(REQUEST, "shop/cart")
        assert now() - begun <= 0.02 + ADDED_SECONDS


@pytest.mark.parametrize("exempt", [False, True], ids=["ordinary", "exempt"])
async def test_exempt_pods_with_full_queues_hardly_delay_another_pod(node: Node, exempt: bool) -> None:
    async def ask(pod: str) -> object:
        return await node.node_identities.token(REQUEST, pod, within=45.0)

    with flooding(*[ask] * (FILLERS // 2)):  # no call is refused, even if both attackers shared one queue
        await asyncio.sleep(3.0)
        begun = now()
        await (ask("shop/cart") if exempt else node.token(REQUEST, "shop/cart"))
        assert now() - begun <= 0.02 + ADDED_SECONDS
