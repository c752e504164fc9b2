"""A small client of an API server, for tests: any method and path, and watches as lists of events."""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.waiting import LIMIT_SECONDS

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""For responses and events that take milliseconds on an idle machine."""

IDENTITIES = "/apis/aadpodidentity.k8s.io/v1/namespaces/default/azureidentities"
PODS = "/api/v1/namespaces/default/pods"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@dataclass(frozen=True)
class Response:
    """A response with its body, decoded if it is JSON."""

    status: int
    body: Any
    headers: Any

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.body["items"]]


class Watching:
    """An open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    async def next(self) -> dict[str, Any]:
        """The next event; fails after the deadline, and raises EOFError at the end of the stream."""
        async with asyncio.timeout(LIMIT_SECONDS):
            line = await self._response.content.readline()
        if not line:
            raise EOFError
        event: dict[str, Any] = json.loads(line)
        return event

    async def receive(self, count: int) -> list[tuple[str, str]]:
        """The next *count* events as type and name."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def rest(self) -> list[dict[str, Any]]:
        """Every event until the end of the stream, which must come within the deadline of the last one."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except EOFError:
                return events


class Caller:
    """Calls one server with one token (none: anonymously)."""

    def __init__(self, server: str, token: str, trust: ssl.SSLContext) -> None:
        self._server = server
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trust))

    async def __call__(
        self, method: str, path: str, body: Any = None, content_type: str = JSON, accept: str = JSON
    ) -> Response:
        data = body if isinstance(body, bytes | io.BytesIO) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        timeout = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
        async with self._session.request(
            method, self._server + path, data=data, headers=headers, timeout=timeout
        ) as response:
            content = await response.read()
            try:
                decoded = json.loads(content)
            except ValueError:
                decoded = content.decode()
            return Response(response.status, decoded, response.headers)

    @asynccontextmanager
    async def watch(self, path: str, accept: str = JSON, **query: object) -> AsyncIterator[Watching]:
        parameters = {"watch": "1"} | {name: str(value) for name, value in query.items()}
        async with self._session.get(self._server + path, params=parameters, headers={"Accept": accept}) as response:
            yield Watching(response)

    async def close(self) -> None:
        await self._session.close()


def pod(name: str, *, node: str = "", labels: dict[str, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "none"}], "automountServiceAccountToken": False}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def identity(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "aadpodidentity.k8s.io/v1",
        "kind": "AzureIdentity",
        "metadata": {"name": name},
        "spec": {"type": 0, "clientID": "0", **spec},
    }
