"""The chart renders the texts in tests/repository/deploy/golden, with each version of helm, and deploy/manifests.

`defaults.yaml` is a whole text, and each other file the difference of a set of values from it. `python -m tools.chart`
writes all of them: review the changes before you commit them.
"""

import difflib
import json
import re
from pathlib import Path

import pytest

from tools.chart.manifests import MANIFEST_OF, MANIFESTS, Manifest
from tools.chart.manifests import text_of as manifest_text
from tools.chart.rendering import (
    CHART,
    GOLDEN,
    HELMS,
    RELEASE,
    ROOT,
    golden_content,
    golden_file,
    golden_sets,
    golden_text,
    render,
    text_of,
)

SETS = golden_sets()
of_each_set = pytest.mark.parametrize("values", SETS, ids=lambda values: values.name.removesuffix(".values.yaml"))


@pytest.mark.parametrize("helm", HELMS)
@of_each_set
def test_the_chart_renders_the_golden_text(values: Path, helm: str) -> None:
    kept, now = golden_text(values), text_of(render(values, helm=helm))
    assert now == kept, "".join(difflib.unified_diff(kept.splitlines(True), now.splitlines(True), "kept", "now"))


def test_the_golden_files_are_those_that_the_tool_writes() -> None:
    assert len(SETS) >= 12
    assert set(GOLDEN.iterdir()) == {*SETS, *map(golden_file, SETS)}
    for values in SETS:
        assert golden_file(values).read_text() == golden_content(values, golden_text(values))


@of_each_set
def test_own_names_replace_the_charts_in_every_object(values: Path) -> None:
    options = ["--set=nameOverride=ids,fullnameOverride=platform-ids"]
    own, usual = (
        [re.sub(r'"checksum/config": "\w+"', "", json.dumps(manifest, sort_keys=True)) for manifest in objects]
        for objects in (render(values, options=options), render(values))
    )
    assert re.findall(r'name(?:": "|=)[^"]*aad-pod-identity', "".join(own), re.IGNORECASE) == []
    renamed = [
        text.replace("platform-ids", f"{RELEASE}-aad-pod-identity").replace("ids", "aad-pod-identity") for text in own
    ]
    assert sorted(renamed) == sorted(usual)


@pytest.mark.parametrize(("name", "manifest"), MANIFEST_OF.items(), ids=MANIFEST_OF)
def test_the_manifest_is_up_to_date_and_warns_users_of_the_go_implementations_manifests(
    name: str, manifest: Manifest
) -> None:
    """No label marks it as managed by helm."""
    text = (MANIFESTS / name).read_text()
    assert text == manifest_text(manifest), "run: python -m tools.chart"
    assert "helm" not in text.lower()
    if not manifest.only:
        assert "ds/nmi and deploy/mic have other names" in text.partition("---")[0]
        assert "docs/migration.md" in text.partition("---")[0]


def test_there_is_no_other_manifest() -> None:
    assert {str(file.relative_to(MANIFESTS)) for file in MANIFESTS.rglob("*.yaml")} == set(MANIFEST_OF)


def test_no_manifest_names_a_registry_that_could_belong_to_others() -> None:
    """A name without a registry is one of Docker Hub."""
    files = [file for file in (ROOT / "deploy").rglob("*.yaml") if not file.is_relative_to(CHART)]
    named = [image for file in files for image in re.findall(r"\bimage: *(\S+)", file.read_text())]
    assert len(named) >= 12
    assert {image.partition("/")[0] for image in named} == {"REGISTRY", "localhost"}
