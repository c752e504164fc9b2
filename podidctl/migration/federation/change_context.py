"""Context of the changes of identities and applications, and their conditional patch."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from podidctl.migration.federation.json_patches import Document, Operations
from podidentity.kube.client import Client
from podidentity.kube.errors import Conflict, Invalid
from podidentity.kube.paths import object_path
from podidentity.resources import Kind

ATTEMPTS: Final = 3
"""Attempts for a patch whose object has changed since it was read."""
POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class ChangeContext:
    """Context of one run of a command."""

    client: Client
    timeout: float
    """Time limit in seconds of the wait for MIC, or for the rollout of one application."""
    report: Callable[[str], None] = lambda _line: None
    """Receives each progress line."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def patch(
        self, kind: Kind[Any], key: tuple[str, str], operations: Callable[[Document], Operations]
    ) -> Document:
        """Patch the object with *operations* computed from its current state; read it again if it has changed in
        between.

        Raises ApiError, and UnpatchableError from *operations*.
        """
        path = object_path(kind, *key)
        for attempt in range(1, ATTEMPTS + 1):
            document = msgspec.json.decode(await self.client.request("GET", path))
            try:
                body = msgspec.json.encode(operations(document))
                answer = await self.client.request("PATCH", path, body=body, content_type="application/json-patch+json")
            except (Invalid, Conflict):
                if attempt == ATTEMPTS:
                    raise
            else:
                found: Document = msgspec.json.decode(answer)
                return found
        raise AssertionError("unreachable")
