"""The Prometheus operator's definitions know every field of the chart's objects for it.

A package of models from those definitions checks types and required fields, and drops unknown fields: an object that is
unchanged afterwards has no unknown field.
"""

import copy
import importlib
from typing import Any

import pytest

from tools.chart.rendering import Object, render

ON = "--set=podMonitor.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true"


def model(kind: str) -> Any:
    """Return the model of a kind. The import takes seconds, so only the process that runs these tests does it."""
    return getattr(importlib.import_module("cloudcoil.models.prometheus_operator.v1"), kind)


def known(each: Object) -> Object:
    """Return the part of *each* that the operator keeps. Raise ValueError if it refuses the object."""
    validated = model(each["kind"]).model_validate(each)
    return dict(validated.model_dump(mode="json", by_alias=True, exclude_unset=True))


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return [each for each in render(options=[ON]) if each["apiVersion"] == "monitoring.coreos.com/v1"]


def test_the_operator_knows_every_field(objects: list[Object]) -> None:
    assert [each["kind"] for each in objects] == ["PodMonitor"] * 2 + ["PrometheusRule"] + ["ServiceMonitor"] * 2
    for each in objects:
        assert known(each)["spec"] == each["spec"], each["metadata"]["name"]


def test_a_field_of_another_type_is_rejected_and_an_unknown_one_is_noticed(objects: list[Object]) -> None:
    wrong, unknown = copy.deepcopy(objects[0]), copy.deepcopy(objects[0])
    wrong["spec"]["podMetricsEndpoints"] = "metrics"
    unknown["spec"]["podMetricEndpoints"] = []
    with pytest.raises(ValueError, match="podMetricsEndpoints"):
        known(wrong)
    assert known(unknown)["spec"] != unknown["spec"]
