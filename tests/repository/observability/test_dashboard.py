"""The panels of the dashboard: their places, descriptions, data source, variables and queries."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository.observability.pack import dashboard, panels, promtool, queries

OF_GRAFANA = {"__rate_interval"}
LED = 'aadpodidentity_mic_lease_held{instance="a:8888"}'


def test_panels_have_unique_numbers_and_titles_and_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in everything)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_used_variable_exists() -> None:
    there = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard()["panels"])))
    assert used - OF_GRAFANA == there == {"datasource", "node", "namespace"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_a_description_and_uses_the_selected_data_source(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert {target["interval"] for target in panel["targets"]} == {"1m"}, "two samples at a scrape interval of a minute"


def test_values_of_a_former_leader_are_not_shown() -> None:
    of_the_leader = {
        "aadpodidentity_mic_oldest_pending_assignment_age_seconds",
        "aadpodidentity_mic_quarantined_identities",
    }
    expressions = [expr for _, _, expr in queries() if re.search("|".join(of_the_leader), expr)]
    assert len(expressions) == 4
    for expr in expressions:
        assert "and on (job, instance) (aadpodidentity_mic_lease_held == 1)" in expr


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
