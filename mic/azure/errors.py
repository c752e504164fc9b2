"""What Azure Resource Manager can answer, one class for each thing that MIC does about it.

`podidentity.azure.errors` has the general ones (Unreachable, Throttled, Refused, and AzureError itself for a failure
that may pass); here are those that only an identity on a VM or scale set can have. azure-core's exceptions end here.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from azure.core.exceptions import AzureError as SdkError
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.telemetry.logs import redacted

__all__ = [
    "OUTCOMES",
    "AzureError",
    "BadIdentities",
    "Conflict",
    "LooksThrottled",
    "Missing",
    "NotFound",
    "Refused",
    "SignInFailed",
    "Throttled",
    "Unreachable",
    "outcome_of",
    "status_error",
    "translated",
]

ROLE_CODE: Final = "linkedauthorizationfailed"
"""Names in its message what the caller may not put on the host: mostly identities, but a subnet or a disk too."""
IDENTITY_CODE: Final = "failedidentityoperation"
"""Is about an identity in any case, and mostly names it."""

READ_MAX: Final = 64 * 1024
"""Characters of a message that are searched for ids: 150 ids of the longest form fit."""

_ID: Final = re.compile(
    r"/subscriptions/[^/\s'\",\\]+/resourcegroups/[^/\s'\",\\]+/providers"
    r"/microsoft\.managedidentity/userassignedidentities/[^/\s'\",\\;)\]}]+",
    re.IGNORECASE,
)


_QUOTED_CLIENT_ID: Final = re.compile(r"'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'", re.IGNORECASE)
"""As Entra names an application in its sentences; the ids by which its support finds the request are not in quotes."""

_MENTION: Final = "microsoft.managedidentity"
"""In the action or the scope of a refusal that is about an identity, and not about a subnet or a disk of the host."""


class NotFound(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """Azure knows no such VM or scale set."""


class Missing(Refused):
    """The host is there, and something that the update names is not: an identity's group, subscription or itself."""


class SignInFailed(Refused):
    """There is no token for Resource Manager, or ours is not valid: whatever a request asks for, it is refused."""


class LooksThrottled(Throttled):
    """Azure took an update, and allows no more looks at how it goes: neither at what is on the host for now."""


class Conflict(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """Somebody else changes the VM or scale set (409), or has changed it since it was read (412): look again."""


class BadIdentities(Refused):
    """The update was refused because of certain identities: `ids` are the keys (lower-case resource ids) that could be
    read out of the message. An id that has a quote in it, say, cannot, and then these name nobody of the update."""

    ids: frozenset[str] = frozenset()


_OUTCOMES: Final[Mapping[type[AzureError], str]] = {
    NotFound: "not_found",
    Conflict: "conflict",
    Throttled: "throttled",
    Refused: "refused",
    Unreachable: "unreachable",
    AzureError: "failed",
}
OUTCOMES: Final = ("ok", *_OUTCOMES.values())
"""Ways in which a call can end, for metrics."""


def outcome_of(error: AzureError | None) -> str:
    """Which of OUTCOMES it was; None stands for a call that succeeded."""
    return "ok" if error is None else next(name for kind, name in _OUTCOMES.items() if isinstance(error, kind))


_CLASSES: Final[Mapping[int, type[AzureError]]] = {404: NotFound, 409: Conflict, 412: Conflict, 429: Throttled}


def translated(error: BaseException) -> AzureError:
    """The same failure in our own words. For what azure-core and azure-identity raise, and for TimeoutError."""
    if isinstance(error, ClientAuthenticationError):
        told = _QUOTED_CLIENT_ID.sub(lambda found: f"'{redacted(found[1])}'", error.message)
        why = f"no token for Resource Manager; check the credentials in the cloud config: {told}"
        return SignInFailed(why, status=error.status_code)
    if not isinstance(error, HttpResponseError) or error.response is None:
        reason = error.message if isinstance(error, SdkError) else ""
        return Unreachable(f"no answer from Resource Manager: {reason or type(error).__name__}")
    code, message = _told(error)
    status = error.status_code or 0
    headers: Any = getattr(error.response, "headers", {})
    about: dict[str, Any] = {
        "status": status,
        "code": code,
        "retry_after": seconds(headers.get("Retry-After", "")),
        "correlation_id": headers.get("x-ms-correlation-request-id", ""),
    }
    ids = frozenset(found.lower() for found in _ID.findall(message[:READ_MAX]))
    about_identities = ids or _MENTION in message.lower()
    if code.lower() == IDENTITY_CODE or (code.lower() == ROLE_CODE and about_identities):
        bad = BadIdentities(message, **about)
        bad.ids = ids
        return bad
    return _class_of(status)(message, **about)


def status_error(status: int) -> AzureError | None:
    """What an answer of this status alone says; None where it is no failure."""
    return _class_of(status)("", status=status) if status >= 400 else None


def _class_of(status: int) -> type[AzureError]:
    return _CLASSES.get(status, Refused if 400 <= status < 500 else AzureError)


def _told(error: HttpResponseError) -> tuple[str, str]:
    """Code and message of the answer's body, or what the SDK made of it."""
    try:
        body: Any = json.loads(error.response.text()) if error.response is not None else {}
        told = body.get("error") or {}
        return str(told.get("code") or ""), str(told.get("message") or error.message)
    except (AttributeError, ValueError, RuntimeError):  # a RecursionError is a RuntimeError
        return "", str(error.message)


def seconds(header: str) -> float | None:
    """The seconds of a Retry-After header; None where it holds anything else (Azure sends no dates)."""
    return float(header) if header.isascii() and header.isdigit() and len(header) <= 6 else None
