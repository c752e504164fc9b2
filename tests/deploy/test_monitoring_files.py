"""Alert rules and dashboard come from files of the chart; where a file is missing there is nothing of it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tools.chart.rendering import CHART, HELMS, Object, render

DASHBOARD = {"title": 'It\'s {{ .Values }} | "quoted"', "panels": [{"id": 1}], "uid": "a" * 200}
RULES = {"groups": [{"name": "nmi", "rules": [{"alert": "Silent", "expr": "up == 0", "for": "5m"}]}]}
OPTIONS = [
    "--set=prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
    "--set=grafanaDashboard.enabled=true,grafanaDashboard.namespace=grafana,grafanaDashboard.annotations.folder=ours",
]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart of the same templates, with neither file."""
    copied = tmp_path / "aad-pod-identity"
    shutil.copytree(CHART, copied, ignore=shutil.ignore_patterns("alerts.yaml", "dashboard.json"))
    return copied


def monitoring(objects: list[Object]) -> dict[str, Object]:
    wanted = ("PrometheusRule", "dashboard")
    return {
        each["kind"]: each for each in objects if each["kind"] in wanted or each["metadata"]["name"].endswith(wanted)
    }


@pytest.mark.parametrize("helm", HELMS)
def test_the_files_arrive_as_they_are(chart: Path, helm: str) -> None:
    (chart / "files" / "dashboard.json").write_text(json.dumps(DASHBOARD, indent=2))
    (chart / "files" / "alerts.yaml").write_text(yaml.safe_dump(RULES))
    found = monitoring(render(chart=chart, helm=helm, options=OPTIONS))
    dashboard, rules = found["ConfigMap"], found["PrometheusRule"]
    assert json.loads(dashboard["data"]["aad-pod-identity.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["namespace"] == "grafana"
    assert dashboard["metadata"]["annotations"] == {"folder": "ours"}
    assert rules["spec"] == RULES
    assert rules["metadata"]["labels"]["release"] == "prometheus"


def test_without_the_files_there_is_nothing_of_them(chart: Path) -> None:
    assert monitoring(render(chart=chart, options=OPTIONS)) == {}


def test_they_are_not_installed_unasked(chart: Path) -> None:
    (chart / "files" / "dashboard.json").write_text("{}")
    (chart / "files" / "alerts.yaml").write_text("groups: []")
    assert monitoring(render(chart=chart)) == {}
