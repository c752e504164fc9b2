"""Life of one canary pod: create it, wait for its result, delete it.

The pod is also deleted if it is not known whether its creation took effect. After a cancellation the caller deletes the
remaining pods by `delete_all`.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from podidctl.reading.daemons import read_log
from podidctl.verify.canary_outcome import CanaryResponses, NotRun, creation_failure, late, outcome_of
from podidctl.verify.pod import CANARIES, CONTAINER, Canary
from podidentity.kube.client import Client
from podidentity.kube.errors import (
    REFUSED_WRITES,
    ApiError,
    Forbidden,
    NoResponse,
    NotFound,
    ServerError,
    TooManyRequests,
)

Key = tuple[str, str]
"""Namespace and name of a pod."""
log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
LOG_BYTES: Final = 16 * 1024
DELETE_SECONDS: Final = 10.0
TRANSIENT: Final = (NoResponse, ServerError, TooManyRequests)


class CanaryRunner:
    """Runs canary pods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._creations: dict[Key, asyncio.Task[Canary]] = {}
        """The requests that create the pods which may exist."""
        self.not_deleted: list[Key] = []
        """Pods that could not be deleted."""

    async def run(self, manifest: Mapping[str, Any], seconds: float) -> CanaryResponses | NotRun:
        """Run the pod of *manifest* and return its outcome, at most *seconds* after its creation."""
        key = str(manifest["metadata"]["namespace"]), str(manifest["metadata"]["name"])
        creation = asyncio.create_task(self._client.create(CANARIES, key[0], manifest), name="canary's creation")
        # Read, so that asyncio does not report it, if it comes after a cancellation.
        creation.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._creations[key] = creation
        try:
            # A cancelled request may reach the API server after the pod's deletion.
            await asyncio.shield(creation)
            outcome = await self._result(key, seconds)
        except ApiError as error:
            # The API server has decided, so there is certainly no pod to delete.
            if error.status in REFUSED_WRITES or isinstance(error, NotFound):
                del self._creations[key]
                return creation_failure(error, key[0])
            outcome = NotRun(
                f"it is not known whether the API server created the canary pod: {error}", "repeat this command"
            )
        await self.delete(key)
        return outcome

    async def _result(self, key: Key, seconds: float) -> CanaryResponses | NotRun:
        pod: Canary | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        pod = await self._client.get(CANARIES, *key)
                    except NotFound:
                        return NotRun("another program deleted the canary pod", "repeat this command")
                    except Forbidden as error:
                        return NotRun(f"the canary pod could not be read: {error}", "grant get on pods there")
                    except TRANSIENT as error:
                        log.debug("the canary pod could not be read", extra={"error": str(error)})
                    outcome = outcome_of(pod, await self._log(pod)) if pod is not None else None
                    if outcome is not None:
                        return outcome
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return late(pod, seconds)

    async def _log(self, pod: Canary) -> str:
        """Return the log of a container that ended without a message in its status; else nothing."""
        ended = pod.state.terminated
        if ended is None or ended.message:
            return ""
        try:
            return await read_log(self._client, pod, CONTAINER, limitBytes=LOG_BYTES)
        except ApiError:
            return ""

    async def delete(self, key: Key) -> None:
        """Delete the pod, if it exists, within DELETE_SECONDS. A failure is recorded in `not_deleted`."""
        creation = self._creations.get(key)
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                if creation is not None:
                    await asyncio.wait({creation})
                await self._client.delete(CANARIES, *key)
        except NotFound:
            pass
        except (ApiError, TimeoutError):
            self.not_deleted.append(key)
        self._creations.pop(key, None)

    async def delete_all(self) -> None:
        """Delete the pods that `run` has not deleted because it was cancelled, within DELETE_SECONDS."""
        await asyncio.gather(*map(self.delete, self._creations))
