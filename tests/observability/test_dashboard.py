"""The dashboard's file equals the output of its generator, and all its references exist."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.pack import FILES, dashboard, panels, promtool, queries
from tools.dashboard import text

OF_GRAFANA = {"__rate_interval"}


def test_the_file_equals_the_output_of_its_generator() -> None:
    made = (FILES / "dashboard.json").read_text()
    assert made == text(), "write it again: python -m tools.dashboard"


def test_panels_have_unique_numbers_and_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)


def test_every_used_variable_exists() -> None:
    there = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard()["panels"])))
    assert used - OF_GRAFANA == there == {"datasource", "node", "namespace"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_description_and_uses_the_selected_data_source(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for asking in (panel, *panel["targets"]):
        assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_a_rate_interval_contains_two_samples_at_a_scrape_interval_of_a_minute() -> None:
    assert {target["interval"] for panel in panels() for target in panel["targets"]} == {"1m"}


def test_values_of_a_former_leader_are_not_shown() -> None:
    of_the_leader = {
        "aadpodidentity_mic_oldest_pending_assignment_age_seconds",
        "aadpodidentity_mic_quarantined_identities",
    }
    asked = [expr for _, _, expr in queries() if re.search("|".join(of_the_leader), expr)]
    assert len(asked) == 4
    for expr in asked:
        assert "and on (job, instance) (aadpodidentity_mic_lease_held == 1)" in expr


LED = 'aadpodidentity_mic_lease_held{instance="a:8888"}'


@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ({LED: 1, LED.replace("a:", "b:"): 0}, 1.0),
        ({LED: 0}, 0.0),
        ({}, 0.0),
        ({'aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}': 2}, None),
    ],
    ids=["one-leads", "none-leads", "no-mic", "managed-mode"],
)
def test_the_leader_panel_is_red_without_a_leader_but_not_in_managed_mode(
    tmp_path: Path, series: dict[str, int], shown: float | None
) -> None:
    (expr,) = [expr for title, _, expr in queries() if title == "MIC leads"]
    samples = [] if shown is None else [{"labels": "{}", "value": shown}]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x3"} for name, value in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": "2m", "exp_samples": samples}],
    }
    (tmp_path / "leads.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    promtool("test", "rules", str(tmp_path / "leads.yaml"))


def test_titles_are_unique() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"]]
    assert len(set(titles)) == len(titles)
