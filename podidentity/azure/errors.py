"""Errors of Azure's endpoints: one class for each reaction of a caller.

Every client of Azure in both daemons raises these errors, never those of the HTTP library. No error contains a token or
a secret: text from a response is cut and scrubbed.
"""

import re
from typing import Final, Self, TypeVar

MESSAGE_MAX: Final = 256
"""Maximum length of another service's text, to identify the error without flooding a log."""

_TOKEN_LIKE: Final = re.compile(r"[A-Za-z0-9_.~+=-]{64,}")
"""Correlation ids (36), error codes and the parts of a resource id are shorter; a JWT or an AAD secret is not."""

_TRAILER: Final = re.compile(r"\b(?:Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
"""Text that Entra ID appends to its sentences and that IMDS passes on."""

_IDS: Final = tuple(
    re.compile(rf"\b{name}:\s*([0-9A-Fa-f-]{{36}})(?![0-9A-Fa-f-])") for name in ("Correlation ID", "Trace ID")
)
"""In order of preference: Entra ID's sign-in log finds a request by the first."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


E = TypeVar("E", bound="AzureError")


class AzureError(Exception):
    """Azure did not fulfil a request. An instance of this class itself (no subclass) may succeed when repeated."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        retry_after: float | None = None,
        correlation_id: str = "",
        sentence: str = "",
    ) -> None:
        """*message*, *code* and *sentence* may be another service's text; they are cut and scrubbed here.

        *sentence* is only the service's own sentence; empty if it sent none.

        *retry_after* is in seconds from now, if the service sent it.
        """
        self.status = status
        self.code = plain(code)
        self.message = scrubbed(message)
        self.sentence = scrubbed(sentence)
        self.retry_after = retry_after
        self.correlation_id = plain(correlation_id)
        super().__init__(self.message)

    @property
    def status_and_code(self) -> str:
        """Status and code of the response; empty if there was none."""
        return " ".join(filter(None, (str(self.status or ""), self.code)))

    def again(self) -> Self:
        """Return an equal error without traceback and context, which can be stored and raised repeatedly."""
        return self.taken_for(type(self))

    def taken_for(self, kind: type[E]) -> E:
        """Return this error as an error of *kind*, for a caller that knows its meaning."""
        return kind(
            self.message,
            status=self.status,
            code=self.code,
            retry_after=self.retry_after,
            correlation_id=self.correlation_id,
            sentence=self.sentence,
        )


class Unreachable(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """No response: connection refused or lost, or time limit exceeded."""


class NotSent(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """No request was sent: after repeated failures the endpoint is not called for *retry_after* seconds."""


class Throttled(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """Too many requests (429): wait *retry_after*."""


class Paused(Throttled):
    """No request was sent: the endpoint requested a pause, which ends in *retry_after* seconds."""


class Refused(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """A refused request (400, 401, 403 and similar). Repeating it has no effect."""


class CameBack(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """The request came back to the program that sent it (508), instead of reaching the endpoint. Repeating it has no
    effect, and it shows nothing about the endpoint.
    """


class NotYet(AzureError):  # noqa: N818 - named for the event, because the base class states that it is an error
    """The endpoint reports that it is temporarily unavailable (404, 410), by its documentation for at most 70
    seconds.
    """


def scrubbed(text: str) -> str:
    """Return *text* on one line, without anything that could be a token, and cut to MESSAGE_MAX characters."""
    # Not cut to the final length yet: the rest of a cut token could be too short to be recognised.
    line = "".join(character if character.isprintable() else " " for character in text[: 8 * MESSAGE_MAX])
    line = _TOKEN_LIKE.sub("<removed>", line)
    return line if len(line) <= MESSAGE_MAX else line[: MESSAGE_MAX - 1] + "…"


def plain(text: str) -> str:
    """Return *text* if it is a short plain word (an error code, a correlation id), else an empty string."""
    return text if _PLAIN.fullmatch(text) else ""


def retry_after_seconds(header: str) -> float | None:
    """Return Retry-After in seconds, at most an hour; None for the date format, which Azure does not send."""
    text = header.strip()
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() else None


def sentence_in(description: str) -> str:
    """Return an error_description without the ids and the time that Entra ID appends."""
    # The white space before it is removed separately: a pattern that begins with it takes quadratic time.
    sentence = _TRAILER.sub("", description)
    return sentence.rstrip() if len(sentence) < len(description) else sentence


def correlation_in(description: str) -> str:
    """Return the correlation id in an error_description, else its trace id, else an empty string."""
    matches = (pattern.search(description) for pattern in _IDS)
    return next((match[1] for match in matches if match is not None), "")
