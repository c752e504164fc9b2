"""Another machine sends packets for 169.254.169.254 through a node, which redirects them to NMI like those of its pods.

NMI gives the machine no token, and the requests do not reach IMDS. Excluded: connections to NMI's port itself
(test_redirect_target_node.py).
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.connection_attempts import TOKEN_TARGET, attempt_from
from tests.integration.identity_requests import NODE, ask, run_bound_pod

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

MACHINE = "machine"
"""A namespace with a cable to the node, as a machine of the same subnet has one."""
MACHINE_ADDRESS, NODE_SIDE = "10.201.0.1", "10.201.0.2"
HOST_TARGET = "/host/token/?resource=https%3A%2F%2Fmanagement.azure.com%2F"
HOST_HEADERS = {"podns": "default", "podname": "bound"}
TIMED_OUT = "TimeoutError"


@dataclass(frozen=True, slots=True)
class Site:
    """A node with a pod that has an identity, and a machine that routes packets for IMDS through the node."""

    sandbox: Sandbox
    pod: ExecutionContext

    async def attempt(self, target: str = TOKEN_TARGET, source: str = MACHINE_ADDRESS) -> str:
        headers = HOST_HEADERS if target == HOST_TARGET else None
        return await attempt_from(
            self.sandbox, MACHINE, METADATA_ADDRESS, 80, target=target, headers=headers, source=source
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["node", "loopback"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    flags = (f"--redirect-target={request.param}", "--host-token-types=0,1,2")
    async with Sandbox(Settings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox:
        assert isinstance(sandbox.network, Fabric)
        _, pod = await run_bound_pod(sandbox, "bound")
        namespaces = sandbox.network.namespaces
        namespaces.create(MACHINE)
        namespaces.link(MACHINE, "eth0", NODE, "side")
        namespaces.inside(NODE, [f"address add {NODE_SIDE}/30 dev side"])
        namespaces.inside(
            MACHINE,
            [
                f"address add {MACHINE_ADDRESS}/30 dev eth0",
                f"address add {pod.address}/32 dev lo",
                f"route add {METADATA_ADDRESS} via {NODE_SIDE}",
            ],
        )
        yield Site(sandbox, pod)


async def test_a_pod_of_the_node_gets_its_token(site: Site) -> None:
    assert (await ask(site.sandbox, site.pod)).status == 200


async def test_a_machine_whose_packets_the_node_routes_gets_no_token(site: Site) -> None:
    calls = len(site.sandbox.azure.imds.calls)
    assert await site.attempt() == "404"
    assert len(site.sandbox.azure.imds.calls) == calls


async def test_it_gets_no_token_at_the_hosts_path(site: Site) -> None:
    assert await site.attempt(HOST_TARGET) == "403"


async def test_a_machine_that_forges_a_pods_address_receives_no_answer(site: Site) -> None:
    """The node sends its answers to the pod."""
    assert await site.attempt(source=site.pod.address) == TIMED_OUT
