"""A running emulator with our four kinds, and clients of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.kubeapi.client import Caller

CRDS = Path(__file__).parents[3] / "deploy" / "crds"


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    made = await asyncio.to_thread(KubeApi, CRDS)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def call(api: KubeApi) -> AsyncIterator[Caller]:
    caller = Caller(api.server, api.token, api.authority.client_context())
    yield caller
    await caller.close()
