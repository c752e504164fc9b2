"""Parts of every report for an operator: the base class of its JSON, its exit code, and untrusted text made printable.
Pure."""

from typing import Final

import msgspec

from podidentity.telemetry.logs import redact

SOMETHING_TO_DO: Final = 3
"""Exit code of a program that has reported something to do."""

MESSAGE_MAX: Final = 300
"""Characters of an Azure message in the report."""

TEXT_MAX: Final = 2048
"""Maximum length of a printed text in characters: twice that of a message of NMI or MIC, which ends with the action."""


ERROR_MAX: Final = 4096
"""Maximum length of the line about an error, in characters. It names a hundred pods, or forty wrong flags."""


class ReportModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base class of the report's parts: camel-case field names in JSON."""


def counted(number: int, one: str, many: str = "") -> str:
    """Return *number* with the singular or plural noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def printable(line: str) -> str:
    """Return *line*, which may contain text from objects, without characters that control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def error_line(text: str) -> str:
    """Return *text*, which may be untrusted, as one printable line of at most ERROR_MAX characters. The middle of a
    longer one is omitted, because the next action is at its end.
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= ERROR_MAX else f"{line[: ERROR_MAX // 2]} … {line[3 - ERROR_MAX // 2 :]}"


def plain(text: str) -> str:
    """Return the untrusted *text* as one printable line without credentials, cut to TEXT_MAX."""
    shown = text[: 4 * TEXT_MAX]
    if not shown.isprintable():
        shown = "".join(character if character.isprintable() else " " for character in shown)
    line = " ".join(shown.split())
    return redact(line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…")


def cut(text: str) -> str:
    """Return foreign text as one line of at most MESSAGE_MAX characters, without credentials."""
    return redact(" ".join(text.split())[:MESSAGE_MAX])
