"""The sandbox's API server in memory: real clients reach it without sockets, so that time can be virtual."""

import asyncio
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from podidentity.kube.access import ClusterAccess
from podidentity.kube.aiohttp_session import AiohttpSession
from podidentity.kube.client import Client
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.kubeapi import definitions
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS
from podidentity_sandbox.kubeapi.server import KubeApi
from tests.support.memory_connections import MemoryConnector

CRDS: Final = Path(__file__).parents[2] / "deploy" / "crds"

authority = functools.cache(Authority)


@functools.cache
def _definitions(directory: Path) -> tuple[dict[str, Any], ...]:
    return tuple(definitions.from_directory(directory))


class MemoryApi(KubeApi):
    """An API server with the project's definitions or those of *directory*, by the clock of the running loop."""

    def __init__(self, directory: Path = CRDS, *, rbac: bool = False) -> None:
        super().__init__(authority=authority(), clock=asyncio.get_running_loop().time, rbac=rbac)
        for each in _definitions(directory):
            self.store.create(DEFINITIONS, each)
        self.listener = web.Server(self.respond, handler_cancellation=True, access_log=None)

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to a request."""
        return await self._answer(request)

    def access(self, token: str = "") -> ClusterAccess:
        """Return the access with *token*, or the administrator's, without TLS."""

        async def authorization() -> str:
            return f"Bearer {token or self.token}"

        return ClusterAccess("http://api.test", authorization=authorization)

    def session(
        self, access: ClusterAccess, *, connections: int, headers: Mapping[str, str], reuse: bool, **options: Any
    ) -> AiohttpSession:
        """Open a session to this server, as `podidentity.kube.sessions.OpenSession`."""
        connector = MemoryConnector(self.listener, connections=connections, reuse=reuse)
        return AiohttpSession(access, connector, headers, **options)

    def client(self, user_agent: str, token: str = "") -> Client:
        """Return a client with *token*, or the administrator's. The caller closes it."""
        clock = asyncio.get_running_loop().time
        return Client(self.access(token), user_agent=user_agent, open_session=self.session, clock=clock)
