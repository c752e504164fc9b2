"""Objects of the chart for monitoring: alert rules and dashboard from the chart's files, and monitors.

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

from tests.support.chart_objects import HELMS
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
    return {
        manifest["kind"]: manifest
        for manifest in objects
        if manifest["kind"] == "PrometheusRule" or manifest["metadata"]["name"].endswith("dashboard")
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
    by_kind = monitoring(render(chart=chart, helm=helm, options=OPTIONS))
    dashboard, rules = by_kind["ConfigMap"], by_kind["PrometheusRule"]
    assert json.loads(dashboard["data"]["aad-pod-identity.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["namespace"] == "grafana"
    assert dashboard["metadata"]["annotations"] == {"folder": "ours"}
    assert rules["spec"] == RULES
    assert rules["metadata"]["labels"]["release"] == "prometheus"


def test_managed_mode_has_no_alerts_of_mic() -> None:
    standard, managed = (alerts(f"--set=operationMode={mode}") for mode in ("standard", "managed"))
    (rules,) = (manifest for manifest in render(options=OPTIONS) if manifest["kind"] == "PrometheusRule")
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
    rules = alerts(*([f"--set=prometheusRule.runbookBaseURL={url}"] if url else []))
    pages = {name: rule["annotations"]["runbook_url"] for name, rule in rules.items()}
    assert pages == {name: f"{folder}/{name}.md" for name in rules}


def kept_part(manifest: Object) -> Object:
    """Return the part of *manifest* that the operator keeps. Raise ValueError if it refuses the object."""
    # The import takes seconds, so only the process that runs this test does it.
    model: Any = getattr(importlib.import_module("cloudcoil.models.prometheus_operator.v1"), manifest["kind"])
    return dict(model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True))


def test_the_operator_knows_every_field() -> None:
    on = "--set=podMonitor.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true"
    objects = [manifest for manifest in render(options=[on]) if manifest["apiVersion"] == "monitoring.coreos.com/v1"]
    assert [manifest["kind"] for manifest in objects] == ["PodMonitor"] * 2 + ["PrometheusRule"] + [
        "ServiceMonitor"
    ] * 2
    for manifest in objects:
        assert kept_part(manifest)["spec"] == manifest["spec"], manifest["metadata"]["name"]
    wrong, unknown = copy.deepcopy(objects[0]), copy.deepcopy(objects[0])
    wrong["spec"]["podMetricsEndpoints"] = "metrics"
    unknown["spec"]["podMetricEndpoints"] = []
    with pytest.raises(ValueError, match="podMetricsEndpoints"):
        kept_part(wrong)
    assert kept_part(unknown)["spec"] != unknown["spec"]
