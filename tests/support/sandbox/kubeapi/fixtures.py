"""A running emulator with our four kinds, and clients of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.cluster import CRDS, read_documents
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import Caller


@asynccontextmanager
async def serving(crds: Path | None = None, **options: Any) -> AsyncIterator[tuple[KubeApi, Caller]]:
    """Run a server with these options. Yield it, and a client of its administrator."""
    definitions = await asyncio.to_thread(read_documents, crds) if crds is not None else ()
    api = KubeApi(definitions, **options)
    await api.start()
    call = administrator(api)
    yield api, call
    await call.close()
    await api.stop()


def administrator(api: KubeApi) -> Caller:
    return Caller(api.url, api.token, api.authority.client_context())


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with serving(CRDS) as (made, _):
        yield made


@pytest.fixture
async def call(api: KubeApi) -> AsyncIterator[Caller]:
    caller = administrator(api)
    yield caller
    await caller.close()
