"""Search of NMI's logs for the requests of canaries. Requires the permission `get` on pods/log."""

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from podidctl.facts.kinds import Daemon
from podidctl.facts.nmi_log import logged_peers
from podidctl.reading.daemons import read_log
from podidctl.verify.verdicts import Evidence, Sighting
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError

LOG_BYTES: Final = 4 * 1024 * 1024
READS_MAX: Final = 3
"""The kubelet may return a line a moment after NMI has written it."""
PAUSE_SECONDS: Final = 0.5
CONCURRENT_MAX: Final = 16
MARGIN_SECONDS: Final = 30


class NmiLogs:
    """Logs of the NMI pods of the cluster."""

    def __init__(self, client: Client, nmis: Sequence[Daemon]) -> None:
        self._client = client
        self._nmis = nmis
        self._reads = asyncio.Semaphore(CONCURRENT_MAX)

    async def search(self, node: str, request_id: str, seconds: float) -> Evidence:
        """Search the last *seconds* of the logs for *request_id*: on *node*, then on the other nodes."""
        here = [nmi for nmi in self._nmis if nmi.spec.node_name == node]
        evidence = Evidence()
        for number in range(READS_MAX if here else 0):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            evidence = await self._search(here, request_id, seconds)
            if evidence.sightings or evidence.unread:
                break
        # A line of this node's NMI is the proof, so the other logs need not be read.
        if evidence.sightings:
            return evidence
        others = await self._search([nmi for nmi in self._nmis if nmi not in here], request_id, seconds)
        return Evidence(others.sightings, (*evidence.unread, *others.unread))

    async def _search(self, nmis: Sequence[Daemon], request_id: str, seconds: float) -> Evidence:
        results = await asyncio.gather(*(self._search_log(nmi, request_id, seconds) for nmi in nmis))
        return Evidence(
            tuple(sighting for result in results for sighting in result.sightings),
            tuple(reason for result in results for reason in result.unread),
        )

    async def _search_log(self, nmi: Daemon, request_id: str, seconds: float) -> Evidence:
        since = math.ceil(seconds) + MARGIN_SECONDS
        async with self._reads:
            try:
                log = await read_log(self._client, nmi, sinceSeconds=since, limitBytes=LOG_BYTES)
            except ApiError as error:
                return Evidence(unread=(f"{nmi.name}: {error}",))
        peers = logged_peers(log, request_id)
        return Evidence(tuple(Sighting(nmi.spec.node_name, nmi.name, peer) for peer in dict.fromkeys(peers)))
