"""Each alert leads to a page that says what to do, and each page belongs to an alert."""

import re

import pytest

from mic.endpoints import WATCH_GRACE_SECONDS
from mic.startup import flag_table as mic_flags
from nmi import flag_table as nmi_flags
from nmi.identity.assignments import MicAssignments
from nmi.identity.managed_mode import BoundIdentities
from nmi.identity.watches import GRACE_SECONDS
from podidentity.kube.informer import SILENCE_SECONDS
from tests.observability.pack import ROOT, RUNBOOKS, Alert, alerts

PAGES = "https://github.com/aad-pod-identity/aad-pod-identity/blob/main/"
"""Where the repository's files are to be read."""
COMMAND = re.compile(r"kubectl|podidctl|ss |nmi |helm |fuser |curl |iptables|auditctl |conntrack ")
"""What stands in backticks and is to be typed."""
PARTS = ["What it means", "See", "Do", "When it goes away"]
EACH = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)


@EACH
def test_the_alert_leads_to_its_page(alert: Alert) -> None:
    assert alert.annotations["runbook_url"] == f"{PAGES}docs/runbooks/{alert.name}.md"
    page = (RUNBOOKS / f"{alert.name}.md").read_text()
    assert page.startswith(f"# {alert.name}\n")
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == PARTS


def test_no_page_is_left_over() -> None:
    written = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert written == {alert.name for alert in alerts()}


@EACH
def test_the_alert_says_how_bad_it_is_and_what_to_do(alert: Alert) -> None:
    assert alert.labels == {"severity": alert.labels["severity"]}
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert.annotations["description"].endswith(".")


@EACH
def test_the_page_is_short_enough_for_the_night(alert: Alert) -> None:
    assert len((RUNBOOKS / f"{alert.name}.md").read_text().splitlines()) <= 60


def test_the_contents_name_every_page() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert listed == [alert.name for alert in alerts()]


def test_pages_lead_only_to_files_that_are_there() -> None:
    for page in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} leads to {link}"


def test_the_pages_quote_what_the_programs_log() -> None:
    source = " ".join(
        file.read_text() for room in ("nmi", "mic", "podidentity") for file in (ROOT / room).rglob("*.py")
    )
    quoted = {
        sentence
        for page in RUNBOOKS.glob("*.md")
        for sentence in re.findall(r"`([a-z]+(?: [^` ]+){3,})`", page.read_text())
    }
    assert len(quoted) > 5
    assert {sentence for sentence in quoted if sentence not in source and not COMMAND.match(sentence)} == set()


def test_the_flags_that_the_pages_name_exist() -> None:
    flags = {flag.name for flag in (*nmi_flags.FLAGS, *mic_flags.FLAGS)}
    named: set[str] = set()
    for page in RUNBOOKS.glob("*.md"):
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        named |= {
            flag
            for line in re.findall(r"`([^`]+)`", prose)
            if not COMMAND.match(line)
            for flag in re.findall(r"--([\w-]+)", line)
        }
    assert len(named) > 5
    assert named <= flags


def test_in_managed_mode_alone_nmi_watches_bindings() -> None:
    expression = {alert.name: alert.expr for alert in alerts()}["PodIdentityMICLeaderMissing"]
    assert 'unless on () aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}' in expression
    assert "bindings" in BoundIdentities.watched
    assert "bindings" not in MicAssignments.watched


def test_a_watch_is_stale_only_after_the_programs_themselves_have_replaced_it() -> None:
    by_alert = {alert.name: alert.expr for alert in alerts()}
    for name, patience in (
        ("PodIdentityNMIWatchStale", SILENCE_SECONDS + GRACE_SECONDS),
        ("PodIdentityMICWatchStale", SILENCE_SECONDS + WATCH_GRACE_SECONDS),
    ):
        seconds = re.search(r"> (\d+)", by_alert[name])
        assert seconds
        assert patience < float(seconds[1]) < 2 * patience
