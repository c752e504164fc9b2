"""One line per decision, repeats summed up, nothing that a pod can flood. Excluded: how lines are formatted."""

import logging
from collections.abc import Callable, Iterable, Iterator
from logging.handlers import BufferingHandler

import pytest

from _native.ready_responses import Usage
from nmi.error_refusals import refusal_of
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import (
    LINES_PER_PERIOD,
    LINES_PER_SUBJECT,
    REMEMBERED_MAX,
    SHOWN_CHARS,
    SUBJECT_SHARE,
    Decisions,
    Subject,
)
from nmi.server.request import Call
from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.secrets import CredentialError
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.telemetry.logs import BoundedRepeats
from tests.support.nmi.server.fakes import pod_entry

CALL = Call("10.0.0.7", "our-id", "their-id")
ENTRY = pod_entry()
POD = Subject(CALL, ENTRY)
ASKED = TokenRequest("https://vault.azure.net")
REFUSAL = Refusal(Reason.STILL_ASSIGNING, "Not yet.", "see MIC's log")


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The lines of the decision log, with NMI's filter, which must not suppress lines about changes."""
    handler, log = BufferingHandler(10**6), logging.getLogger("nmi.server.decisions")
    handler.addFilter(BoundedRepeats())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler.buffer
    log.removeHandler(handler)
    log.setLevel(level)


def field(record: logging.LogRecord, name: str) -> object:
    return record.__dict__[name]


def test_a_grant_is_logged_once_and_its_repeats_are_summed_up(lines: list[logging.LogRecord]) -> None:
    decisions, usage = Decisions(), Usage()
    for _ in range(3):
        decisions.granted(POD, ASKED, "shop/id", usage)
        usage.touch()
    assert [record.getMessage() for record in lines] == ["token granted; repeats are summarized once a minute"]
    usage.touch()
    usage.touch()
    decisions.summarize()
    assert len(lines) == 2
    assert [field(lines[1], name) for name in ("pod", "identity", "count")] == ["shop/cart", "shop/id", 5]
    decisions.summarize()
    assert len(lines) == 2, "nothing new, nothing told"


def test_a_pod_that_is_created_again_under_its_name_has_a_line_of_its_own(lines: list[logging.LogRecord]) -> None:
    reported: list[str] = []

    def report(entry: PodEntry, _: Refusal) -> bool:
        reported.append(entry.uid)
        return True

    decisions = Decisions(report=report)
    for uid in ("u1", "u1", "u2"):
        decisions.refused(Subject(CALL, pod_entry(uid=uid)), "/token", 403, REFUSAL, ASKED)
    assert [field(line, "uid") for line in lines] == ["u1", "u2"]
    assert reported == ["u1", "u2"]


def test_another_cause_with_the_same_reason_has_a_line_and_a_report_of_its_own(lines: list[logging.LogRecord]) -> None:
    reported: list[str] = []

    def report(_: PodEntry, refusal: Refusal) -> bool:
        reported.append(refusal.sentence)
        return True

    decisions = Decisions(report=report)
    missing = CredentialError("Secret shop/web is missing", code="secret_missing")
    unfit = CredentialError("Secret shop/web has no key clientsecret", code="secret_unfit")
    for error in (missing, missing, unfit, unfit, missing):
        decisions.refused(POD, "/token", 403, refusal_of(error), ASKED)
    assert [str(field(line, "error")).split()[2] for line in lines] == ["is", "has", "is"]
    assert len(reported) == 3


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        (
            [
                NotBoundError(Refused("no", status=403), step, "client", "shop/web")
                for step in (MissingStep.IDENTITY_BINDING, *[MissingStep.PERMISSION] * 2)
            ],
            2,
        ),
        (
            [
                Refused(f"trace {n}", code="AADSTS7000215", correlation_id=f"id-{n}", sentence=f"no {n}")
                for n in range(3)
            ],
            1,
        ),
        ([Unreachable(f"timeout {n}", code=f"code{n}") for n in range(3)], 1),
        ([AzureError("broken", status=500), Unreachable("timeout"), AzureError("unavailable", status=503)], 3),
    ],
    ids=["steps that the token proxy misses", "other ids", "other timeouts", "failures of other kinds"],
)
def test_each_cause_has_a_line_and_what_differs_between_its_repeats_is_no_other_cause(
    lines: list[logging.LogRecord], errors: Iterable[AzureError], count: int
) -> None:
    decisions = Decisions()
    for error in errors:
        decisions.refused(POD, "/token", 403, refusal_of(error), ASKED)
    assert len(lines) == count


