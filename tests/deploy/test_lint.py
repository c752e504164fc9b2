"""`helm lint` reports nothing about the chart."""

import subprocess
from pathlib import Path

import pytest

from tests.deploy.helms import HELMS
from tests.testplane import up
from tools.chart.rendering import CHART, RenderError, golden_sets, render


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", golden_sets(), ids=lambda values: values.name.removesuffix(".values.yaml"))
def test_lint_reports_nothing(values: Path, helm: str) -> None:
    command = [str(up.tool(helm)), "lint", "--strict", str(CHART), f"--values={values}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("helm", HELMS)
def test_an_untested_version_of_kubernetes_is_rejected(helm: str) -> None:
    for tried in ("v1.27.0", "v1.30.9-gke.100", "v1.37.2"):
        assert render(helm=helm, options=[f"--kube-version={tried}"])
    with pytest.raises(RenderError, match=r"incompatible with Kubernetes v1\.26\.9"):
        render(helm=helm, options=["--kube-version=v1.26.9"])
