"""Alert rules and dashboard are files of the chart; without a file the chart renders no object for it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.helms import HELMS
from tools.chart.rendering import CHART, Object, render

DASHBOARD = {"title": 'It\'s {{ .Values }} | "quoted"', "panels": [{"id": 1}], "uid": "a" * 200}
RULES = {"groups": [{"name": "nmi", "rules": [{"alert": "Silent", "expr": "up == 0", "for": "5m"}]}]}
OPTIONS = [
    "--set=prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
    "--set=grafanaDashboard.enabled=true,grafanaDashboard.namespace=grafana,grafanaDashboard.annotations.folder=ours",
]
MODES = ("standard", "managed")


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart with the same templates and without both files."""
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


def test_without_the_files_there_are_no_objects(chart: Path) -> None:
    assert monitoring(render(chart=chart, options=OPTIONS)) == {}


def test_they_are_not_installed_unasked(chart: Path) -> None:
    (chart / "files" / "dashboard.json").write_text("{}")
    (chart / "files" / "alerts.yaml").write_text("groups: []")
    assert monitoring(render(chart=chart)) == {}


def alerts(objects: list[Object]) -> dict[str, Object]:
    groups = monitoring(objects)["PrometheusRule"]["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("helm", HELMS)
def test_by_default_the_rules_are_those_of_the_file(helm: str) -> None:
    found = monitoring(render(helm=helm, options=OPTIONS))["PrometheusRule"]
    assert found["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_managed_mode_has_no_alerts_of_mic() -> None:
    standard, managed = (alerts(render(options=[*OPTIONS, f"--set=operationMode={mode}"])) for mode in MODES)
    assert {"PodIdentityNMIDown", "PodIdentityMICLeaderMissing"} <= set(standard)
    assert "PodIdentityNMIDown" in managed
    assert not [name for name in managed if "MIC" in name]


@pytest.mark.parametrize("url", ["https://wiki.example/on-call", "https://wiki.example/on-call/"])
def test_the_runbooks_are_at_the_url_of_the_values(url: str) -> None:
    found = alerts(render(options=[*OPTIONS, f"--set=prometheusRule.runbookBaseURL={url}"]))
    pages = {name: rule["annotations"]["runbook_url"] for name, rule in found.items()}
    assert pages == {name: f"https://wiki.example/on-call/{name}.md" for name in found}


def test_without_a_url_the_alerts_name_the_runbooks_in_the_repository() -> None:
    found = alerts(render(options=OPTIONS))
    pages = {name: rule["annotations"]["runbook_url"] for name, rule in found.items()}
    assert pages == {name: f"docs/runbooks/{name}.md" for name in found}


# The values, and the resulting intervals of the monitors.
INTERVALS = {
    "podMonitor.enabled=true": "5m",
    "podMonitor.enabled=true,podMonitor.interval=1h30m": "1h30m",
    "podMonitor.enabled=true,prometheusRule.enabled=true": "1m",
    "podMonitor.enabled=true,prometheusRule.enabled=true,podMonitor.interval=30s": "30s",
    "podMonitor.enabled=true,prometheusRule.enabled=true,podMonitor.interval=60000ms": "60000ms",
    "podMonitor.enabled=true,prometheusRule.enabled=true,podMonitor.interval=": None,
    "serviceMonitor.enabled=true,prometheusRule.enabled=true": "1m",
    "serviceMonitor.enabled=true,serviceMonitor.interval=15s,serviceMonitor.scrapeTimeout=15s": "15s",
    "serviceMonitor.enabled=true,serviceMonitor.interval=15s,serviceMonitor.scrapeTimeout=": "15s",
}


@pytest.mark.parametrize("asked", INTERVALS)
def test_the_scrape_interval_is_short_enough_for_the_alerts(asked: str) -> None:
    kinds = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
    found = [each for each in render(options=[f"--set={asked}"]) if each["kind"] in kinds]
    assert len(found) == 2
    assert {each["spec"][kinds[each["kind"]]][0].get("interval") for each in found} == {INTERVALS[asked]}
