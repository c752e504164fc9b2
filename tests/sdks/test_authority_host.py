"""Tests of SDKs that honour AZURE_POD_IDENTITY_AUTHORITY_HOST, with every way in which they combine path and host.

They need no root: the pods are loopback addresses.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.sdks.applications import Application
from tests.sdks.sdk_sandbox import SdkSandbox

pytestmark = [pytest.mark.needs("honours_authority_host"), pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def loopback(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SdkSandbox]:
    """Yield a stage with one node, whose pods are loopback addresses."""
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        yield SdkSandbox(sandbox, tmp_path_factory.mktemp("home"))


async def test_a_selector_selects_the_second_of_two(
    application: Application, selector: str, loopback: SdkSandbox
) -> None:
    await loopback.identity("first")
    second = await loopback.identity("second")
    pod = await loopback.pod("first", "second")
    result = await loopback.run(application, pod, selector, loopback.ids(second)[selector])
    assert result.claims["appid"] == second.client_id


async def test_a_pod_without_identity_gets_an_error(application: Application, loopback: SdkSandbox) -> None:
    result = await loopback.run(application, await loopback.pod(labelled=False))
    assert result.tokens == ()
    assert result.error
    assert result.seconds < 20


@pytest.mark.needs("honours_authority_host", "chain")
async def test_the_chain_finds_the_managed_identity(application: Application, loopback: SdkSandbox) -> None:
    first = await loopback.identity("first")
    result = await loopback.run(application, await loopback.pod("first"), kind="chain")
    assert result.claims["appid"] == first.client_id
