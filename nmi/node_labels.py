"""Reader of the labels of this node's object, which decide whether NMI may write rules (`nmi.node.host_routing`)."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Never

from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError, ApiError, Forbidden, NotFound
from podidentity.kube.first_contact import FirstContact
from podidentity.resources import NODES
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

FIRST_SECONDS: Final = 2.0
"""How long the first rule waits for the API server, where the labels in the kubelet's flags permit it. The API server
comes first: AKS may label a node later than the kubelet starts."""


AGAIN_FIRST_SECONDS: Final = 5.0
AGAIN_MOST_SECONDS: Final = 60.0
"""Pauses between later reads, which grow: AKS may label a node after NMI's start, and an API server that has just
started may refuse the first read."""


class NodeLabels:
    """The labels of one node. Each method can be cancelled."""

    def __init__(self, client: Client, node: str, *, log_limit: LogLimit) -> None:
        """*log_limit* limits the lines about an API server that does not respond."""
        self._client = client
        self._node = node
        self._log_limit = log_limit
        self._refused = False

    async def first(self, contact: FirstContact) -> Mapping[str, str] | None:
        """Return the labels; None if the API server does not return them within FIRST_SECONDS."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await contact.made()
                return await self.read()
        except TimeoutError:
            return None

    async def read(self) -> Mapping[str, str]:
        """Return the labels as soon as the API server responds, and no labels if it refuses to return them.

        A missing permission must not leave every pod without a redirect, so it is logged and no reason to wait.
        """
        pauses = Backoff(_jitter, first_seconds=1.0, most_seconds=3.0)
        while True:
            labels = await self._read_once()
            if labels is not None:
                return labels
            await asyncio.sleep(pauses.next())

    async def follow(self, note: Callable[[Mapping[str, str]], Awaitable[None]], *, known: bool) -> Never:
        """Pass the labels to *note*, as soon as the API server responds unless they are *known*, and then repeatedly.

        A later read that fails is no reason to call *note*.
        """
        if not known:
            await note(await self.read())
        pauses = Backoff(_jitter, first_seconds=AGAIN_FIRST_SECONDS, most_seconds=AGAIN_MOST_SECONDS)
        while True:
            await asyncio.sleep(pauses.next())
            labels = await self._read_once()
            if labels is not None:
                await note(labels)

    async def _read_once(self) -> Mapping[str, str] | None:
        """Return the labels, no labels if the API server refuses to return them, and None if it does not respond."""
        try:
            labels = (await self._client.get(NODES, "", self._node)).metadata.labels or {}
        except (Forbidden, NotFound) as error:
            if not self._refused:
                log.warning(
                    "the labels of this node could not be read, so NMI does not detect eBPF host routing by them; "
                    "grant NMI the verb get on nodes, and check --node",
                    extra={"error": str(error)},
                )
            # One line: the read is repeated every minute, and its refusal rarely changes.
            self._refused = True
            return {}
        except (ApiError, AccessError) as error:
            if self._log_limit.allows():
                log.warning(
                    "the labels of this node could not be read, which decide whether it may have rules; NMI retries",
                    extra={"error": str(error)},
                )
            return None
        self._refused = False
        return labels


def _jitter() -> float:
    return 0.5 + random.random() / 2  # noqa: S311
