"""The leader election of the Go implementation (v1.8.17), reimplemented for tests.

It follows client-go's rules for an annotation on Endpoints, and writes the same values: whole seconds,
leaderTransitions, and an empty holder for a released lock.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Conflict, NotFound

ANNOTATION = "control-plane.alpha.kubernetes.io/leader"


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/endpoints" + (f"/{name}" if name else "")


def record_of(document: dict[str, Any]) -> dict[str, Any]:
    """The lock's record in an Endpoints object; empty where there is none."""
    text = (document["metadata"].get("annotations") or {}).get(ANNOTATION)
    return dict(json.loads(text)) if text else {}


async def stored(client: Client, namespace: str, name: str) -> dict[str, Any]:
    """The Endpoints object as it is now. Raises NotFound."""
    return dict(json.loads(await client.request("GET", path(namespace, name))))


async def make_endpoints(client: Client, namespace: str, name: str, **metadata: Any) -> None:
    """An object as `kubectl create` would make it."""
    document = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, **metadata}}
    await client.request("POST", path(namespace), body=json.dumps(document).encode())


class ReferenceElector:
    """One replica of the Go implementation. `run` is its process; cancelling it is a kill.

    Each record has a time in another second than the one before, as with the Go implementation's durations.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = "reference"
        self._seconds = seconds
        self._clock = clock
        self._retry = min(seconds / 4, 0.25)
        self._observed: dict[str, Any] = {}
        self._observed_at = 0.0
        self._stamp = datetime.now(UTC)
        self.renewed_at = 0.0
        """By the clock, from before the request."""
        self.leading = asyncio.Event()

    def remaining_seconds(self) -> float:
        return max(0.0, self.renewed_at + self._seconds - self._clock()) if self.leading.is_set() else 0.0

    async def run(self) -> None:
        """Lead when it can; returns when the lock is lost."""
        while True:
            began = self._clock()
            if await self._try_acquire_or_renew():
                self.renewed_at = began
                self.leading.set()
            elif self.leading.is_set() and self._clock() - self.renewed_at > self._seconds / 2:
                self.leading.clear()
                return
            await asyncio.sleep(self._retry)

    async def release(self) -> None:
        """Release the lock. The server may still execute the last renewal of a killed process, after this reads it."""
        while True:
            document = await stored(self._client, self._namespace, self._name)
            record = self._record(record_of(document)) | {"holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                await self._put(document, record)
            except Conflict:
                continue
            return

    async def _try_acquire_or_renew(self) -> bool:
        try:
            try:
                document = await stored(self._client, self._namespace, self._name)
            except NotFound:
                fresh = {"metadata": {"name": self._name, "namespace": self._namespace}}
                await self._write("POST", "", fresh, self._record({}))
                return True
            old = record_of(document)
            if old != self._observed:
                self._observed, self._observed_at = old, self._clock()
            ours = old.get("holderIdentity") == self._identity
            if old.get("holderIdentity") and not ours and self._clock() < self._observed_at + self._seconds:
                return False
            await self._put(document, self._record(old))
        except ApiError:
            return False
        return True

    async def _put(self, document: dict[str, Any], record: dict[str, Any]) -> None:
        await self._write("PUT", self._name, document, record)

    async def _write(self, method: str, name: str, document: dict[str, Any], record: dict[str, Any]) -> None:
        metadata = document["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), ANNOTATION: json.dumps(record)}
        body = json.dumps({"apiVersion": "v1", "kind": "Endpoints", **document}).encode()
        await self._client.request(method, path(self._namespace, name), body=body)

    def _record(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return the record as client-go writes it over *old*."""
        ours = old.get("holderIdentity") == self._identity
        self._stamp += timedelta(seconds=1)
        stamp = self._stamp.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._seconds),
            "acquireTime": old["acquireTime"] if ours else stamp,
            "renewTime": stamp,
            "leaderTransitions": old.get("leaderTransitions", -1) + (0 if ours else 1),
        }
