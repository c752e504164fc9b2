"""The outcome of one canary pod: the responses that its program describes, or why there are none. Pure."""

from dataclasses import dataclass
from typing import Final

import msgspec

from podidctl.verify import canary
from podidctl.verify.pod import Canary
from podidentity.kube.errors import ApiError, Forbidden, NotFound
from podidentity.resources import Wire

UNAUTHORIZED: Final = "cannot create resource"
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


def creation_failure(error: ApiError, namespace: str) -> NotRun:
    """Return the outcome of a canary that the API server refused with one of REFUSED_WRITES or 404."""
    message = f"the API server refused the canary pod: {error.message or error}"
    if isinstance(error, NotFound):
        return NotRun(message, f"create namespace {namespace}, or select another one with -n")
    if isinstance(error, Forbidden) and UNAUTHORIZED in error.message:
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
