"""Errors of requests to the API server: one class for each reaction of a caller.

The HTTP library's exceptions end here. Every ApiError except `NoResponse` is a response of the server. This module
imports no HTTP library, so that a command can name its errors before it needs one.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

MESSAGE_MAX: Final = 512
"""Maximum length of a server message, which may quote an untrusted author's text."""
MALFORMED: Final = "Malformed"
"""Reason of a ServerError for an unreadable response: the server works, and an object may be the cause."""

REFUSED_WRITES: Final = frozenset({400, 403, 413, 422})
"""Statuses of a write that the API server, a policy or a webhook (400) refuses. An immediate retry does not help."""


class ApiError(Exception):
    """The API server refused a request or did not respond.

    `status` is the HTTP status (or the code in a watch's ERROR event), 0 without a response. `reason` is the
    machine-readable reason of the server's Status object, or an empty string. `retry_after` is in seconds, None if the
    server sent none. `date` is the response's header, or an empty string.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message[:MESSAGE_MAX]
        self.retry_after = retry_after
        self.date = ""
        super().__init__(f"{status} {reason}: {self.message}" if status else self.message)


class Unauthorized(ApiError):  # noqa: N818 - named for what happened
    """401: the credentials are invalid or have expired."""


class Forbidden(ApiError):  # noqa: N818 - named for what happened
    """403: the credentials are valid but lack a permission; `message` names the verb and the resource."""


class NotFound(ApiError):  # noqa: N818 - named for what happened
    """404: the object does not exist, or its CustomResourceDefinition is not installed."""


class Conflict(ApiError):  # noqa: N818 - named for what happened
    """409: another client changed the object after it was read."""


class AlreadyExists(Conflict):
    """409 on create: an object of this name exists."""


class Gone(ApiError):  # noqa: N818 - named for what happened
    """410: the resource version or continue token is older than the server's history. The caller must list again."""


class Invalid(ApiError):  # noqa: N818 - named for what happened
    """422: the document, the patch or the name is invalid."""


class TooManyRequests(ApiError):  # noqa: N818 - named for what happened
    """429: too many requests; wait `retry_after`."""


class ServerError(ApiError):
    """5xx: the server failed; the same request may succeed later."""


class NoResponse(ApiError):  # noqa: N818 - named for what happened
    """No HTTP response: refused, reset, timed out, or not HTTP. It is unknown whether a write took effect."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "", message)


class TimedOut(NoResponse):
    """No response within the client's time limit of *seconds*."""

    def __init__(self, server: str, seconds: float) -> None:
        super().__init__(f"no response from {server} within {seconds:g} s")
        self.seconds = seconds


class AccessError(Exception):
    """The API server's address or credentials are unusable; the message is one line with the next action."""


class StatusDetails(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class ApiStatus(msgspec.Struct, rename="camel"):
    """The API server's Status object, in error responses and in a watch's ERROR events."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


_CLASSES: Final[Mapping[int, type[ApiError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}
_STATUS_DECODER: Final = msgspec.json.Decoder(ApiStatus)


def from_response(status: int, body: bytes, retry_after: str = "") -> ApiError:
    """Return the exception for an HTTP response of *status*; *retry_after* is the header's value.

    A body other than a Status object (such as a proxy's page) becomes the message, cut to `MESSAGE_MAX`.
    """
    try:
        status_object = _STATUS_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status_object = ApiStatus()
    if status_object.kind != "Status":
        status_object = ApiStatus(message=body[: 4 * MESSAGE_MAX].decode(errors="replace"))
    return from_status(status_object, status, _seconds(retry_after))


def from_status(status_object: ApiStatus, status: int = 0, retry_after: float | None = None) -> ApiError:
    """Return the exception for a Status object; *status* and *retry_after* of the HTTP response take precedence."""
    code = status or status_object.code
    if retry_after is None and status_object.details is not None:
        retry_after = status_object.details.retry_after_seconds
    # By the reason, because a Conflict has the same status.
    if status_object.reason == "AlreadyExists":
        return AlreadyExists(code, status_object.reason, status_object.message, retry_after)
    if status_object.reason == "Expired":
        return Gone(code, status_object.reason, status_object.message, retry_after)
    kind = _CLASSES.get(code, ServerError if code >= 500 else ApiError)
    return kind(code, status_object.reason, status_object.message, retry_after)


def malformed(plural: str, cause: Exception) -> ServerError:
    """Return the exception for a 2xx response about objects of the kind *plural* that cannot be decoded."""
    return ServerError(502, MALFORMED, f"the response about {plural} cannot be read: {cause}")


def api_error_advice(error: ApiError) -> str:
    """Return in one line why the API server refused, and what to do."""
    match error:
        case Unauthorized():
            return f"the API server rejects the credentials ({error}): check those in --kubeconfig or KUBECONFIG"
        case Forbidden():
            return f"not allowed to read the cluster: grant get and list on the named resources ({error.message})"
        case NotFound():
            return f"the API server lacks a kind of aad-pod-identity: install deploy/crds ({error.message})"
        case _ if not error.status:
            return f"{error.message}: check --kubeconfig, or that the API server runs"
        case _:
            return f"the API server failed: {error}; try again, or check it with kubectl get --raw /readyz?verbose"


def _seconds(header: str) -> float | None:
    # The API server sends whole seconds; the date format, which proxies send, is ignored.
    return float(header) if header.isascii() and header.isdigit() and len(header) < 6 else None


class LeadershipLost(Exception):  # noqa: N818 - named for what happened
    """This process held the lock and lost it. The process must end, because a restarted one has a defined state."""
