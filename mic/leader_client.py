"""Writes only by the leader: the last checks of the lease, immediately before a request is sent.

Between the decision to write and the first byte the process may wait for a connection or a token, or be suspended. Only
a check in the step of the event loop that sends the bytes is safe. The loop's transport sends what it receives in that
step.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import Connection
from typing_extensions import override

from podidentity.kube.access import ClusterAccess
from podidentity.kube.aiohttp_session import AiohttpSession, connector
from podidentity.kube.client import Client
from podidentity.kube.errors import NoResponse

READS: Final = frozenset({"GET", "HEAD"})


class LeaseRunOut(aiohttp.ClientConnectionError):
    """The request was not sent, because another process may lead by now."""

    def __init__(self) -> None:
        super().__init__("the leader lease has run out, so nothing is written")


def leader_request(may_write: Callable[[], bool]) -> type[ClientRequest]:
    """Return aiohttp's class of requests for a session whose writes are sent only while *may_write* returns True. A
    request for which it does not ends with LeaseRunOut, and its connection is closed."""

    class LeaderRequest(ClientRequest):
        @override
        async def send(self, conn: Connection) -> ClientResponse:
            """Send a request without a body, and prepare one with a body."""
            if self._late():
                raise LeaseRunOut
            return await super().send(conn)

        @override
        async def write_bytes(
            self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
        ) -> None:
            """Send the head and the body. Until Python 3.12 this is a later step than `send`."""
            if self._late():
                if conn.protocol is not None:
                    conn.protocol.set_exception(LeaseRunOut())  # for the reader of the response
                return
            await super().write_bytes(writer, conn, content_length)

        def _late(self) -> bool:
            return self.method not in READS and not may_write()

    return LeaderRequest


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
        request_class = leader_request(lambda: self._remaining_seconds() > 0)
        return AiohttpSession(access, connector(connections, reuse=reuse), headers, request_class=request_class)

    @override
    def _unreachable(self, error: Exception) -> NoResponse:
        # The server may be reachable: this program sent nothing.
        return NoResponse(str(error)) if isinstance(error.__cause__, LeaseRunOut) else super()._unreachable(error)
