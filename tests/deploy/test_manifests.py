"""deploy/manifests equals the output of the chart, and works without helm."""

import pytest

from tools.chart.manifests import MANIFEST_OF, MANIFESTS, text_of


@pytest.mark.parametrize("name", MANIFEST_OF)
def test_the_manifest_is_up_to_date(name: str) -> None:
    assert (MANIFESTS / name).read_text() == text_of(MANIFEST_OF[name]), "run: python -m tools.chart"


def test_there_is_no_other() -> None:
    assert {str(file.relative_to(MANIFESTS)) for file in MANIFESTS.rglob("*.yaml")} == set(MANIFEST_OF)


@pytest.mark.parametrize("name", MANIFEST_OF)
def test_no_label_marks_it_as_managed_by_helm(name: str) -> None:
    text = (MANIFESTS / name).read_text()
    assert "helm" not in text.lower()


@pytest.mark.parametrize("name", [name for name, manifest in MANIFEST_OF.items() if not manifest.only])
def test_it_warns_users_of_the_go_implementations_manifests(name: str) -> None:
    head = (MANIFESTS / name).read_text().partition("---")[0]
    assert "ds/nmi and deploy/mic have other names" in head
    assert "docs/migration.md" in head
