"""Each alert fires in its case and is silent in a similar case, according to promtool's check and unit tests."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository.observability.pack import FILES, Alert, alerts, cases, expectations, promtool, rules

MINUTE = 60


def watched_series(alert: Alert) -> list[int]:
    """Return the number of series of *alert*'s metrics, for each case that checks the alert."""
    metrics = set(re.findall(r"\baadpodidentity_\w+|\bup\b", alert.expr))
    return [
        sum(series["series"].partition("{")[0] in metrics for series in case["input_series"])
        for case in cases()["tests"]
        if any(look["alertname"] == alert.name for look in case["alert_rule_test"])
    ]


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(FILES / "alerts.yaml"))


def test_each_alert_fires_in_its_case_only(tmp_path: Path) -> None:
    tried(cases(), tmp_path)


def tried(some: dict[str, Any], folder: Path) -> None:
    """Run promtool on *some* cases with the rules without annotations. Fail if it fails."""
    bare = {
        "groups": [
            {**group, "rules": [{**rule, "annotations": {}} for rule in group["rules"]]} for group in rules()["groups"]
        ]
    }
    (folder / "alerts.yaml").write_text(yaml.safe_dump(bare))
    (folder / "firing.yaml").write_text(yaml.safe_dump(some))
    promtool("test", "rules", str(folder / "firing.yaml"))


def samples(values: str) -> Iterator[str]:
    """Yield each sample of a series in promtool's shorthand."""
    for word in values.split():
        first, step, times = re.fullmatch(r"(_|stale|Inf|-?[\d.]+)([+-][\d.]+)?(?:x(\d+))?", word).groups()  # type: ignore[union-attr]
        for number in range(int(times or 0) + (first != "_" or not times)):
            yield str(float(first) + float(step) * number) if step else first


def scraped_each(seconds: int) -> dict[str, Any]:
    """Return the cases with the samples of a Prometheus with this scrape interval."""
    document = copy.deepcopy(cases())
    for case in document["tests"]:
        every = max(1, seconds // {"30s": 30, "1m": MINUTE}[case["interval"]])
        for series in case["input_series"]:
            kept = enumerate(samples(series["values"]))
            series["values"] = " ".join("_" if at % every and value != "stale" else value for at, value in kept)
    return document


def test_alerts_work_with_the_longest_interval_that_the_chart_accepts(tmp_path: Path) -> None:
    tried(scraped_each(MINUTE), tmp_path)


@pytest.mark.parametrize(
    ("minutes", "blind"),
    [
        (2, {"PodIdentityRedirectMissing", "PodIdentityMICLeaderMissing"}),
        (3, {"PodIdentityNMIDown", "PodIdentityTokensUnavailable", "PodIdentityLimitsHit"}),
    ],
)
def test_alerts_are_late_or_silent_with_a_longer_interval(minutes: int, blind: set[str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        tried(scraped_each(minutes * MINUTE), tmp_path)
    silent = re.findall(r"alertname: (\w+), (?:(?!got:).)*got:\[\]", str(failed.value), re.DOTALL)
    assert blind <= set(silent)


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
