"""The permissions in deploy/podidctl: an operator who may use its pod reads no Secret and changes no object."""

import itertools
from collections.abc import Iterator

import yaml

from tools.chart.rendering import ROOT


def rights() -> Iterator[tuple[str, str, str]]:
    """Yield kind of the role, verb and resource of each right."""
    for item in yaml.safe_load_all((ROOT / "deploy" / "podidctl" / "podidctl.yaml").read_text()):
        for rule in item.get("rules", ()):
            yield from itertools.product([item["kind"]], rule["verbs"], rule["resources"])


def test_no_right_reads_secrets_or_tokens_or_leads_to_other_programs() -> None:
    resources = {resource for _, _, resource in rights()}
    assert "azureidentities" in resources
    assert not resources & {"*", "secrets", "serviceaccounts/token", "pods/exec", "pods/attach", "nodes/proxy"}
    assert "pods/proxy" not in {resource for kind, _, resource in rights() if kind == "ClusterRole"}


def test_the_only_writes_are_test_pods_in_one_namespace_and_reviews() -> None:
    assert {right for right in rights() if right[1] not in {"get", "list"}} == {
        ("Role", "create", "pods"),
        ("Role", "delete", "pods"),
        ("ClusterRole", "create", "subjectaccessreviews"),
        ("ClusterRole", "create", "selfsubjectaccessreviews"),
    }
