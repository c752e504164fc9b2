"""Tests of an address that passes to another pod sandbox without a report from the API server.

They use the real NMI and the real kernel.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.identity_requests import metric, state
from tests.support.waiting import until
from tests.system.local.integration.handover_node import SUBNET, Node, ask_on, nodes

pytestmark = pytest.mark.root

ADDRESS = f"{SUBNET}.5"
OTHER = f"{SUBNET}.6"


@pytest.fixture(params=["bridge", "point-to-point"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[Node]:
    async with nodes(request.param) as running:
        yield running


async def served(node: Node, name: str, address: str) -> str:
    """Run a pod with its own identity, both named *name*, until it has received a token. Return the client id."""
    own = await node.identity(name)
    await node.create(name, name)
    await node.add(name, address)
    await node.report(name, address)
    await until(lambda: node.ask(name), holds=lambda answer: answer.client_id == own.client_id)
    return own.client_id


async def hand_over(node: Node, former: str, successor: str, address: str = ADDRESS) -> None:
    """Pass *address* from *former* to *successor* before the API server reports either change."""
    await node.remove(former)
    await node.add(successor, address)


async def test_the_successor_never_gets_its_predecessors_token_and_gets_its_own_when_it_is_reported(node: Node) -> None:
    former = await served(node, "former", ADDRESS)
    await hand_over(node, "former", "successor")
    answers = await asyncio.to_thread(node.net.ask_often, "successor", 3)
    assert {each.status for each in answers} == {404}
    own = await node.identity("successor")
    await node.create("successor", "successor")
    await node.report("successor", ADDRESS)

    async def granted() -> bool:
        answer = await node.ask("successor")
        assert answer.client_id != former
        return answer.client_id == own.client_id

    await until(granted)
    await node.delete("former")
    assert (await node.ask("successor")).client_id == own.client_id


async def test_the_end_of_a_pod_that_has_never_sent_a_packet_is_noticed(node: Node) -> None:
    former = await node.identity("former")
    await node.create("former", "former")
    await node.add("former", ADDRESS)
    await node.report("former", ADDRESS)

    await until(lambda: state(node.sandbox), "attached", holds=lambda it: it["feed"]["network"]["attached"])
    await hand_over(node, "former", "successor")
    answers = await asyncio.to_thread(node.net.ask_often, "successor", 3)
    assert former.client_id not in {each.client_id for each in answers}
    assert {each.status for each in answers} == {404}


async def test_a_recreated_sandbox_keeps_its_identity_and_loses_its_former_address(node: Node) -> None:
    own = await served(node, "moved", ADDRESS)
    await node.remove("moved")
    await node.add("stranger", ADDRESS)
    await node.add("moved", OTHER)
    answers = await asyncio.to_thread(node.net.ask_often, "stranger", 2)
    assert {each.status for each in answers} == {404}
    await node.report("moved", OTHER)
    await until(lambda: node.ask("moved"), holds=lambda answer: answer.client_id == own)
    assert (await node.ask("stranger")).status == 404


async def test_with_the_watch_broken_evidence_counts_too_and_pods_without_evidence_are_served(node: Node) -> None:
    await served(node, "former", ADDRESS)
    alive = await served(node, "alive", OTHER)
    api = node.sandbox.cluster.api
    assert api is not None
    api.intercept = lambda _: StatusError(500, "InternalError", "down")
    api.drop_watches()
    await hand_over(node, "former", "successor")
    answers = await asyncio.to_thread(node.net.ask_often, "successor", 3)
    assert {each.status for each in answers} == {404}
    assert (await node.ask("alive")).client_id == alive


async def test_a_kept_alive_connection_does_not_bypass_it() -> None:
    async with nodes("point-to-point") as node:
        own = await served(node, "alive", ADDRESS)
        with node.net.connected("alive") as connection:
            for _ in range(3):
                assert (await asyncio.to_thread(ask_on, connection)).client_id == own
            route = f"{ADDRESS}/32 dev {node.net.veth('alive')}"
            await asyncio.to_thread(node.net.on_node, f"route del {route}", f"route add {route}")
            assert (await asyncio.to_thread(ask_on, connection)).status == 404
        assert await metric(node.sandbox, "aadpodidentity_nmi_suspended_pods") == 1
        assert await metric(node.sandbox, "aadpodidentity_nmi_suspensions_total") == 1
        (shown,) = [each for each in (await state(node.sandbox))["feed"]["pods"] if each["pod"] == "default/alive"]
        assert shown["suspended"] == {ADDRESS: "route_removed"}


async def test_the_flag_disables_it() -> None:
    async with nodes("point-to-point", "--address-evidence=false") as node:
        own = await served(node, "alive", ADDRESS)
        route = f"{ADDRESS}/32 dev {node.net.veth('alive')}"
        await asyncio.to_thread(node.net.on_node, f"route del {route}", f"route add {route}")
        assert (await node.ask("alive")).client_id == own
        assert await metric(node.sandbox, "aadpodidentity_nmi_network_listening") == 0
