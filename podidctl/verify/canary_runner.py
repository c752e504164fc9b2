"""Life of one canary pod: create it, wait for its result, delete it. The functions for its outcome are pure.

The pod is deleted in any case, also if this task is cancelled (Ctrl-C) or if it is not known whether its creation took
effect.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from podidctl.verify import canary
from podidctl.verify.pod import CANARIES, CONTAINER, Canary
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, Invalid, NoResponse, NotFound, ServerError, TooManyRequests
from podidentity.kube.paths import object_path
from podidentity.resources import Wire

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5
LOG_BYTES: Final = 16 * 1024
DELETE_SECONDS: Final = 10.0
TRANSIENT: Final = (NoResponse, ServerError, TooManyRequests)
REFUSALS: Final = (Forbidden, Invalid, NotFound)
"""Responses to a create after which no pod exists."""
_UNAUTHORIZED: Final = "cannot create resource"
"""Part of the message of the API server's RBAC authorizer; admission plugins write others."""
LASTING: Final = frozenset(
    {
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that time does not resolve. ErrImagePull precedes ImagePullBackOff."""
_PULL: Final = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})


class CanaryResponse(Wire, frozen=True):
    """One answer that the canary's program describes. Its texts come from an unknown server."""

    who: str = canary.NOTHING
    source: str = ""
    """The pod's own address of the connection; empty if there was none."""
    status: int = 0
    server: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class NotRun:
    """A canary without a result."""

    reason: str
    then: str = ""
    """The next action."""


CanaryResponses = tuple[CanaryResponse, ...]


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
        path = object_path(CANARIES, *pod.key, "log")
        params = {"container": CONTAINER, "limitBytes": str(LOG_BYTES)}
        try:
            return (await self._client.request("GET", path, params=params)).decode(errors="replace")
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
    message = f"the API server refused the canary pod: {error.message or error}"
    if isinstance(error, NotFound):
        return NotRun(message, f"create namespace {namespace}, or select another one with -n")
    if isinstance(error, Forbidden) and _UNAUTHORIZED in error.message:
        return NotRun(message, f"grant create on pods in namespace {namespace}")
    # Pod Security, a quota, an admission policy or a webhook.
    return NotRun(message, "permit this pod there, or select another namespace with -n")


def outcome_of(pod: Canary, log: str = "") -> CanaryResponses | NotRun | None:
    """Return the outcome of a canary pod; None while it is not known. *log* counts if its status has no result."""
    ended = pod.state.terminated
    if ended is not None:
        last = log.strip().rpartition("\n")[2]
        cause = f"exit code {ended.exit_code}, {ended.reason or 'no reason'}"
        failure = NotRun(
            f"the canary's program ended without a result ({cause})",
            "check that the pod's image is NMI's, with python3",
        )
        return _responses(ended.message or "") or _responses(last) or failure
    waiting = pod.state.waiting
    if waiting is not None and waiting.reason in LASTING:
        return waiting_failure(waiting.reason or "", waiting.message or "")
    if pod.status.phase in {"Failed", "Succeeded"}:
        reason = ": ".join(filter(None, (pod.status.reason, pod.status.message))) or "no reason"
        return NotRun(
            f"the node's kubelet ended the canary pod: {reason}", "free resources on the node, or repeat this"
        )
    if pod.metadata.deletion_timestamp is not None:
        return NotRun("another program deleted the canary pod", "repeat this command")
    return None


def late(pod: Canary | None, seconds: float) -> NotRun:
    """Return the outcome of a canary that has no result after *seconds*. *pod* is its last known state."""
    waiting = pod.state.waiting if pod is not None else None
    if waiting is not None and waiting.reason:
        return waiting_failure(waiting.reason, waiting.message or "")
    if pod is not None and pod.status.container_statuses:
        return NotRun(f"the canary did not end within {seconds:g} s", "repeat this with a longer --timeout")
    return NotRun(
        f"the node's kubelet did not start the canary within {seconds:g} s",
        "check the kubelet of the node, or repeat this with a longer --timeout",
    )


def waiting_failure(reason: str, message: str) -> NotRun:
    """Return the outcome of a container that does not start for *reason*."""
    text = f"the canary does not start: {reason}" + (f": {message}" if message else "")
    if reason in _PULL:
        return NotRun(text, "make NMI's image available to this node, and check imagePullSecrets")
    return NotRun(text, "see kubectl describe pod, and the log of the node's kubelet and container runtime")


def _responses(message: str) -> CanaryResponses:
    try:
        return tuple(msgspec.json.decode(message, type=list[CanaryResponse]))
    except msgspec.DecodeError:
        return ()
