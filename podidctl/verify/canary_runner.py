"""Life of one canary pod: create it, wait for its result, delete it.

The pod is deleted in any case, also if this task is cancelled (Ctrl-C) or if it is not known whether its creation took
effect.
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

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
LOG_BYTES: Final = 16 * 1024
DELETE_SECONDS: Final = 10.0
TRANSIENT: Final = (NoResponse, ServerError, TooManyRequests)


class CanaryRunner:
    """Runs canary pods in one namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self.not_deleted: list[str] = []
        """Names of pods that could not be deleted."""

    async def run(self, manifest: Mapping[str, Any], seconds: float) -> CanaryResponses | NotRun:
        """Run the pod of *manifest* and return its outcome, at most *seconds* after its creation."""
        name = str(manifest["metadata"]["name"])
        exists = True
        try:
            await self._client.create(CANARIES, self._namespace, manifest)
            return await self._result(name, seconds)
        except ApiError as error:
            if error.status in REFUSED_WRITES or isinstance(error, NotFound):
                exists = False
                return creation_failure(error, self._namespace)
            return NotRun(
                f"it is not known whether the API server created the canary pod: {error}", "repeat this command"
            )
        finally:
            if exists:
                await self.delete(name)

    async def _result(self, name: str, seconds: float) -> CanaryResponses | NotRun:
        pod: Canary | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        pod = await self._client.get(CANARIES, self._namespace, name)
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

    async def delete(self, name: str) -> None:
        """Delete the pod, if it exists. A failure is recorded in `not_deleted`."""
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await self._client.delete(CANARIES, self._namespace, name)
        except NotFound:
            return
        except (ApiError, TimeoutError):
            self.not_deleted.append(name)
