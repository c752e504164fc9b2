"""Identities of the command line, served to pods by the real programs, and removed with the sandbox."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidentity.resources import BINDINGS, IDENTITIES
from podidentity_sandbox.given_identities import GivenIdentityError, parse
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.support.identity_requests import ask, identity, run_pod

pytestmark = [pytest.mark.programs, pytest.mark.asyncio(loop_scope="module")]
GIVEN = parse(["blue=app", "green=app", "alone"], ["robot"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def given() -> AsyncIterator[Sandbox]:
    settings = Settings(identities=GIVEN, system_assigned=True, namespaces=False, environment=os.environ)
    async with Sandbox(settings) as sandbox:
        yield sandbox


def client_id(sandbox: Sandbox, name: str) -> str:
    return next(each.client_id for each in sandbox.identities if each.given.name == name)


async def test_a_service_principal_signs_in_with_its_secret(given: Sandbox) -> None:
    context = await run_pod(given, "robot", {"aadpodidbinding": "robot"})
    answer = await ask(given, context)
    assert (answer.status, answer.claims["appid"]) == (200, client_id(given, "robot")), answer.text
    assert given.azure.aad.calls[-1].proof == "secret"


async def test_nodes_of_a_scale_set_share_its_identities() -> None:
    settings = Settings(nodes=2, scale_set=True, system_assigned=True, programs=False, namespaces=False)
    async with Sandbox(settings) as sandbox:
        machine = sandbox.azure.arm.vm(sandbox.vm_id("node-1"))
        assert machine.kind == "virtualMachineScaleSets"
        assert machine is sandbox.azure.arm.vm(sandbox.vm_id("node-0"))
        machine.attach(sandbox.azure.demo)
        first, second = (host.identities() for host in sandbox.azure.imds.hosts)
        assert first == second
        assert first.system_assigned is not None
        assert first.user_assigned == (sandbox.azure.demo,)


async def test_without_the_setting_no_vm_has_a_system_assigned_identity() -> None:
    async with Sandbox(Settings(programs=False, namespaces=False)) as sandbox:
        assert sandbox.azure.imds.hosts[0].identities().system_assigned is None


async def test_objects_that_exist_keep_the_sandbox_from_starting_and_stay(given: Sandbox) -> None:
    """The second sandbox uses the API server of the first one."""
    await given.cluster.apply(identity("theirs", type=0, resourceID="/r", clientID="c"))
    second = Settings(
        kubeconfig=given.cluster.kubeconfig,
        identities=parse(["mine", "theirs"], ()),
        programs=False,
        namespaces=False,
        kinds=False,
        schedule=False,
        run_pods=False,
    )
    with pytest.raises(GivenIdentityError, match="AzureIdentity default/theirs exists; use another name or delete it"):
        async with Sandbox(second):
            pass
    names = {each.metadata.name for each in await given.cluster.client.list(IDENTITIES)}
    assert ("theirs" in names, "mine" in names) == (True, False)
    assert "mine" not in {each.metadata.name for each in await given.cluster.client.list(BINDINGS)}
