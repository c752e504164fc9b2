"""Each alert has a runbook, and each runbook has an alert."""

import re

import pytest

from mic.endpoints import WATCH_GRACE_SECONDS
from nmi.identity.assignments import MicAssignments
from nmi.identity.managed_mode import BoundIdentities
from nmi.identity.watches import GRACE_SECONDS
from podidentity.kube.informer import SILENCE_SECONDS
from podidentity.settings import flags_of
from tests.repository.observability.pack import RUNBOOKS, Alert, alerts
from tests.support.checkout import ROOT
from tools.handbook.flags import PROGRAMS

COMMAND = re.compile(r"kubectl|podidctl|ss |nmi |helm |fuser |curl |iptables|nft |auditctl |conntrack ")
"""Commands in backticks."""
PARTS = ["Meaning", "Diagnosis", "Actions", "End of the alert"]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_has_a_severity_and_texts_and_names_its_runbook(alert: Alert) -> None:
    assert alert.labels == {"severity": alert.labels["severity"]}
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert.annotations["description"].endswith(".")
    assert alert.annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"
    page = (RUNBOOKS / f"{alert.name}.md").read_text()
    assert page.startswith(f"# {alert.name}\n")
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == PARTS


def test_the_contents_name_every_runbook_and_each_has_an_alert() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert listed == [alert.name for alert in alerts()]
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {"README", *listed}


def test_quoted_messages_are_in_the_source() -> None:
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


def test_named_flags_exist() -> None:
    flags = {flag.flag for program in PROGRAMS.values() for flag in flags_of(program)}
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


def test_nmi_watches_bindings_in_managed_mode_only() -> None:
    expression = {alert.name: alert.expr for alert in alerts()}["PodIdentityMICLeaderMissing"]
    assert 'unless on () aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}' in expression
    assert "bindings" in BoundIdentities.watched
    assert "bindings" not in MicAssignments.watched


def test_an_alert_of_a_stale_watch_waits_until_the_program_has_restarted_the_watch() -> None:
    by_alert = {alert.name: alert.expr for alert in alerts()}
    for name, patience in (
        ("PodIdentityNMIWatchStale", SILENCE_SECONDS + GRACE_SECONDS),
        ("PodIdentityMICWatchStale", SILENCE_SECONDS + WATCH_GRACE_SECONDS),
    ):
        seconds = re.search(r"> (\d+)", by_alert[name])
        assert seconds
        assert patience < float(seconds[1]) < 2 * patience
