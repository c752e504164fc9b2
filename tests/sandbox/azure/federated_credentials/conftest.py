"""The sandbox's AAD with an API server that issues assertions."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.azure.conftest import Azure
from tests.sandbox.azure.federated_credentials.federation import Federation


@pytest.fixture
async def federation(azure: Azure) -> AsyncIterator[Federation]:
    kube = await asyncio.to_thread(KubeApi)
    await kube.start()
    running = Federation(azure, kube)
    yield running
    await running.close()
    await kube.stop()
