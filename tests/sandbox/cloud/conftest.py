"""A sandbox without MIC and NMI, its pods on loopback addresses: the stage without the actors."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings

SECONDS = 15.0  # for what takes a fraction of a second on a machine that does nothing else


async def eventually(seen: Callable[[], Awaitable[bool]]) -> None:
    """Wait until *seen* is true. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await seen():
                return
            await asyncio.sleep(0.02)


def pod(name: str, *, image: str = "pause", **spec: Any) -> dict[str, Any]:
    """A pod of one container; *spec* adds to its specification."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": image, **spec.pop("container", {})}], **spec},
    }


@pytest.fixture
async def stage() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(nodes=2, programs=False, namespaces=False, environment=os.environ)) as sandbox:
        yield sandbox
