"""Failures of Azure Resource Manager, one class for each way in which MIC reacts.

`podidentity.azure.errors` defines the general ones (Unreachable, Throttled, Refused, and AzureError itself for a
failure that may be temporary); this module defines those that concern identities of a VM or scale set. It translates
azure-core's exceptions.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from azure.core.exceptions import AzureError as SdkError
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import id_key
from podidentity.telemetry.logs import redacted

__all__ = [
    "OUTCOMES",
    "AzureError",
    "BadIdentities",
    "HostNotFound",
    "LooksThrottled",
    "Missing",
    "Refused",
    "SignInFailed",
    "Throttled",
    "Unreachable",
    "UpdateConflict",
    "outcome_of",
    "principal_of",
    "status_error",
    "translated",
]

ROLE_CODE: Final = "linkedauthorizationfailed"
"""The message names resources that the caller may not assign: mostly identities, but also subnets or disks."""
IDENTITY_CODE: Final = "failedidentityoperation"
"""Always concerns an identity, and mostly names it."""

CLOUD_CONFIG: Final = "check the credentials in the cloud config"

READ_MAX: Final = 64 * 1024
"""Characters of a message that are searched for ids: 150 ids of the longest form fit."""

_ID: Final = re.compile(
    r"/subscriptions/[^/\s'\",\\]+/resourcegroups/[^/\s'\",\\]+/providers"
    r"/microsoft\.managedidentity/userassignedidentities/[^/\s'\",\\;)\]}]+",
    re.IGNORECASE,
)


_QUOTED_CLIENT_ID: Final = re.compile(r"'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'", re.IGNORECASE)
"""Entra's notation of an application in messages. The ids by which its support finds the request are not in quotes."""

_PRINCIPAL: Final = re.compile(r"object id '([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'", re.IGNORECASE)

_MENTION: Final = "microsoft.managedidentity"
"""Occurs in the action or the scope of a refusal that concerns an identity, not a subnet or a disk."""


class HostNotFound(AzureError):  # noqa: N818 - the name states the event; its base class is an error
    """Azure has no such VM or scale set."""


class Missing(Refused):
    """The host exists, but something that the update names does not: an identity, its group or its subscription."""


class SignInFailed(Refused):
    """MIC has no valid token for Resource Manager, so that every request is refused."""


class LooksThrottled(Throttled):
    """Azure accepted an update and now throttles polls and reads of the host."""


class UpdateConflict(AzureError):  # noqa: N818 - the name states the event; its base class is an error
    """Another client changes the host (409), or has changed it since it was read (412): read it again."""


class BadIdentities(Refused):
    """Azure refused the update because of certain identities. `ids` are the keys (lower-case resource ids) found in the
    message. An id that contains a quote, for example, cannot be found, so `ids` may name no identity of the update."""

    ids: frozenset[str] = frozenset()


# The first class that fits counts, so each one comes before its base class.
_OUTCOMES: Final[Mapping[type[AzureError], str]] = {
    HostNotFound: "not_found",
    UpdateConflict: "conflict",
    Throttled: "throttled",
    Refused: "refused",
    Unreachable: "unreachable",
    AzureError: "failed",
}
OUTCOMES: Final = ("ok", *_OUTCOMES.values())
"""Ways in which a call can end, for metrics."""


def outcome_of(error: AzureError | None) -> str:
    """Return the outcome, one of OUTCOMES; None is a successful call."""
    return "ok" if error is None else next(name for kind, name in _OUTCOMES.items() if isinstance(error, kind))


_CLASSES: Final[Mapping[int, type[AzureError]]] = {
    404: HostNotFound,
    409: UpdateConflict,
    412: UpdateConflict,
    429: Throttled,
}


def translated(error: BaseException, sign_in_action: str = CLOUD_CONFIG) -> AzureError:
    """Return the AzureError for an exception of azure-core or azure-identity, or a TimeoutError. *sign_in_action*: the
    next action after a failed sign-in.
    """
    # First: it is an HttpResponseError too, but does not concern the requested operation.
    if isinstance(error, ClientAuthenticationError):
        detail = _QUOTED_CLIENT_ID.sub(lambda match: f"'{redacted(match[1])}'", error.message)
        problem = f"no token for Resource Manager; {sign_in_action}: {detail}"
        return SignInFailed(problem, status=error.status_code)
    if not isinstance(error, HttpResponseError) or error.response is None:
        reason = error.message if isinstance(error, SdkError) else ""
        return Unreachable(f"no answer from Resource Manager: {reason or type(error).__name__}")
    code, message = _code_and_message(error)
    status = error.status_code or 0
    headers: Any = getattr(error.response, "headers", {})
    about: dict[str, Any] = {
        "status": status,
        "code": code,
        "retry_after": seconds(headers.get("Retry-After", "")),
        "correlation_id": headers.get("x-ms-correlation-request-id", ""),
    }
    ids = frozenset(id_key(text) for text in _ID.findall(message[:READ_MAX]))
    about_identities = ids or _MENTION in message.lower()
    if code.lower() == IDENTITY_CODE or (code.lower() == ROLE_CODE and about_identities):
        bad = BadIdentities(message, **about)
        bad.ids = ids
        return bad
    return _class_of(status)(message, **about)


def status_error(status: int) -> AzureError | None:
    """Return the failure for a response with this status; None if it is no failure."""
    return _class_of(status)("", status=status) if status >= 400 else None


def principal_of(error: AzureError) -> str:
    """Return the object id of the caller that Azure refused, from its message; empty if it does not name one."""
    match = _PRINCIPAL.search(error.message)
    return match[1] if match is not None else ""


def _class_of(status: int) -> type[AzureError]:
    return _CLASSES.get(status, Refused if 400 <= status < 500 else AzureError)


def _code_and_message(error: HttpResponseError) -> tuple[str, str]:
    """Return code and message of the response's body, or the SDK's message."""
    try:
        body: Any = json.loads(error.response.text()) if error.response is not None else {}
        reported = body.get("error") or {}
        return str(reported.get("code") or ""), str(reported.get("message") or error.message)
    except (AttributeError, ValueError, RuntimeError):  # a RecursionError is a RuntimeError
        return "", str(error.message)


def seconds(header: str) -> float | None:
    """Return the seconds of a Retry-After header; None for anything else (Azure sends no dates)."""
    # A number of 400 digits would become infinity, and the calls would stop for good.
    return float(header) if header.isascii() and header.isdigit() and len(header) <= 6 else None
