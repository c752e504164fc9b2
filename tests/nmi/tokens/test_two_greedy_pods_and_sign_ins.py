"""Sign-ins while two pods of the same namespace keep their queues full: they delay a third pod by half a second.

Excluded: IMDS (`tests/nmi/tokens/test_two_greedy_pods.py`), and limits between namespaces
(`tests/nmi/tokens/test_sharing_sign_ins.py`).
"""

import asyncio
from itertools import count

import pytest

from nmi.identity.request import TokenRequest
from podidentity.azure.errors import Unreachable
from podidentity.resources import AzureIdentity
from tests.nmi.tokens.fakes import REQUEST
from tests.nmi.tokens.test_two_greedy_pods import ADDED_SECONDS, FILLERS, Ask, flooding
from tests.nmi.tokens.virtual_sign_ins import READ_SECONDS, SIGNING_SECONDS, Node, identity_of_type
from tests.virtual_time import now

TYPES = [1, 2, 3]


def audiences(node: Node, *identities: AzureIdentity) -> Ask:
    """Return requests for ever new tokens, of each of *identities* in turn."""
    numbers = count()

    async def ask(pod: str) -> object:
        number = next(numbers)
        return await node.token(identities[number % len(identities)], pod, TokenRequest(f"https://{number}"))

    return ask


async def added_seconds(node: Node, identity: AzureIdentity, call_seconds: float) -> float:
    """Return the delay of a request of the third pod."""
    begun = now()
    await node.token(identity, "shop/cart")
    signing = SIGNING_SECONDS if identity.spec.type == 2 else 0.0
    return now() - begun - READ_SECONDS - signing - call_seconds


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.96, 3.0])
@pytest.mark.parametrize("type_", TYPES)
async def test_a_request_that_joins_an_attackers_queued_fetch_is_hardly_delayed(
    type_: int, arrival: float, call_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, shared = Node(call_seconds, monkeypatch), identity_of_type(type_)
    with flooding(*[audiences(node, shared)] * FILLERS):
        await asyncio.sleep(arrival)
        first = [asyncio.create_task(node.token(shared, pod)) for pod in ("evil/a", "evil/b")]
        await asyncio.sleep(0.001)
        assert await added_seconds(node, shared, call_seconds) <= ADDED_SECONDS
    await asyncio.gather(*first)


@pytest.mark.parametrize("call_seconds", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("arrival", [0.001, 0.3, 0.96, 3.0])
@pytest.mark.parametrize("type_", TYPES)
async def test_a_request_with_another_identity_of_the_namespace_is_hardly_delayed(
    type_: int, arrival: float, call_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(call_seconds, monkeypatch)
    theirs = [identity_of_type(each, f"of-the-attackers-{each}") for each in TYPES]
    with flooding(*[audiences(node, *theirs)] * FILLERS):
        await asyncio.sleep(arrival)
        assert await added_seconds(node, identity_of_type(type_), call_seconds) <= ADDED_SECONDS


@pytest.mark.parametrize("type_", TYPES)
async def test_an_attacker_that_joins_and_leaves_does_not_cost_the_other_pod_its_turn(
    type_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, shared = Node(0.3, monkeypatch), identity_of_type(type_)

    async def join_and_leave(pod: str) -> None:
        joined = asyncio.create_task(node.token(shared, pod, REQUEST))
        await asyncio.sleep(0.01)
        joined.cancel()

    with flooding(*[audiences(node, shared)] * FILLERS, join_and_leave):
        await asyncio.sleep(3.0)
        assert await added_seconds(node, shared, 0.3) <= ADDED_SECONDS


async def test_an_identity_with_auxiliary_tenants_is_hardly_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(0.3, monkeypatch)
    with flooding(*[audiences(node, identity_of_type(1, "of-the-attackers"))] * FILLERS):
        await asyncio.sleep(3.0)
        own = identity_of_type(1, auxiliary=("second", "third"))
        assert await added_seconds(node, own, 0.3) <= ADDED_SECONDS


async def test_a_request_whose_sign_in_gets_no_turn_in_its_time_does_not_blame_imds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, shared = Node(30.0, monkeypatch), identity_of_type(1)
    with flooding(*[audiences(node, shared)] * FILLERS):
        await asyncio.sleep(3.0)
        with pytest.raises(Unreachable, match="within the time of the request"):
            await node.token(shared, "evil/a", within=10.0)
