"""The two API servers with which the tests run: the real one and the sandbox's."""

import asyncio
import itertools
from typing import Any, Protocol
from urllib.parse import urlsplit

from podidentity.kube.access import ClusterAccess
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.direct_access import direct_access
from tests.support.testplane import up

_NAMES = itertools.count()


class Server(Protocol):
    """Operations of a contract test on any server."""

    token: str
    ca: str

    @property
    def url(self) -> str: ...
    async def access(self) -> ClusterAccess: ...
    async def compact(self) -> None:
        """Delete every earlier revision."""

    async def kill(self) -> None:
        """End immediately, as in a crash. The data remain."""

    async def start_again(self) -> None:
        """Come back on the same address with the same data."""


def address(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def fresh_namespace() -> str:
    """A name that no other test of this session uses."""
    return f"contract-{next(_NAMES)}"


class RealServer:
    def __init__(self, running: up.Plane, **options: Any) -> None:
        self.plane = running
        self._options = options
        self.token, self.ca = running.token, running.ca

    @property
    def url(self) -> str:
        return self.plane.server

    async def access(self) -> ClusterAccess:
        return direct_access(self.url, self.ca, self.token)

    async def compact(self) -> None:
        await asyncio.to_thread(self.plane.compact)

    async def kill(self) -> None:
        await asyncio.to_thread(self.plane.kill)

    async def start_again(self) -> None:
        port = address(self)[1]
        self.plane = await asyncio.to_thread(
            lambda: up.Plane(directory=self.plane.directory, port=port, **self._options)
        )


class EmulatedServer:
    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.token, self.ca = api.token, api.authority.pem

    @property
    def url(self) -> str:
        return self.api.url

    async def access(self) -> ClusterAccess:
        return direct_access(self.url, self.ca, self.token)

    async def compact(self) -> None:
        self.api.compact()

    async def kill(self) -> None:
        await self.api.stop()

    async def start_again(self) -> None:
        await self.api.start()
