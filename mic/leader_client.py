"""Writes only by the leader: the last check of the lease, immediately before a request is sent.

Between the decision to write and the first byte the process may wait for a connection or a token, or be suspended. Only
a check after all of these is safe.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from aiohttp.connector import Connection
from typing_extensions import override

from podidentity.kube.access import ClusterAccess
from podidentity.kube.aiohttp_session import AiohttpSession
from podidentity.kube.client import Client
from podidentity.kube.errors import NoResponse

READS: Final = frozenset({"GET", "HEAD"})


class LeaseRunOut(aiohttp.ClientConnectionError):
    """The request was not sent, because another process may lead by now."""

    def __init__(self) -> None:
        super().__init__("the leader lease has run out, so nothing is written")


class LeaderConnector(aiohttp.TCPConnector):
    """Connector that provides a connection for a write only while *may_write* returns True."""

    def __init__(self, may_write: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self._may_write = may_write

    @override
    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection on which *req* is sent without another wait. Raise LeaseRunOut."""
        connection = await super().connect(req, traces, timeout)
        if req.method not in READS and not self._may_write():
            connection.release()
            raise LeaseRunOut
        return connection


class LeaderClient(Client):
    """Client of the API server for the leader's work: a write is sent, and its response awaited, only while this
    process certainly holds the lease. The elector has its own client, so that no renewal waits behind that work."""

    def __init__(
        self,
        access: ClusterAccess,
        *,
        user_agent: str,
        remaining_seconds: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(access, user_agent=user_agent, open_session=self._leader_session, clock=clock)
        self._remaining_seconds = remaining_seconds

    @override
    async def request(
        self,
        method: str,
        path: str,
        *,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> bytes:
        """Send a request as Client does. Raise NoResponse for a write after the lease has expired."""
        if method not in READS:
            remaining = self._remaining_seconds()
            if remaining <= 0:
                raise NoResponse(str(LeaseRunOut()))
            timeout_seconds = min(self._timeout_seconds if timeout_seconds is None else timeout_seconds, remaining)
        return await super().request(method, path, timeout_seconds=timeout_seconds, **options)

    def _leader_session(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool
    ) -> AiohttpSession:
        connector = LeaderConnector(lambda: self._remaining_seconds() > 0, limit=connections, force_close=not reuse)
        return AiohttpSession(access, connector, headers)

    @override
    def _unreachable(self, error: Exception) -> NoResponse:
        return NoResponse(str(error)) if isinstance(error.__cause__, LeaseRunOut) else super()._unreachable(error)