def test_a_pod_cannot_make_news_by_alternating_defects(lines: list[logging.LogRecord]) -> None:
    decisions = Decisions()
    for n in range(6):
        defect = Refusal(Reason.BAD_PARAMETERS, f"Parameter {n % 2} is twice in the query.")
        decisions.refused(POD, "/token", 400, defect, None)
    assert len(lines) == 1


def test_shared_tokens_are_logged_as_shared_and_requests_served_with_a_renewed_token_are_counted(
    lines: list[logging.LogRecord],
) -> None:
    decisions, shared, renewed = Decisions(), Usage(), Usage()
    decisions.granted(POD, ASKED, "shop/id", shared)
    decisions.granted(Subject(Call("10.0.0.8", "other"), pod_entry(name="till")), ASKED, "shop/id", shared)
    shared.touch()
    decisions.summarize()
    assert (field(lines[-1], "pod"), field(lines[-1], "count")) == ("shop/cart and 1 more", 1)
    shared.touch()
    decisions.granted(POD, ASKED, "shop/id", renewed)
    renewed.touch()
    decisions.summarize()

    assert sum(int(str(field(record, "count"))) for record in lines[3:]) == 2


def test_a_changed_decision_is_logged_also_if_it_returns_within_a_minute(lines: list[logging.LogRecord]) -> None:
    decisions = Decisions()
    for _ in range(2):
        decisions.refused(POD, "/p", 404, REFUSAL, ASKED)
        decisions.granted(POD, ASKED, "shop/id", Usage())
        decisions.granted(POD, ASKED, "shop/other", Usage())
        decisions.granted(POD, TokenRequest("r", SelectorKind.CLIENT_ID, "x"), "shop/other", Usage())
    # The last one is a request of its own, whose decision has not changed.
    assert [field(line, "outcome") for line in lines] == ["refused", *["granted"] * 3, "refused", *["granted"] * 2]
    assert (field(lines[0], "error"), field(lines[0], "reason")) == ("see MIC's log", "still_assigning")


def test_one_pod_has_a_limited_number_of_lines_in_a_period_and_the_others_are_counted(
    lines: list[logging.LogRecord],
) -> None:
    decisions = Decisions()
    for n in range(LINES_PER_SUBJECT + 7):
        decisions.refused(POD, "/p", 404, REFUSAL, TokenRequest(f"r{n}"))
    assert len(lines) == LINES_PER_SUBJECT
    decisions.refused(Subject(Call("10.0.0.8", "other")), "/p", 404, REFUSAL, ASKED)
    assert len(lines) == LINES_PER_SUBJECT + 1, "another pod still has its lines"
    decisions.summarize()
    assert field(lines[-1], "count") == 7
    decisions.refused(POD, "/p", 404, REFUSAL, TokenRequest("new"))
    assert field(lines[-1], "reason") == "still_assigning", "a new period"


@pytest.mark.parametrize(
    ("subject", "most"),
    [
        (lambda n: Subject(Call(f"peer-{n}", "other")), LINES_PER_PERIOD),
        (lambda n: Subject(Call("127.0.0.1", "id"), pod=f"made/up-{n}"), LINES_PER_SUBJECT),
    ],
    ids=["in total", "names that a node process invents"],
)
def test_the_log_is_bounded(lines: list[logging.LogRecord], subject: Callable[[int], Subject], most: int) -> None:
    decisions = Decisions()
    for n in range(most + 50):
        decisions.refused(subject(n), "/p", 404, REFUSAL, TokenRequest(f"r{n}"))
    assert len(lines) == most
    assert field(lines[0], "pod") == subject(0).pod


def test_the_memory_of_decisions_is_bounded() -> None:
    decisions = Decisions()
    for n in range(REMEMBERED_MAX + 100):
        decisions.refused(POD, "/p", 404, REFUSAL, TokenRequest(f"r{n}"))

    assert decisions.state()["remembered"] == REMEMBERED_MAX


