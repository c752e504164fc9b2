"""What can go wrong with a request to the API server: one class for each thing that a caller handles differently.

The HTTP library's exceptions end here. Every class but `Unreachable` is an answer that the server really gave.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

MESSAGE_MAX: Final = 512
"""Characters of a server's message that are kept: it may quote what an untrusted author wrote into an object."""


class ApiError(Exception):
    """The API server refused a request, or did not answer it.

    `status` is the HTTP status (or the code inside a watch's ERROR event), 0 where there was no answer. `reason` is the
    machine-readable word of the server's Status object, or an empty string. `retry_after` is in seconds, None where the
    server named no time.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message[:MESSAGE_MAX]
        self.retry_after = retry_after
        super().__init__(f"{status} {reason}: {self.message}" if status else self.message)


class Unauthorized(ApiError):  # noqa: N818 - named for what happened
    """401: the credentials are not, or no longer, valid."""


class Forbidden(ApiError):  # noqa: N818 - named for what happened
    """403: the credentials are valid and lack the right; `message` names the verb and the resource."""


class NotFound(ApiError):  # noqa: N818 - named for what happened
    """404: no such object, or no such kind (its CustomResourceDefinition is not installed)."""


class Conflict(ApiError):  # noqa: N818 - named for what happened
    """409: the object was changed by somebody else since it was read."""


class AlreadyExists(Conflict):
    """409 on create: an object of that name exists."""


class Gone(ApiError):  # noqa: N818 - named for what happened
    """410: the resource version or the continue token is older than the server's memory: list anew."""


class Invalid(ApiError):  # noqa: N818 - named for what happened
    """422: the document, the patch or the name cannot be accepted as it is."""


class Throttled(ApiError):  # noqa: N818 - named for what happened
    """429: too many requests; `retry_after` says when to come back."""


class ServerError(ApiError):
    """5xx: the server failed; the same request may succeed later."""


class Unreachable(ApiError):  # noqa: N818 - named for what happened
    """No HTTP answer: refused, reset, timed out, or not HTTP. Whether a write took effect is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "", message)


class AccessError(Exception):
    """There is no usable way to the API server; the message is one line and says what to do."""


class StatusDetails(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class Status(msgspec.Struct, rename="camel"):
    """The API server's Status object, of which an error answer and a watch's ERROR event consist."""

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
    429: Throttled,
}
_STATUS_DECODER: Final = msgspec.json.Decoder(Status)


def from_answer(status: int, body: bytes, retry_after: str = "") -> ApiError:
    """The exception for an HTTP answer of *status*; *retry_after* is the header's value.

    A body that is not a Status object (a proxy's page) becomes the message, cut to `MESSAGE_MAX`.
    """
    try:
        told = _STATUS_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = Status()
    if told.kind != "Status":
        told = Status(message=body[: 4 * MESSAGE_MAX].decode(errors="replace"))
    return from_status(told, status, _seconds(retry_after))


def from_status(told: Status, status: int = 0, retry_after: float | None = None) -> ApiError:
    """The exception for a Status object; *status* and *retry_after* of the HTTP answer win over those inside."""
    code = status or told.code
    if retry_after is None and told.details is not None:
        retry_after = told.details.retry_after_seconds
    if told.reason == "AlreadyExists":
        return AlreadyExists(code, told.reason, told.message, retry_after)
    if told.reason == "Expired":
        return Gone(code, told.reason, told.message, retry_after)
    kind = _CLASSES.get(code, ServerError if code >= 500 else ApiError)
    return kind(code, told.reason, told.message, retry_after)


def _seconds(header: str) -> float | None:
    # The API server sends whole seconds; the other form of the header, a date, is a proxy's and is not worth a clock.
    return float(header) if header.isascii() and header.isdigit() and len(header) < 6 else None
