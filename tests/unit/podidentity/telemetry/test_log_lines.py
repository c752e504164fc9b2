"""Log lines: one per event, without secrets and without control characters."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.telemetry.logs import FIELDS, MESSAGE_MAX, VALUE_MAX, LogFormat, configure, quoted, redact, redacted

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJhdWQiOiJodHRwczovL3ZhdWx0In0.c2lnbmF0dXJl"
LOG = logging.getLogger("nmi.test")


@pytest.fixture(autouse=True)
def logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    for name in ("nmi", "mic", "podidentity", "podidctl", "_native"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def written(format: LogFormat, *, verbosity: int = 0) -> io.StringIO:  # noqa: A002 - as the flag
    stream = io.StringIO()
    configure(format, verbosity, stream)
    return stream


def test_a_text_line_is_klogs_head_a_message_and_fields() -> None:
    stream = written(LogFormat.TEXT)
    LOG.warning("token refused", extra={"seconds": 0.25, "pod": "ns/a", "status": 403})
    head, _, rest = stream.getvalue().partition("] ")
    assert head.startswith("W")
    assert head.endswith(" nmi.test")
    assert rest == 'token refused pod="ns/a" status=403 seconds=0.25\n'


def test_a_json_line_is_one_object() -> None:
    stream = written(LogFormat.JSON)
    LOG.info('it said "no"', extra={"seconds": 0.25, "pod": "ns/a"})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "nmi.test",
        "message": 'it said "no"',
        "pod": "ns/a",
        "seconds": 0.25,
    }


def test_an_unknown_field_is_not_written() -> None:
    stream = written(LogFormat.JSON)
    LOG.info("x", extra={"access_token": "secret", "pod": "a/b"})
    assert "secret" not in stream.getvalue()
    assert "access_token" not in FIELDS


@pytest.mark.parametrize("format", list(LogFormat))
@given(value=st.text(max_size=400), message=st.text(max_size=50))
def test_no_text_creates_a_second_line(format: LogFormat, value: str, message: str) -> None:  # noqa: A002
    stream = written(format)
    LOG.error("%s", message, extra={"path": value})
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()


@pytest.mark.parametrize("format", list(LogFormat))
def test_values_are_truncated(format: LogFormat) -> None:  # noqa: A002
    stream = written(format)
    LOG.info("x", extra={"path": "a" * 100_000})
    assert len(stream.getvalue()) < VALUE_MAX + 200


@pytest.mark.parametrize("format", list(LogFormat))
def test_the_settings_line_may_be_as_long_as_a_message(format: LogFormat) -> None:  # noqa: A002
    stream = written(format)
    LOG.info("x", extra={"settings": "a" * 1000 + "b", "path": "c" * 1000})
    assert "ab" in stream.getvalue()
    LOG.info("x", extra={"settings": "a" * 100_000})
    assert len(stream.getvalue()) < 2 * (MESSAGE_MAX + VALUE_MAX)


def test_an_exception_is_one_line_with_its_location() -> None:
    stream = written(LogFormat.TEXT)
    try:
        int(f"bad\nthing {JWT}")
    except ValueError:
        LOG.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "error=\"ValueError: invalid literal for int() with base 10: 'bad\\\\nthing <redacted>'\"" in line
    assert 'trace="test_log_lines.py:' in line


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"got {JWT}.", "got <redacted>."),
        (f"cut {JWT[:40]}", "cut <redacted>"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer <redacted>"),
        ("client_secret=hunter2&resource=x", "client_secret=<redacted>&resource=x"),
        ('{"access_token": "abc", "expires_in": 5}', '{"access_token": <redacted>, "expires_in": 5}'),
        (r'{"password": "a\"b c", "x": 1}', '{"password": <redacted>, "x": 1}'),
        ("clientSecret: abc", "clientSecret: <redacted>"),
        ("password = 'x y'", "password = <redacted>"),
    ],
)
def test_credentials_are_redacted(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "eyJ is how tokens begin",
        "the bearer of this",
        "access_token not found",
        "/subscriptions/a/resourceGroups/b",
        "passwords are secret",
    ],
)
def test_similar_text_is_not_redacted(text: str) -> None:
    assert redact(text) == text


def test_a_client_id_is_recognisable_and_redacted() -> None:
    assert redacted("12345678-1234-1234-1234-1234567890ab") == "1234…90ab"
    assert redacted("short") == "…"


def test_numbers_are_unquoted_and_strings_are_quoted() -> None:
    assert [quoted(value) for value in (1, 0.5, True, "a b", 'a"b')] == ["1", "0.5", "True", '"a b"', '"a\\"b"']


@pytest.mark.parametrize(
    ("verbosity", "ours", "libraries"),
    [(0, ["I"], ["W"]), (3, ["I"], ["W"]), (4, ["D", "I"], ["W"]), (8, ["D", "I"], ["D", "W"])],
)
def test_verbosity_determines_what_is_written(verbosity: int, ours: list[str], libraries: list[str]) -> None:
    stream = written(LogFormat.TEXT, verbosity=verbosity)
    LOG.debug("a")
    LOG.info("b")
    assert [line[0] for line in stream.getvalue().splitlines()] == ours
    stream.truncate(0)
    stream.seek(0)
    logging.getLogger("aiohttp.test").debug("c")
    logging.getLogger("aiohttp.test").warning("d")
    assert [line[0] for line in stream.getvalue().splitlines()] == libraries


def test_configuring_again_replaces_the_first() -> None:
    first, second = written(LogFormat.TEXT), written(LogFormat.TEXT)
    LOG.info("x")
    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)
