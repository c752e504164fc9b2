"""Life of one canary pod: create it, wait for its result, delete it.

The pod is deleted in any case, also if this task is cancelled (Ctrl-C) or if it is not known whether its creation took
effect.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from podidctl.verify.objects import CANARIES, CONTAINER, Canary
from podidctl.verify.outcome import Answers, NotRun, late, outcome_of
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, Invalid, NoResponse, NotFound, ServerError, TooManyRequests
from podidentity.kube.paths import object_path

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
LOG_BYTES: Final = 16 * 1024
DELETE_SECONDS: Final = 10.0
TRANSIENT: Final = (NoResponse, ServerError, TooManyRequests)
REFUSALS: Final = (Forbidden, Invalid, NotFound)
"""Responses to a create after which no pod exists."""
_UNAUTHORIZED: Final = "cannot create resource"
"""Part of the message of the API server's RBAC authorizer; admission plugins write others."""


class CanaryRunner:
    """Runs canary pods in one namespace."""

    def __init__(self, client: Client, namespace: str, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._client = client
        self._namespace = namespace
        self._poll_seconds = poll_seconds
        self.not_deleted: list[str] = []
        """Names of pods that could not be deleted."""

    async def run(self, manifest: Mapping[str, Any], seconds: float) -> Answers | NotRun:
        """Run the pod of *manifest* and return its outcome, at most *seconds* after its creation."""
        name = str(manifest["metadata"]["name"])
        exists = True
        try:
            await self._client.create(CANARIES, self._namespace, manifest)
            return await self._result(name, seconds)
        except REFUSALS as error:
            exists = False
            return creation_failure(error, self._namespace)
        except ApiError as error:
            return NotRun(
                f"it is not known whether the API server created the canary pod: {error}", "repeat this command"
            )
        finally:
            if exists:
                await self.delete(name)

    async def _result(self, name: str, seconds: float) -> Answers | NotRun:
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
                    await asyncio.sleep(self._poll_seconds)
        except TimeoutError:
            return late(pod, seconds)

    async def _log(self, pod: Canary) -> str:
        """Return the log of a container that ended without a message in its status; else nothing."""
        ended = pod.state.terminated
        if ended is None or ended.message:
            return ""
        path = object_path(CANARIES, *pod.key, "log")
        asked = {"container": CONTAINER, "limitBytes": str(LOG_BYTES)}
        try:
            return (await self._client.request("GET", path, params=asked)).decode(errors="replace")
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


def creation_failure(error: ApiError, namespace: str) -> NotRun:
    """Return the outcome of a canary that the API server refused with one of REFUSALS."""
    says = f"the API server refused the canary pod: {error.message or error}"
    if isinstance(error, NotFound):
        return NotRun(says, f"create namespace {namespace}, or select another one with -n")
    if isinstance(error, Forbidden) and _UNAUTHORIZED in error.message:
        return NotRun(says, f"grant create on pods in namespace {namespace}")
    # Pod Security, a quota, an admission policy or a webhook.
    return NotRun(says, "permit this pod there, or select another namespace with -n")
