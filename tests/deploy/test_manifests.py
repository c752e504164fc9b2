"""deploy/manifests equals the output of the chart, and works without helm."""

import subprocess

import pytest
import yaml

from tests.testplane import up
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


@pytest.mark.plane
@pytest.mark.parametrize("name", MANIFEST_OF)
def test_a_real_api_server_accepts_it(plane: up.Plane, name: str) -> None:
    command = [str(up.tool("kubectl")), f"--kubeconfig={plane.kubeconfig}", "apply", "--dry-run=server"]
    done = subprocess.run(
        [*command, "--validate=strict", "-f", str(MANIFESTS / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [each for each in yaml.safe_load_all((MANIFESTS / name).read_text()) if each]
    assert done.stdout.count("(server dry run)") == len(made)
