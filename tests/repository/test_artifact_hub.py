"""The metadata for Artifact Hub: annotations of the chart that it knows, and facts that the chart states elsewhere.

Source of the rules: artifacthub/hub, docs/helm_annotations.md and docs/metadata/artifacthub-repo.yml.
"""

import re
from typing import Any, Final

import yaml

from tools.chart.rendering import CHART, ROOT

PREFIX: Final = "artifacthub.io/"
TEXTS: Final = {"category", "license", "alternativeName"}
BOOLEANS: Final = {"prerelease", "containsSecurityUpdates", "operator"}
CHART_FILE: Final[dict[str, Any]] = yaml.safe_load((CHART / "Chart.yaml").read_text())
ANNOTATIONS: Final = CHART_FILE["annotations"]
LISTS: Final = {"changes", "crds", "crdsExamples", "images", "links", "maintainers", "recommendations", "screenshots"}
CATEGORIES: Final = {
    *("ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security"),
    *("storage", "streaming-messaging", "skip-prediction"),
}


def test_artifact_hub_knows_the_annotations_and_they_state_the_facts_of_the_chart() -> None:
    for key, value in ANNOTATIONS.items():
        name = key.removeprefix(PREFIX)
        assert isinstance(value, str), key
        assert key.startswith(PREFIX)
        assert name in TEXTS | BOOLEANS | LISTS
        assert name not in BOOLEANS or value in {"true", "false"}, key
        assert name not in LISTS or isinstance(yaml.safe_load(value), list), key
    assert ANNOTATIONS[f"{PREFIX}category"] in CATEGORIES
    assert ANNOTATIONS[f"{PREFIX}prerelease"] == str("-" in CHART_FILE["version"]).lower()
    assert (ROOT / "LICENSE").read_text().startswith(f"{ANNOTATIONS[f'{PREFIX}license']} License")


def test_the_listed_definitions_are_those_of_the_chart() -> None:
    listed = yaml.safe_load(ANNOTATIONS[f"{PREFIX}crds"])
    assert all({"kind", "version", "name", "displayName", "description"} == set(entry) for entry in listed)
    defined = [yaml.safe_load(file.read_text()) for file in sorted((CHART / "crds").iterdir())]
    assert sorted((entry["name"], entry["kind"], entry["version"]) for entry in listed) == sorted(
        (definition["metadata"]["name"], definition["spec"]["names"]["kind"], version["name"])
        for definition in defined
        for version in definition["spec"]["versions"]
    )


def test_the_examples_are_objects_of_these_kinds_with_their_fields() -> None:
    for example in yaml.safe_load(ANNOTATIONS[f"{PREFIX}crdsExamples"]):
        definition = yaml.safe_load((CHART / "crds" / f"{example['kind'].lower()}.yaml").read_text())
        (version,) = definition["spec"]["versions"]
        assert example["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
        properties = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        assert set(example["spec"]) <= set(properties)


def test_the_repositorys_metadata_has_the_known_fields() -> None:
    metadata = yaml.safe_load((ROOT / "artifacthub-repo.yml").read_text())
    assert set(metadata) <= {"repositoryID", "owners", "ignore"}
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", metadata["repositoryID"])
    assert all(set(owner) == {"name", "email"} for owner in metadata["owners"])
