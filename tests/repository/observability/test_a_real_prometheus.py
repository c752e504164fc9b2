"""Every query of the panels and the alerts, on a real Prometheus that scrapes the real NMI and MIC."""

import asyncio
import re

import pytest

from tests.repository.observability.pack import RUNBOOKS, Alert, alerts, dashboard, expectations, queries, selectors
from tests.repository.observability.scraped import FAULTS, GONE, Seen, look

# The first of these tests waits for all results.
pytestmark = pytest.mark.timeout(120)

MAY_BE_EMPTY = {
    "Limits": "no limit is reached here, and only reached limits are shown",
}
"""Panels without data if there is no fault, with the reason. All others must have data."""

MAY_BE_MISSING = {
    'aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}': "NMI has it in managed mode alone",
}
"""Selectors of alerts without a series if there is no fault, with the reason."""

OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus creates itself."""

WANTED = {(panel, letter) for panel, letter, _ in queries() if panel not in MAY_BE_EMPTY}
MOVING = (
    "Requests by status",
    "Requests by namespace",
    "Latency",
    "Refusals",
    "Fast-lane share",
    "Calls",
    "Addresses known",
    "Reconcile passes",
    "Calls to Resource Manager",
    "Writes of AzureAssignedIdentities",
    "Memory",
    "CPU",
)
"""Panels whose first query is above zero after requests of pods."""


def enough(seen: Seen) -> bool:
    """Return whether all expected results are present."""
    return all(seen.panels[key] for key in WANTED) and all(max(seen.panels[panel, "A"]) > 0 for panel in MOVING)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Results that all tests of this module share."""
    return asyncio.run(look(tmp_path_factory.mktemp("prometheus"), enough))


def named(expression: str) -> set[str]:
    """Return the metrics of an expression: names of this project, and series that Prometheus creates."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:aadpodidentity|process)_\w+", bare)) | {
        word for word in OF_PROMETHEUS if re.search(rf"\b{word}\b", bare)
    }


def test_every_panel_that_must_have_data_has_some(seen: Seen) -> None:
    assert sorted(key for key in WANTED if not seen.panels[key]) == []


def test_panels_show_requests_of_pods_and_plausible_values(seen: Seen) -> None:
    assert [panel for panel in MOVING if max(seen.panels[panel, "A"]) <= 0] == []
    assert 0 < max(seen.panels["Fast-lane share", "A"]) < 1
    assert max(seen.panels["MIC leads", "A"]) == 1
    assert max(seen.panels["Nodes without redirect", "A"]) == 0


def test_every_metric_that_a_panel_or_an_alert_names_exists(seen: Seen) -> None:
    expressions = [expr for _, _, expr in queries()] + [alert.expr for alert in alerts()]
    expressions += [
        variable["definition"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"
    ]
    for expression in expressions:
        assert named(expression), expression
        assert named(expression) - OF_PROMETHEUS <= seen.metrics, expression


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_the_series_of_an_alert_exist_without_a_fault_and_it_neither_fires_nor_fails(seen: Seen, alert: Alert) -> None:
    assert [each for each in selectors(alert) if not seen.selected[each] and each not in MAY_BE_MISSING] == []
    assert seen.expressions[alert.name] == []
    rule = seen.rules[alert.name]
    assert (rule["health"], rule["state"], rule.get("lastError", "")) == ("ok", "inactive", "")


def test_the_output_of_the_runbooks_commands_contains_the_parts_that_they_search(seen: Seen) -> None:
    begin = (
        r"\[\+\]active ok\n\[\+\]api server ok\n\[\+\]watches ok\n\[\+\]redirect ok \(none to loopback: .+\)\nready\n"
    )
    assert re.match(begin, seen.pages["nmi"])
    assert seen.pages["mic"].startswith("[+]api server ok\n[+]watches ok\n[+]azure ok\nready\n")
    assert seen.pages["mic"].endswith("\nit\n"), "the MIC that leads is not found"
    looked = {
        (program, word)
        for page in RUNBOOKS.glob("*.md")
        for program, name in (("nmi", r"\$NMI"), ("mic", r"\$POD 8080"))
        for word in re.findall(rf"state {name} \| grep .*'(\"\w+\")", page.read_text())
    }
    assert len(looked) > 5
    assert {(program, word) for program, word in looked if word not in seen.pages[program]} == set()


def test_the_runbooks_name_no_metric_that_does_not_exist(seen: Seen) -> None:
    text = " ".join(page.read_text() for page in RUNBOOKS.glob("*.md"))
    named = set(re.findall(r"\baadpodidentity_\w+", text))
    assert named
    assert named <= seen.metrics


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_texts_are_rendered_for_targets_without_a_node(seen: Seen, alert: Alert) -> None:
    filled = seen.texts[alert.name]
    assert filled.keys() == alert.annotations.keys()
    for text in filled.values():
        assert "{{" not in text
        assert "<error" not in text
        assert "<no value>" not in text
    if "$labels.instance" in alert.annotations["summary"]:
        assert max(expectations(alert), key=len)[0]["instance"] in filled["summary"]


def test_alerts_fire_after_their_faults_and_after_the_programs_were_stopped(seen: Seen) -> None:
    assert {name for name, fired in seen.noticed.items() if fired} == set().union(*FAULTS.values())
    assert seen.pending >= GONE


def test_the_panels_that_the_runbooks_name_exist() -> None:
    titles = {panel for panel, _, _ in queries()}
    text = " ".join(page.read_text() for page in RUNBOOKS.glob("*.md"))
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text))
    assert len(named) > 5
    assert {" ".join(title.split()) for title in named} <= titles
