"""What Azure's endpoints answer when they do not give what was asked: one class for each thing a caller does about it.

Raised by every client of Azure in both daemons; the HTTP library's own errors never get past them. Nothing here may
carry a token or a secret: text from an answer is cut and scrubbed before it gets in.
"""

import re
from typing import Final, Self, TypeVar

MESSAGE_MAX: Final = 256
"""Characters kept of another service's text: enough to recognise it, too few to flood a log."""

_TOKEN_LIKE: Final = re.compile(r"[A-Za-z0-9_.~+=-]{64,}")
"""Correlation ids (36), error codes and the parts of a resource id are shorter; a JWT or an AAD secret is not."""

_TRAILER: Final = re.compile(r"\b(?:Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
"""What Entra ID appends to its sentences, and IMDS passes on."""

_IDS: Final = tuple(
    re.compile(rf"\b{name}:\s*([0-9A-Fa-f-]{{36}})(?![0-9A-Fa-f-])") for name in ("Correlation ID", "Trace ID")
)
"""In the order of preference: Entra ID's sign-in log finds a request by the first."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


Kind = TypeVar("Kind", bound="AzureError")


class AzureError(Exception):
    """Azure did not give what was asked; as itself (no subclass): it failed in a way that repeating may cure."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        retry_after: float | None = None,
        correlation_id: str = "",
        said: str = "",
    ) -> None:
        """*message*, *code* and *said* may be another service's text: they are bounded and scrubbed here.

        *said* is the service's own sentence and nothing of ours; empty where it gave none.

        *retry_after* is seconds from now, where the service said so.
        """
        self.status = status
        self.code = plain(code)
        self.message = scrubbed(message)
        self.said = scrubbed(said)
        self.retry_after = retry_after
        self.correlation_id = plain(correlation_id)
        super().__init__(self.message)

    def again(self) -> Self:
        """An equal error without traceback or context: what may be kept, and raised any number of times."""
        return self.taken_for(type(self))

    def taken_for(self, kind: type[Kind]) -> Kind:
        """The same answer as an error of *kind*: for a caller who knows more of what it means."""
        return kind(
            self.message,
            status=self.status,
            code=self.code,
            retry_after=self.retry_after,
            correlation_id=self.correlation_id,
            said=self.said,
        )


class Unreachable(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """No answer: connection refused or lost, or out of time."""


class NotSent(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """No call was made: the endpoint has failed so often that it is left alone for *retry_after* seconds."""


class Throttled(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """Too many calls (429): wait *retry_after*."""


class Paused(Throttled):
    """No call was made: the endpoint has asked for a pause, which goes on for *retry_after* seconds."""


class Refused(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """The request will not be granted however often it is repeated (400, 401, 403 and their like)."""


class NotYet(AzureError):  # noqa: N818 - named for what happened, as its base says that it is an error
    """The endpoint is away for a moment and says so (404, 410): it will be back, within 70 seconds as documented."""


def scrubbed(text: str) -> str:
    """*text* on one line, without anything that could be a token, and cut to MESSAGE_MAX characters."""
    line = "".join(character if character.isprintable() else " " for character in text[: 8 * MESSAGE_MAX])
    line = _TOKEN_LIKE.sub("<removed>", line)
    return line if len(line) <= MESSAGE_MAX else line[: MESSAGE_MAX - 1] + "…"


def plain(text: str) -> str:
    """*text* if it is a short plain word (an error code, a correlation id), else an empty string."""
    return text if _PLAIN.fullmatch(text) else ""


def sentence_in(description: str) -> str:
    """An error_description without the ids and the time that Entra ID appends."""
    # The white space before it is removed apart: a pattern that begins with it takes quadratic time.
    sentence = _TRAILER.sub("", description)
    return sentence.rstrip() if len(sentence) < len(description) else sentence


def correlation_in(description: str) -> str:
    """The correlation id in an error_description, else its trace id; empty where there is neither."""
    found = (pattern.search(description) for pattern in _IDS)
    return next((each[1] for each in found if each is not None), "")
