"""Error responses: an exception that is a Status document, and functions that create the usual ones.

Messages equal those of the real server if a client could search for them. Clients are supposed to read the other fields
of a Status: reason, code, details and causes.
"""

import json
from collections.abc import Sequence
from typing import Any

Document = dict[str, Any]
"""A JSON object."""
Cause = tuple[str, str, str]
"""Reason, message and field of one cause of a 422."""


class StatusError(Exception):
    """An error response to the client: a Status document with HTTP status *code*."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Document | None = None,
        retry_after: int | None = None,
        continue_token: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.retry_after = retry_after
        self.continue_token = continue_token

    def document(self) -> Document:
        """Return the Status as the server sends it, in a body or in a watch's ERROR event."""
        metadata: Document = {"continue": self.continue_token} if self.continue_token else {}
        status: Document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        details = dict(self.details) if self.details is not None else None
        if self.retry_after is not None:
            details = (details or {}) | {"retryAfterSeconds": self.retry_after}
        if details is not None:
            status["details"] = details
        status["code"] = self.code
        return status


def success(name: str, plural: str, group: str, uid: str) -> Document:
    """Return the Status of a completed DELETE."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(plural, group, name) | {"uid": uid},
    }


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(plural: str, group: str, name: str, reason: str) -> StatusError:
    about = f"{_resource(plural, group)} {_quoted(name)}" if name else _resource(plural, group)
    message = f"{about} is forbidden: {reason}"
    return StatusError(403, "Forbidden", message, details=_details(plural, group, name))


def not_found(plural: str, group: str, name: str) -> StatusError:
    message = f"{_resource(plural, group)} {_quoted(name)} not found"
    return StatusError(404, "NotFound", message, details=_details(plural, group, name))


def no_such_resource() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, details={})


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    message = f"only the following media types are accepted: {', '.join(accepted)}"
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", message)


def too_large(limit: int) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def already_exists(plural: str, group: str, name: str, *, ending: bool = False) -> StatusError:
    prefix = "object is being deleted: " if ending else ""
    message = f"{prefix}{_resource(plural, group)} {_quoted(name)} already exists"
    return StatusError(409, "AlreadyExists", message, details=_details(plural, group, name))


def conflict(plural: str, group: str, name: str, reason: str) -> StatusError:
    message = f"Operation cannot be fulfilled on {_resource(plural, group)} {_quoted(name)}: {reason}"
    return StatusError(409, "Conflict", message, details=_details(plural, group, name))


def modified(plural: str, group: str, name: str) -> StatusError:
    reason = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(plural, group, name, reason)


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """Return a 422 with each cause as (reason, message, field)."""
    listed = [f"{field}: {message}" for _, message, field in causes]
    problems = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    details = _details(kind, group, name) | {
        "causes": [{"reason": reason, "message": message, "field": field} for reason, message, field in causes]
    }
    message = f"{_resource(kind, group)} {_quoted(name)} is invalid: {problems}"
    return StatusError(422, "Invalid", message, details=details)


def unprocessable_patch() -> StatusError:
    """Return a 422 in the real server's words for a JSON patch that does not apply. It does not name the operation."""
    return StatusError(422, "Invalid", "the server rejected our request due to an error in our request", details={})


def unreadable_patch(message: str) -> StatusError:
    """Return a 422 for a patch whose result the decoder cannot read."""
    cause = {"reason": "FieldValueInvalid", "message": f"Invalid value: {message}", "field": "patch"}
    return StatusError(422, "Invalid", f' "" is invalid: patch: Invalid value: {message}', details={"causes": [cause]})


def expired(message: str, *, continue_token: str = "") -> StatusError:
    return StatusError(410, "Expired", message, continue_token=continue_token)


def revision_too_large(requested: int, current: int) -> StatusError:
    message = f"Timeout: Too large resource version: {requested}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", message, details={"causes": causes}, retry_after=1)


def _resource(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _details(kind: str, group: str, name: str) -> Document:
    details = {"name": name, "group": group, "kind": kind}
    return {field: value for field, value in details.items() if value}
