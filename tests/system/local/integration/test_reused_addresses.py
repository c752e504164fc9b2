"""Tests of an address that passes to another pod sandbox without a report from the API server.

They use the real NMI and the real kernel.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.identity_requests import metric, state
from tests.support.waiting import until
from tests.system.local.integration.handover_node import SUBNET, Node, ask_on, connection, nodes

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
    await until(lambda: node.ask(name), holds=lambda response: response.client_id == own.client_id)
    return own.client_id


async def hand_over(node: Node) -> None:
    """Pass ADDRESS from `former` to `successor` before the API server reports either change."""
    await node.remove("former")
    await until(lambda: suspended(node, "former"))
    await node.add("successor", ADDRESS)
    await refused(node, "successor")


async def suspended(node: Node, name: str) -> dict[str, str]:
    """Return the suspended addresses of a pod, with the evidence. NMI may read the kernel's report after a request."""
    (shown,) = [pod for pod in (await state(node.sandbox))["feed"]["pods"] if pod["pod"] == f"default/{name}"]
    return dict(shown["suspended"])


async def refused(node: Node, name: str) -> None:
    """Assert that several requests of a pod are refused."""
    assert {(await node.ask(name)).status for _ in range(3)} == {404}


async def test_the_successor_never_gets_its_predecessors_token_and_gets_its_own_when_it_is_reported(node: Node) -> None:
    former = await served(node, "former", ADDRESS)
    await hand_over(node)
    own = await node.identity("successor")
    await node.create("successor", "successor")
    await node.report("successor", ADDRESS)

    async def granted() -> bool:
        response = await node.ask("successor")
        assert response.client_id != former
        return response.client_id == own.client_id

    await until(granted)
    await node.delete("former")
    assert (await node.ask("successor")).client_id == own.client_id


async def test_the_end_of_a_pod_that_has_never_sent_a_packet_is_noticed(node: Node) -> None:
    await node.identity("former")
    await node.create("former", "former")
    await node.add("former", ADDRESS)
    await node.report("former", ADDRESS)

    await until(lambda: state(node.sandbox), "attached", holds=lambda status: status["feed"]["network"]["attached"])
    await hand_over(node)


async def test_a_recreated_sandbox_keeps_its_identity_and_loses_its_former_address(node: Node) -> None:
    own = await served(node, "moved", ADDRESS)
    await node.remove("moved")
    await until(lambda: suspended(node, "moved"))
    await node.add("stranger", ADDRESS)
    await node.add("moved", OTHER)
    await refused(node, "stranger")
    await node.report("moved", OTHER)
    await until(lambda: node.ask("moved"), holds=lambda response: response.client_id == own)
    await refused(node, "stranger")


async def test_with_the_watch_broken_evidence_counts_too_and_pods_without_evidence_are_served(node: Node) -> None:
    await served(node, "former", ADDRESS)
    alive = await served(node, "alive", OTHER)
    api = node.sandbox.cluster.api
    assert api is not None
    api.intercept = lambda _: StatusError(500, "InternalError", "down")
    api.drop_watches()
    await hand_over(node)
    assert (await node.ask("alive")).client_id == alive


async def replace_route(node: Node) -> None:
    """Take the route to the pod `alive` away, and give it back."""
    route = f"{ADDRESS}/32 dev {node.net.veths['alive']}"
    await asyncio.to_thread(node.net.on_node, f"route del {route}", f"route add {route}")


async def test_a_kept_alive_connection_does_not_bypass_it() -> None:
    async with nodes("point-to-point") as node:
        own = await served(node, "alive", ADDRESS)
        with closing(await asyncio.to_thread(node.net.call, "alive", connection)) as kept:
            for _ in range(3):
                assert (await asyncio.to_thread(ask_on, kept)).client_id == own
            await replace_route(node)
            assert await until(lambda: suspended(node, "alive")) == {ADDRESS: "route_removed"}
            assert (await asyncio.to_thread(ask_on, kept)).status == 404
        assert await metric(node.sandbox, "aadpodidentity_nmi_suspended_pods") == 1
        assert await metric(node.sandbox, "aadpodidentity_nmi_suspensions_total") == 1


async def test_the_flag_disables_it() -> None:
    async with nodes("point-to-point", "--address-evidence=false") as node:
        own = await served(node, "alive", ADDRESS)
        await replace_route(node)
        assert (await node.ask("alive")).client_id == own
        assert await metric(node.sandbox, "aadpodidentity_nmi_network_listening") == 0
