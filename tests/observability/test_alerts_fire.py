"""Each alert fires when it must and is silent in the neighbour case: promtool's own check and unit tests."""

import re
from pathlib import Path

import pytest
import yaml

from tests.observability.pack import FILES, Alert, alerts, cases, expectations, promtool, rules


def watched_series(alert: Alert) -> list[int]:
    """For each case that looks for *alert*: how many series of its metrics it has."""
    metrics = set(re.findall(r"\baadpodidentity_\w+|\bup\b", alert.expr))
    return [
        sum(series["series"].partition("{")[0] in metrics for series in case["input_series"])
        for case in cases()["tests"]
        if any(look["alertname"] == alert.name for look in case["alert_rule_test"])
    ]


def test_promtool_finds_nothing_to_object_to() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(FILES / "alerts.yaml"))


def test_each_alert_fires_when_it_must_and_not_beside_it(tmp_path: Path) -> None:
    bare = {
        "groups": [
            {**group, "rules": [{**rule, "annotations": {}} for rule in group["rules"]]} for group in rules()["groups"]
        ]
    }
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(bare))
    (tmp_path / "firing.yaml").write_text(yaml.safe_dump(cases()))
    promtool("test", "rules", str(tmp_path / "firing.yaml"))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_each_alert_has_both_cases(alert: Alert) -> None:
    looked = expectations(alert)
    fired = max(looked, key=len, default=[])
    assert fired, "nothing shows that it fires"
    assert [] in looked or len(fired) < max(watched_series(alert)), "nothing shows when it is silent"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_the_texts_use_labels_that_the_alert_has(alert: Alert) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
    for labels in (labels for look in expectations(alert) for labels in look):
        assert used <= labels.keys()
