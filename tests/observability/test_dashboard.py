"""The dashboard's file is what its source makes, and Grafana finds in it all that it refers to."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from tests.observability.pack import FILES, dashboard, panels
from tools.dashboard import text

OF_GRAFANA = {"__rate_interval"}


def test_the_file_is_what_its_source_makes() -> None:
    made = (FILES / "dashboard.json").read_text()
    assert made == text(), "write it anew: python -m tools.dashboard"


def test_each_panel_has_a_number_and_a_place_of_its_own() -> None:
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


def test_every_variable_that_is_used_is_there() -> None:
    there = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard()["panels"])))
    assert used - OF_GRAFANA == there == {"datasource", "node", "namespace"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_chosen_data_source(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for asking in (panel, *panel["targets"]):
        assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_titles_are_not_used_twice() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"]]
    assert len(set(titles)) == len(titles)
