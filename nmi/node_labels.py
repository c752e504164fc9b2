"""Reader of the labels of this node's object, which decide whether NMI may write rules (`nmi.node.host_routing`)."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

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


class NodeLabels:
    """The labels of one node. Both methods can be cancelled."""

    def __init__(
        self,
        client: Client,
        node: str,
        *,
        log_limit: LogLimit,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """*log_limit* limits the lines about an API server that does not respond."""
        self._client = client
        self._node = node
        self._log_limit = log_limit
        self._sleep = sleep

    async def first(self, contact: FirstContact, seconds: float = FIRST_SECONDS) -> Mapping[str, str] | None:
        """Return the labels; None if the API server does not return them within *seconds*."""
        try:
            async with asyncio.timeout(seconds):
                await contact.made()
                return await self.read()
        except TimeoutError:
            return None

    async def read(self) -> Mapping[str, str]:
        """Return the labels as soon as the API server responds, and no labels if it refuses to return them.

        A missing permission must not leave every pod without a redirect, so it is logged and no reason to wait.
        """
        pauses = Backoff(lambda: 0.5 + random.random() / 2, first_seconds=1.0, most_seconds=3.0)  # noqa: S311
        while True:
            try:
                return (await self._client.get(NODES, "", self._node)).metadata.labels or {}
            except (Forbidden, NotFound) as error:
                log.warning(
                    "the labels of this node could not be read, so NMI does not detect eBPF host routing by them; "
                    "grant NMI the verb get on nodes, and check --node",
                    extra={"error": str(error)},
                )
                return {}
            except (ApiError, AccessError) as error:
                if self._log_limit.allows():
                    log.warning(
                        "the labels of this node could not be read, and no rule is written without them; NMI retries",
                        extra={"error": str(error)},
                    )
            await self._sleep(pauses.next())
