"""Log lines: one event per line, a constant message and named fields, as text for people or JSON for programs.

External text (a path, another service's error) is quoted, without control characters, cut at `VALUE_MAX` (an error at
`MESSAGE_MAX`) and with credentials removed. `BoundedRepeats` limits lines that any client can trigger. The set of field
names is closed: an `extra` with another name is not written.
"""

import json
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePath
from traceback import extract_tb
from typing import Any, Final, TextIO

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

FIELDS: Final = (
    "pod",
    "namespace",
    "uid",
    "node",
    "identity",
    "binding",
    "status",
    "seconds",
    "attempt",
    "outcome",
    "reason",
    "error",
    "request",
    "client_request",
    "correlation",
    "url",
    "path",
    "peer",
    "resource",
    "vm",
    "count",
    "version",
    "settings",
)
"""All fields, in the order of the line."""

VALUE_MAX: Final = 256
_ID_MIN: Final = 16
"""Characters of a client id that a text is searched for (a GUID has 36)."""
MESSAGE_MAX: Final = 1024
"""Also the limit for settings, which are logged once, and for errors, which end with the next action."""
SCANNED_MAX: Final = 8192
"""Text is cut to this length before it is searched for credentials, and to its final length afterwards."""
FRAMES_MAX: Final = 12
VERBOSE: Final = 4
"""Verbosity from which DEBUG lines are written: one per request and one per repeat."""
LIBRARIES_VERBOSE: Final = 8
"""Verbosity from which libraries log, too; their lines may contain details that do not belong in a long-term log."""
OURS: Final = ("nmi", "mic", "podidentity", "podidctl", "_native")

