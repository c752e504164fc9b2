"""Log lines: one per event, without secrets and without control characters; their repeats cannot flood the log.

Repeated lines are counted; components that share a limit are limited together.
"""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidentity.telemetry.log_limit import LogLimit
from podidentity.telemetry.logs import (
    FIELDS,
    MESSAGE_MAX,
    VALUE_MAX,
    BoundedRepeats,
    LogFormat,
    configure,
    has_own_limit,
    quoted,
    redact,
    redact_id,
    redacted,
)

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJhdWQiOiJodHRwczovL3ZhdWx0In0.c2lnbmF0dXJl"
LOG = logging.getLogger("nmi.test")
CLIENT_ID = "12345678-1234-1234-1234-1234567890ab"


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


@pytest.mark.parametrize("field", ["settings", "error"])
@pytest.mark.parametrize("format", list(LogFormat))
def test_settings_and_errors_may_be_as_long_as_a_message(format: LogFormat, field: str) -> None:  # noqa: A002
    stream = written(format)
    LOG.info("x", extra={field: "a" * 1000 + "b", "path": "c" * 1000})
    assert "ab" in stream.getvalue()
    LOG.info("x", extra={field: "a" * 100_000})
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
        ("--client-secret=abcDEF~123 -v", "--client-secret=<redacted> -v"),
        ("aadClientSecret: abc", "aadClientSecret: <redacted>"),
        ("client-password=abc", "client-password=<redacted>"),
        ("?clientSecret%3Dhunter2&x", "?clientSecret%3D<redacted>&x"),
        (r'"{\"client_secret\": \"hunter2\", \"x\": 1}"', r'"{\"client_secret\": <redacted>, \"x\": 1}"'),
        (r'"{\"password\":\"a\\\"b c\"}" left', r'"{\"password\":<redacted>}" left'),
        (r'"{\"password\":\"cut', r'"{\"password\":<redacted>'),
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
        r'"{\"client_secrets\": \"x\"}"',
        "client--secret=x",
    ],
)
def test_similar_text_is_not_redacted(text: str) -> None:
    assert redact(text) == text


def test_a_client_id_is_recognisable_and_redacted() -> None:
    assert redacted(CLIENT_ID) == "1234…90ab"
    assert redacted("short") == "…"


def test_a_client_id_in_a_text_is_redacted_in_each_spelling_and_a_short_one_stays() -> None:
    backslashes = r"12\q45678-1234\1"
    assert redact_id(f"no '{CLIENT_ID.upper()}', {CLIENT_ID}", CLIENT_ID) == "no '1234…90ab', 1234…90ab"
    assert redact_id(f"no {backslashes.upper()}", backslashes) == r"no 12\q…34\1"
    assert redact_id("no application", "application") == "no application"


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


def record(message: str = "refused", level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("nmi", level, "", 0, message, (), None)
    made.__dict__.update(fields)
    return made


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def repeats(clock: list[float]) -> BoundedRepeats:
    return BoundedRepeats(remember=3, window_seconds=60, clock=lambda: clock[0])


def test_the_first_line_passes_and_its_repeats_do_not(repeats: BoundedRepeats) -> None:
    assert [repeats.filter(record(pod="a")) for _ in range(3)] == [True, False, False]
    assert repeats.filter(record(pod="b"))
    assert repeats.filter(record("granted", pod="a"))


def test_varying_the_fields_that_an_attacker_controls_has_no_effect(repeats: BoundedRepeats) -> None:
    assert repeats.filter(record(pod="a", path="/1", error="x"))
    assert not repeats.filter(record(pod="a", path="/2", error="y"))


def test_after_the_window_one_line_summarises_the_repeats(repeats: BoundedRepeats, clock: list[float]) -> None:
    for _ in range(5):
        repeats.filter(record())
    clock[0] = 60.0
    summary = record()
    assert repeats.filter(summary)
    assert summary.__dict__["count"] == 5
    clock[0] = 120.0
    alone = record()
    assert repeats.filter(alone)
    assert "count" not in alone.__dict__


def test_memory_is_bounded_to_the_most_recent_lines(repeats: BoundedRepeats) -> None:
    for pod in "abcd":
        assert repeats.filter(record(pod=pod))
    assert repeats.filter(record(pod="a"))
    assert not repeats.filter(record(pod="d"))


def test_repeats_are_debug_lines_if_debug_is_enabled() -> None:
    repeats = BoundedRepeats(level=logging.DEBUG)
    repeats.filter(record())
    again = record()
    assert repeats.filter(again)
    assert (again.levelno, again.levelname) == (logging.DEBUG, "DEBUG")


def test_exceptions_and_debug_lines_are_not_counted(repeats: BoundedRepeats) -> None:
    for _ in range(2):
        failed = record()
        failed.exc_info = (ValueError, ValueError("x"), None)
        assert repeats.filter(failed)
        assert not repeats.filter(record(level=logging.DEBUG))


def test_a_logger_with_a_limit_of_its_own_is_exempt_and_its_neighbour_is_not(repeats: BoundedRepeats) -> None:
    for _ in range(2):
        limited = record()
        assert has_own_limit(limited)
        assert repeats.filter(limited)
    assert [repeats.filter(record()) for _ in range(2)] == [True, False]


def test_one_line_per_period() -> None:
    now = 100.0
    limit = LogLimit(clock=lambda: now)
    assert [limit.allows(), limit.allows()] == [True, False]
    now += 59.9
    assert not limit.allows()
    now += 0.2
    assert [limit.allows(), limit.allows()] == [True, False]


def test_suppressed_lines_do_not_delay_the_next_one() -> None:
    now = 0.0
    limit = LogLimit(clock=lambda: now)
    allowed = []
    while now < 600.0:
        allowed.append(limit.allows())
        now += 1.0
    assert allowed.count(True) == 10


def test_the_first_line_that_is_left_out_is_replaced_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    limit = LogLimit(burst=2.0, per_second=1.0, omission="more than are logged", clock=lambda: now)
    assert [limit.allows() for _ in range(5)] == [True, True, False, False, False]
    assert caplog.messages == ["more than are logged"]
    now += 1.0
    assert limit.allows()
    assert limit.left_out == 3
    assert not limit.allows()
    assert caplog.messages == ["more than are logged"] * 2


def test_one_group_takes_its_share_and_leaves_the_rest_to_others() -> None:
    limit = LogLimit(burst=8.0, per_second=1.0, share=0.25, clock=lambda: 0.0)
    assert [limit.allows("hostile") for _ in range(4)] == [True, True, False, False]
    assert limit.allows("other")
    assert [limit.allows(f"group-{number}") for number in range(6)] == [True] * 5 + [False]
