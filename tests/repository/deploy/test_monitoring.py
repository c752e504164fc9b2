"""Objects of the chart for monitoring: alert rules and dashboard from the chart's files, monitors and their intervals.

A package of models from the Prometheus operator's definitions checks types and required fields, and drops unknown
fields: an object that is unchanged afterwards has no unknown field.
"""

import copy
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository.deploy.helms import HELMS
from tools.chart.rendering import CHART, Object, render

DASHBOARD = {"title": 'It\'s {{ .Values }} | "quoted"', "panels": [{"id": 1}], "uid": "a" * 200}
RULES = {"groups": [{"name": "nmi", "rules": [{"alert": "Silent", "expr": "up == 0", "for": "5m"}]}]}
OPTIONS = [
    "--set=prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
    "--set=grafanaDashboard.enabled=true,grafanaDashboard.namespace=grafana,grafanaDashboard.annotations.folder=ours",
]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart with the same templates and without both files."""
    copied = tmp_path / "aad-pod-identity"
    shutil.copytree(CHART, copied, ignore=shutil.ignore_patterns("alerts.yaml", "dashboard.json"))
    return copied


def monitoring(objects: list[Object]) -> dict[str, Object]:
    """Return the object of the rules and that of the dashboard, by kind."""
    wanted = ("PrometheusRule", "dashboard")
    return {
        each["kind"]: each for each in objects if each["kind"] in wanted or each["metadata"]["name"].endswith(wanted)
    }


def alerts(*options: str) -> dict[str, Object]:
    groups = monitoring(render(options=[*OPTIONS, *options]))["PrometheusRule"]["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("helm", HELMS)
def test_the_files_arrive_as_they_are(chart: Path, helm: str) -> None:
    assert monitoring(render(chart=chart, options=OPTIONS)) == {}, "without the files there are no objects"
    (chart / "files" / "dashboard.json").write_text(json.dumps(DASHBOARD, indent=2))
    (chart / "files" / "alerts.yaml").write_text(yaml.safe_dump(RULES))
    assert monitoring(render(chart=chart)) == {}, "they are not installed unasked"
    found = monitoring(render(chart=chart, helm=helm, options=OPTIONS))
    dashboard, rules = found["ConfigMap"], found["PrometheusRule"]
    assert json.loads(dashboard["data"]["aad-pod-identity.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["namespace"] == "grafana"
    assert dashboard["metadata"]["annotations"] == {"folder": "ours"}
    assert rules["spec"] == RULES
    assert rules["metadata"]["labels"]["release"] == "prometheus"


def test_managed_mode_has_no_alerts_of_mic() -> None:
    standard, managed = (alerts(f"--set=operationMode={mode}") for mode in ("standard", "managed"))
    (rules,) = (each for each in render(options=OPTIONS) if each["kind"] == "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert {"PodIdentityNMIDown", "PodIdentityMICLeaderMissing"} <= set(standard)
    assert "PodIdentityNMIDown" in managed
    assert not [name for name in managed if "MIC" in name]


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("https://wiki.example/on-call", "https://wiki.example/on-call"),
        ("https://wiki.example/on-call/", "https://wiki.example/on-call"),
        ("", "docs/runbooks"),
    ],
    ids=["url", "url with a slash", "none"],
)
def test_the_runbooks_are_at_the_url_of_the_values_or_in_the_repository(url: str, folder: str) -> None:
    found = alerts(*([f"--set=prometheusRule.runbookBaseURL={url}"] if url else []))
    pages = {name: rule["annotations"]["runbook_url"] for name, rule in found.items()}
    assert pages == {name: f"{folder}/{name}.md" for name in found}


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


@pytest.mark.parametrize("values", INTERVALS)
def test_the_scrape_interval_is_short_enough_for_the_alerts(values: str) -> None:
    kinds = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
    found = [each for each in render(options=[f"--set={values}"]) if each["kind"] in kinds]
    assert len(found) == 2
    assert {each["spec"][kinds[each["kind"]]][0].get("interval") for each in found} == {INTERVALS[values]}


def known(each: Object) -> Object:
    """Return the part of *each* that the operator keeps. Raise ValueError if it refuses the object."""
    # The import takes seconds, so only the process that runs this test does it.
    model: Any = getattr(importlib.import_module("cloudcoil.models.prometheus_operator.v1"), each["kind"])
    return dict(model.model_validate(each).model_dump(mode="json", by_alias=True, exclude_unset=True))


def test_the_operator_knows_every_field() -> None:
    on = "--set=podMonitor.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true"
    objects = [each for each in render(options=[on]) if each["apiVersion"] == "monitoring.coreos.com/v1"]
    assert [each["kind"] for each in objects] == ["PodMonitor"] * 2 + ["PrometheusRule"] + ["ServiceMonitor"] * 2
    for each in objects:
        assert known(each)["spec"] == each["spec"], each["metadata"]["name"]
    wrong, unknown = copy.deepcopy(objects[0]), copy.deepcopy(objects[0])
    wrong["spec"]["podMetricsEndpoints"] = "metrics"
    unknown["spec"]["podMetricEndpoints"] = []
    with pytest.raises(ValueError, match="podMetricsEndpoints"):
        known(wrong)
    assert known(unknown)["spec"] != unknown["spec"]