_CREDENTIALS: Final = re.compile(
    r"(?P<jwt>eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]+)*)"
    r"|(?P<scheme>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<name>\b(?:(?:aad)?client[_-]?secret|client[_-]?assertion|(?:access|refresh|id)[_-]?token"
    r"|(?:client[_-]?)?password|passwd|sig)(?:\\?[\"'])?\s*(?:[=:]|%3D)\s*)"
    # Quoted, quoted within a quoted text, or a word.
    r"(?:\"(?:\\.|[^\"\\])*\"?|\\\"(?:\\\\\\\"|\\[^\"]|[^\"\\])*(?:\\\")?|'[^']*'?|[^\s\"'&,;}]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return *text* with JWTs, Authorization values and the values of parameters with secret names replaced."""
    return _CREDENTIALS.sub(lambda match: (match["scheme"] or match["name"] or "") + "<redacted>", text)


def redacted(client_id: str) -> str:
    """Return a client id with only its first and last four characters, which identify it for readers who know it."""
    return f"{client_id[:4]}…{client_id[-4:]}" if len(client_id) > 12 else "…"


def redact_id(text: str, client_id: str) -> str:
    """Return *text* with *client_id* redacted in each spelling. A short one may be a word, and stays."""
    if len(client_id) < _ID_MIN:
        return text
    # A function, because a template would interpret backslashes, which an AzureIdentity's author may write.
    return re.sub(re.escape(client_id), lambda _: redacted(client_id), text, flags=re.IGNORECASE)


def quoted(value: object, most: int = VALUE_MAX) -> str:
    """Return *value* as one printable ASCII word in double quotes; numbers, booleans and None without quotes."""
    if isinstance(value, bool | int | float | None):
        return str(value)
    return json.dumps(_safe(value, most)).replace("\x7f", "\\u007f")


def _most(field: str) -> int:
    return MESSAGE_MAX if field in {"settings", "error"} else VALUE_MAX


def _safe(value: object, most: int) -> str:
    text = redact(str(value)[:SCANNED_MAX])
    return text if len(text) <= most else text[: most - 1] + "…"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    present = record.__dict__
    fields = {name: present[name] for name in FIELDS if present.get(name) is not None}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        # One line whatever the depth: a traceback over many lines could imitate other log lines.
        frames = [f"{PurePath(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
        fields.setdefault("error", f"{type(error).__name__}: {error}")
        fields["trace"] = " < ".join(reversed(frames[-FRAMES_MAX:]))
    return fields


class LogFormat(StrEnum):
    """Format of log lines."""

    TEXT = "text"
    JSON = "json"


class TextFormatter(logging.Formatter):
    """`I1124 17:00:00.000000 nmi.app] message pod="ns/name" seconds=0.2`, times in UTC."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        head = f"{record.levelname[:1]}{moment:%m%d %H:%M:%S.%f} {record.name}] "
        # No quotes surround the message, so those in it need no backslash.
        message = json.dumps(_safe(record.getMessage(), MESSAGE_MAX))[1:-1].replace('\\"', '"').replace("\x7f", "")
        fields = (f"{name}={quoted(value, _most(name))}" for name, value in _fields(record).items())
        return " ".join([head + message, *fields])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _safe(record.getMessage(), MESSAGE_MAX),
        }
        for name, value in _fields(record).items():
            line[name] = value if isinstance(value, bool | int | float) else _safe(value, _most(name))
        return json.dumps(line)


_OWN_LIMIT: Final = "has_own_limit"


def has_own_limit(record: logging.LogRecord) -> bool:
    """Exempt the lines of a logger, as its filter, from `BoundedRepeats`.

    For a logger that limits its lines itself and logs each change once: equal lines report separate changes there.
    """
    setattr(record, _OWN_LIMIT, True)
    return True


class BoundedRepeats(logging.Filter):
    """Filter that passes the first of equal lines and demotes its repeats to DEBUG until a window has passed.

    Lines are equal if logger, message and the fields that identify the subject (`ABOUT`) are equal, so a caller that
    varies paths or errors gains nothing. The first line after the window has the field `count`, the number of lines it
    represents. The last `remember` distinct lines are known, so callers with arbitrary names cannot grow the memory.
    Lines of loggers with the filter `has_own_limit` all pass.
    """

    ABOUT: Final = ("pod", "node", "identity", "binding", "status", "reason", "resource", "vm")

    def __init__(
        self,
        *,
        remember: int = 512,
        window_seconds: float = 60.0,
        level: int = logging.INFO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._remember = remember
        self._window = window_seconds
        self._level = level
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], list[float]] = OrderedDict()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        # An exception is no repeat: its traceback may be another one.
        if record.levelno < logging.INFO or record.levelno >= logging.CRITICAL or record.exc_info:
            return record.levelno >= self._level
        present: Mapping[str, object] = record.__dict__
        if present.get(_OWN_LIMIT):
            return True
        key = (record.name, record.levelno, record.msg, *(str(present.get(name))[:VALUE_MAX] for name in self.ABOUT))
        now = self._clock()
        seen = self._seen.get(key)
        if seen is not None and now < seen[0] + self._window:
            seen[1] += 1
            if self._level > logging.DEBUG:
                return False
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return True
        if seen is not None and seen[1] and present.get("count") is None:
            record.count = int(seen[1]) + 1
        self._seen[key] = [now, 0]
        self._seen.move_to_end(key)
        if len(self._seen) > self._remember:
            self._seen.popitem(last=False)
        return True


def configure(format: LogFormat, verbosity: int, stream: TextIO = sys.stderr) -> None:  # noqa: A002 - the flag's name
    """Send the log of the whole process to *stream* only. For `cli.py`; a second call replaces the first.

    Verbosity as in Go's klog: 0 to 3 write INFO and above, from 4 on DEBUG.
    """
    level = logging.DEBUG if verbosity >= VERBOSE else logging.INFO
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format is LogFormat.JSON else TextFormatter())
    handler.addFilter(BoundedRepeats(level=level))
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level if verbosity >= LIBRARIES_VERBOSE else logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.raiseExceptions = False  # a full disk or closed pipe must not cause tracebacks on the same stream
