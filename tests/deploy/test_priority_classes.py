"""The priority classes of the chart's pods, and the ResourceQuota that some clusters require for them."""

from typing import Any

import pytest

from tools.chart.rendering import HELMS, Object, render


def classes_of(objects: list[Object]) -> dict[str, Any]:
    pods = (each for each in objects if each["kind"] in {"DaemonSet", "Deployment"})
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"].get("priorityClassName") for each in pods}


def quotas_of(objects: list[Object]) -> list[list[str]]:
    """Return the classes that each quota names."""
    return [
        expression["values"]
        for each in objects
        if each["kind"] == "ResourceQuota"
        for expression in each["spec"]["scopeSelector"]["matchExpressions"]
    ]


@pytest.mark.parametrize("helm", HELMS)
def test_the_systems_classes_by_default_and_no_quota(helm: str) -> None:
    objects = render(helm=helm)
    classes = classes_of(objects)
    assert classes["aad-pod-identity-nmi"] == "system-node-critical"
    assert classes["aad-pod-identity-mic"] == "system-cluster-critical"
    assert quotas_of(objects) == []


def test_an_empty_text_is_no_class() -> None:
    options = ['--set-json=nmi.priorityClassName=""', '--set-json=mic.priorityClassName=""']
    objects = render(options=[*options, "--set=priorityClassQuota=true"])
    assert set(classes_of(objects).values()) == {None}
    assert quotas_of(objects) == [], "there is nothing to allow"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], ["system-cluster-critical", "system-node-critical"]),
        (["--set=operationMode=managed"], ["system-node-critical"]),
        (["--set=mic.priorityClassName=mine"], ["mine", "system-node-critical"]),
        (["--set=mic.priorityClassName=system-node-critical"], ["system-node-critical"]),
    ],
)
def test_the_quota_names_the_classes_that_are_used(options: list[str], named: list[str]) -> None:
    objects = render(namespace="podid", options=["--set=priorityClassQuota=true", *options])
    assert quotas_of(objects) == [named]
    (quota,) = (each for each in objects if each["kind"] == "ResourceQuota")
    assert quota["metadata"]["namespace"] == "podid"


def test_fail_closed_is_not_set_without_a_redirect() -> None:
    (nmi,) = (
        each
        for each in render(options=["--set=nmi.extraArgs={--redirect=none}"])
        if each["kind"] == "DaemonSet" and each["metadata"]["name"].endswith("-nmi")
    )
    arguments = nmi["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--redirect=none" in arguments
    assert not [each for each in arguments if each.startswith("--fail-closed")], "NMI refuses the two together"