def test_many_decisions_of_one_pod_replace_none_of_others_and_are_counted(lines: list[logging.LogRecord]) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(Subject(CALL, pod_entry(name="victim")), ASKED, "shop/id", usage)
    few = [TokenRequest(f"few{n}") for n in range(SUBJECT_SHARE)]
    for request in few:
        decisions.refused(Subject(CALL, pod_entry(name="other")), "/p", 404, REFUSAL, request)
    for n in range(2 * REMEMBERED_MAX):
        decisions.refused(POD, "/p", 404, REFUSAL, TokenRequest(f"r{n}")).touch()
    del lines[:]
    usage.touch()
    decisions.granted(Subject(CALL, pod_entry(name="victim")), ASKED, "shop/id", usage)
    for request in few:
        decisions.refused(Subject(CALL, pod_entry(name="other")), "/p", 404, REFUSAL, request)
    assert lines == [], "they are repeats"
    decisions.refused(Subject(CALL, pod_entry(name="third")), "/p", 404, REFUSAL, ASKED)
    assert decisions.state()["remembered"] == REMEMBERED_MAX
    decisions.summarize()
    counts = {field(line, "pod"): field(line, "count") for line in lines[1:-1]}
    assert counts == {"shop/victim": 1, "shop/other": SUBJECT_SHARE, "shop/cart": LINES_PER_SUBJECT}
    assert field(lines[-1], "count") == 2 * (2 * REMEMBERED_MAX - LINES_PER_SUBJECT)


def test_pods_that_are_gone_make_no_repeat_new_and_a_pod_cannot_hide_its_grant(lines: list[logging.LogRecord]) -> None:
    decisions, usage, live = Decisions(), Usage(), Subject(CALL, pod_entry(name="live"))
    for n in range(REMEMBERED_MAX + 1):
        decisions.granted(Subject(CALL, pod_entry(name=f"job-{n}")), ASKED, "shop/id", Usage())
    decisions.summarize()
    decisions.granted(live, ASKED, "shop/id", usage)
    decisions.refused(live, "/p", 404, REFUSAL, TokenRequest("r"))
    decisions.granted(POD, ASKED, "shop/id", usage)
    for n in range(2 * REMEMBERED_MAX):
        decisions.refused(POD, "/p", 404, REFUSAL, TokenRequest(f"r{n}"))
    del lines[:]
    usage.touch()
    for subject in (live, POD):
        decisions.granted(subject, ASKED, "shop/id", usage)
    decisions.refused(live, "/p", 404, REFUSAL, TokenRequest("r"))
    assert lines == []
    decisions.summarize()
    assert [field(line, "pod") for line in lines if vars(line).get("outcome") == "granted"] == ["shop/cart and 1 more"]


def test_a_long_resource_is_truncated(lines: list[logging.LogRecord]) -> None:
    Decisions().refused(POD, "/p", 404, REFUSAL, TokenRequest("x" * 500))

    shown = field(lines[0], "resource")
    assert shown == "x" * SHOWN_CHARS


def test_an_internal_error_is_logged_with_its_traceback_once(lines: list[logging.LogRecord]) -> None:
    decisions = Decisions()
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            dict[str, int]()["x"]
        decisions.failed(POD, caught.value)

    assert len(lines) == 1
    assert lines[0].exc_info


def test_repeats_of_a_refusal_without_a_line_are_counted_as_omitted_and_logged_later(
    lines: list[logging.LogRecord],
) -> None:
    decisions = Decisions()
    for number in range(LINES_PER_SUBJECT):
        decisions.refused(POD, f"/{number}", 404, REFUSAL, None)
    usage = decisions.refused(POD, "/late", 404, REFUSAL, None)
    usage.touch()
    usage.touch()
    decisions.summarize()
    assert lines[-1].getMessage().startswith("decisions omitted")
    assert field(lines[-1], "count") == 3
    usage.touch()
    assert decisions.refused(POD, "/late", 404, REFUSAL, None) is not usage
    assert lines[-1].getMessage().startswith("request refused")
    decisions.summarize()
    assert field(lines[-1], "count") == 1


def test_a_client_that_disconnects_before_its_response_is_logged_once_with_what_it_waited_for(
    lines: list[logging.LogRecord],
) -> None:
    decisions = Decisions(report=lambda *_: pytest.fail("no Event"))
    for seconds in (4.96, 5.2, 5.4):
        decisions.unanswered(POD, ASKED, REFUSAL, seconds)
    (line,) = lines
    assert line.getMessage().startswith("client disconnected before the response")
    names = ("pod", "uid", "outcome", "reason", "seconds", "error", "resource")
    assert [field(line, name) for name in names] == [
        *("shop/cart", "uid-cart", "unanswered", "still_assigning", 5.0, "see MIC's log", ASKED.resource),
    ]
    decisions.summarize()
    summary = ("pod", "outcome", "reason", "count")
    assert [field(lines[1], name) for name in summary] == ["shop/cart", "unanswered", "still_assigning", 2]


