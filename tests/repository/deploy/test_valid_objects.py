"""Every rendered object is valid in each Kubernetes version from 1.27 to 1.37, without ignored fields, and `helm lint`
reports nothing about the chart.

Objects for newer versions only are valid in those. The schemas are part of the package kubernetes-validate, so the
tests need no cluster and no network."""

import functools
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.support.chart_objects import HELMS
from tests.support.testplane import up
from tools.chart.manifests import MANIFESTS
from tools.chart.rendering import CHART, golden_sets, golden_text

VERSIONS = [f"1.{minor}" for minor in range(27, 38)]
FILES = [*sorted(MANIFESTS.rglob("*.yaml")), *sorted((CHART / "crds").iterdir())]
OF_OTHERS = {"monitoring.coreos.com/v1", "aadpodidentity.k8s.io/v1", "cilium.io/v2"}
"""Kinds that are not part of Kubernetes. Other tests apply those of this project to a real API server."""
SINCE = {"admissionregistration.k8s.io/v1": 30}
"""Minimum minor version for these kinds; with older versions the chart fails."""


@functools.cache
def objects() -> Mapping[str, Any]:
    """Return each distinct object of the golden sets and of all files, by its text."""
    texts = [*map(golden_text, golden_sets()), *(file.read_text() for file in FILES)]
    documents = [manifest for text in texts for manifest in yaml.load_all(text, yaml.CSafeLoader)]
    return {
        json.dumps(manifest, sort_keys=True): manifest
        for manifest in documents
        if manifest["apiVersion"] not in OF_OTHERS
    }


@pytest.fixture(scope="module", autouse=True)
def files_are_read_once() -> Iterator[None]:
    """Cache the definitions of a version: the package would read megabytes for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_and_an_invalid_one_is_found(version: str) -> None:
    for manifest in objects().values():
        if SINCE.get(manifest["apiVersion"], 0) > int(version.removeprefix("1.")):
            continue
        kubernetes_validate.validate(manifest, version, strict=True)
    assert len(objects()) > 60
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nmi"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="automountServiceAccountTokens"):
        kubernetes_validate.validate({**account, "automountServiceAccountTokens": True}, version, strict=True)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", golden_sets(), ids=lambda values: values.name.removesuffix(".values.yaml"))
def test_lint_reports_nothing(values: Path, helm: str) -> None:
    command = [str(up.tool(helm)), "lint", "--strict", str(CHART), f"--values={values}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
