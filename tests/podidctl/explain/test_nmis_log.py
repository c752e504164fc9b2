"""The last token and the last refusals, read from lines that NMI's code has written, in both log formats."""

import io
import logging
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console
from typing_extensions import override

from _native.answers import Usage
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.call import Call
from nmi.server.decisions import Decisions, Subject
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.nmi_log import DECISIONS_MAX, LoggedDecision, parse_decisions
from podidctl.explain.explanation import DECISIONS_SHOWN
from podidctl.explain.show import show
from podidentity.telemetry.logs import JsonFormatter, TextFormatter
from tests.nmi.server.fakes import pod_entry
from tests.podidctl.prediction_inputs import explain_pod

ENTRY = pod_entry()
POD = Subject(Call("10.0.0.7", "our-id", "their-id"), ENTRY)
VAULT = TokenRequest("https://vault.azure.net")
REFUSAL = Refusal(Reason.STILL_ASSIGNING, "Not yet.", "see MIC's log")

DEEP_JSON = '{"logger": ' + "[" * 100_000
DEEP_TEXT = "I1124 17:00:00.000000 nmi.server.decisions] token granted pod=" + "[" * 100_000

Written = Callable[[], str]


class Pages(logging.Handler):
    """Keeps lines as they are written."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(form)
        self.lines: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=[TextFormatter, JsonFormatter], ids=["text", "json"])
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """Return the current content of NMI's decision log, after a line of another part of NMI."""
    pages, log = Pages(request.param()), logging.getLogger("nmi")
    level = log.level
    log.addHandler(pages)
    log.setLevel(logging.INFO)
    logging.getLogger("nmi.app").info("nmi active", extra={"pod": ENTRY.key, "uid": ENTRY.uid})
    yield lambda: "\n".join(pages.lines)
    log.removeHandler(pages)
    log.setLevel(level)


def about(log: str) -> tuple[LoggedDecision, ...]:
    return parse_decisions(log, ENTRY.key, ENTRY.uid)


def test_the_last_token_is_printed_with_its_repeats(written: Written) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(POD, VAULT, "shop/id", usage)
    usage.touch()
    decisions.summarize()
    (one,) = about(written())
    assert (one.outcome, one.identity, one.resource) == ("granted", "shop/id", "https://vault.azure.net")
    assert one.repeats == 1
    assert one.status is None


def test_a_refusal_is_printed_with_its_reason_before_earlier_decisions(written: Written) -> None:
    decisions = Decisions()
    decisions.granted(POD, VAULT, "shop/id", Usage())
    decisions.refused(POD, "/metadata/identity/oauth2/token", 404, REFUSAL, VAULT)
    last, first = about(written())
    assert (last.outcome, last.status, last.error) == ("still_assigning", 404, "see MIC's log")
    assert first.outcome == "granted"


def test_lines_of_other_pods_and_earlier_namesakes_are_left_out(written: Written) -> None:
    decisions = Decisions()
    decisions.granted(Subject(POD.call, pod_entry(name="till")), VAULT, "shop/id", Usage())
    decisions.granted(POD, VAULT, "shop/id", Usage())
    assert parse_decisions(written(), ENTRY.key, "a later one's") == ()


def test_repeats_of_a_decision_older_than_the_read_log_count(written: Written) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(POD, VAULT, "shop/id", usage)
    usage.touch()
    decisions.summarize()
    (one,) = about(written().splitlines()[-1])
    assert (one.outcome, one.identity, one.repeats) == ("granted", "shop/id", 1)


def test_only_the_latest_decisions_are_printed(written: Written) -> None:
    decisions = Decisions()
    for number in range(DECISIONS_MAX + 2):
        decisions.granted(POD, TokenRequest(f"https://{number}.example"), "shop/id", Usage())
    read = about(written())
    assert [each.resource for each in read] == [f"https://{each}.example" for each in range(DECISIONS_MAX + 1, 1, -1)]
    printed = explain_pod(decisions=read).decided
    assert [each.resource for each in printed] == [each.resource for each in read[:DECISIONS_SHOWN]]


def test_a_pod_cannot_inject_fields(written: Written) -> None:
    forged = TokenRequest('r" outcome="granted" identity="shop/admin\nI0101 00:00:00.000000 nmi.server.decisions] x')
    Decisions().refused(POD, "/p", 404, REFUSAL, forged)
    (one,) = about(written())
    assert (one.outcome, one.identity) == ("still_assigning", "")
    assert one.resource.startswith('r" outcome="granted"')


@pytest.mark.parametrize(
    "line",
    ["{", '{"logger": 1}', "[]", "I1124 17:00:00.000000 nmi.server.decisions]", "", "\x00", DEEP_JSON, DEEP_TEXT],
    ids=["cut", "number", "list", "head", "empty", "zero", "deep-json", "deep-text"],
)
def test_malformed_lines_are_skipped(line: str) -> None:
    assert about(line) == ()


def test_decisions_are_printed_as_a_table_and_a_failed_read_as_a_line() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    one = LoggedDecision(at="11-24 17:00:00", outcome="granted", identity="shop/id", resource="\x1b[31mred", repeats=7)
    show(explain_pod(decisions=(one,)), console)
    show(explain_pod(decisions=ReadFailure("not allowed: pods/log")), console)
    text = console.export_text()
    assert "NMI's log, UTC" in text
    assert "11-24 17:00:00" in text
    assert "\x1b" not in text
    assert "NMI's log could not be read: not allowed: pods/log" in text