def test_one_client_that_waits_and_one_that_disconnects_have_one_line_each(lines: list[logging.LogRecord]) -> None:
    reported: list[str] = []

    def report(entry: PodEntry, _: Refusal) -> bool:
        reported.append(entry.key)
        return True

    decisions = Decisions(report=report)
    for _ in range(LINES_PER_SUBJECT):
        decisions.unanswered(POD, ASKED, REFUSAL, 5.0)
        decisions.refused(POD, "/token", 404, REFUSAL, ASKED)
    decisions.granted(POD, ASKED, "shop/id", Usage())
    assert [field(line, "outcome") for line in lines] == ["unanswered", "refused", "granted"]
    assert reported == ["shop/cart"]


def test_the_tokens_of_a_grant_are_counted_after_a_client_has_disconnected(lines: list[logging.LogRecord]) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(POD, ASKED, "shop/id", usage)
    decisions.unanswered(POD, ASKED, REFUSAL, 5.0)
    usage.touch()  # by the fast lane
    decisions.summarize()
    assert [field(lines[-1], name) for name in ("outcome", "identity", "count")] == ["granted", "shop/id", 1]


def test_the_tokens_of_a_grant_are_counted_after_a_refused_refresh(lines: list[logging.LogRecord]) -> None:
    # The fast lane serves the cached token to other clients of the pod before and after this refusal.
    decisions, usage, refresh = Decisions(), Usage(), TokenRequest(ASKED.resource, force_refresh=True)
    decisions.granted(POD, ASKED, "shop/id", usage)
    for _ in range(2):
        usage.touch()
        decisions.refused(POD, "/token", 502, REFUSAL, refresh)
        usage.touch()
        decisions.summarize()
    assert [field(line, "count") for line in lines[2:] if field(line, "outcome") == "granted"] == [2, 2]


def test_the_tokens_for_each_client_capability_are_counted(lines: list[logging.LogRecord]) -> None:
    # The fast lane serves one ready response for each, in any order.
    decisions, usages = Decisions(), {capability: Usage() for capability in ("", "CP1")}
    for capability, usage in usages.items():
        decisions.granted(POD, TokenRequest(ASKED.resource, xms_cc=capability), "shop/id", usage)
    usages[""].touch()
    usages["CP1"].touch()
    decisions.summarize()
    assert field(lines[-1], "count") == 2


@pytest.mark.parametrize("refused", [False, True])
def test_repeats_before_a_change_are_counted(lines: list[logging.LogRecord], *, refused: bool) -> None:
    decisions, usage = Decisions(), Usage()
    decisions.granted(POD, ASKED, "shop/id", usage)
    usage.touch()
    if refused:
        for _ in range(3):
            decisions.refused(POD, "/token", 502, REFUSAL, ASKED)
    decisions.granted(POD, ASKED, "shop/other", Usage())
    decisions.summarize()
    summaries = [line for line in lines if line.getMessage().startswith("decisions repeated")]
    counts = {(field(line, "outcome"), field(line, "identity")): field(line, "count") for line in summaries}
    assert counts == {("granted", "shop/id"): 1} | ({("refused", ""): 2} if refused else {})


def test_a_grant_with_a_refusal_between_is_counted_once_and_for_all_its_pods(lines: list[logging.LogRecord]) -> None:
    decisions, usage = Decisions(), Usage()
    for subject in (POD, Subject(CALL, pod_entry(name="other"))):
        decisions.granted(subject, ASKED, "shop/id", usage)
    decisions.refused(POD, "/token", 502, REFUSAL, ASKED)
    decisions.granted(POD, ASKED, "shop/id", usage)
    usage.touch()
    decisions.summarize()
    assert [field(lines[-1], name) for name in ("pod", "count")] == ["shop/other and 1 more", 1]
    assert sum(line.getMessage().startswith("decisions repeated") for line in lines) == 1


def test_clients_that_disconnect_cannot_flood_the_log(lines: list[logging.LogRecord]) -> None:
    decisions = Decisions()
    for number in range(1000):
        decisions.unanswered(POD, TokenRequest(f"https://{number}.example"), REFUSAL, 5.0)
    assert len(lines) == LINES_PER_SUBJECT
