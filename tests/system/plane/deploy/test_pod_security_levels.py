"""The Pod Security Standard that each pod of the chart meets, according to the real API server's admission."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.testplane import up
from tests.system.plane.deploy.helm_cluster import Cluster
from tools.chart.rendering import GOLDEN, Object, golden_sets, render

pytestmark = pytest.mark.plane

SETS = ("defaults", "admin-secret", "fail-closed", "helm-test", "every-flag")


def pod_of(objects: list[Object], kind: str, name: str) -> dict[str, Any]:
    """Return the labels and the spec of the pod in the object with this name."""
    (workload,) = (
        manifest for manifest in objects if manifest["kind"] == kind and manifest["metadata"]["name"] == name
    )
    template = workload if kind == "Pod" else workload["spec"]["template"]
    spec = {key: value for key, value in template["spec"].items() if key not in ("serviceAccountName", "priority")}
    return {"metadata": {"name": "tried", "labels": template["metadata"]["labels"]}, "spec": spec}


@pytest.fixture(scope="module")
def levels(plane: up.Plane) -> Iterator[Cluster]:
    """Two namespaces, each of which enforces the level that its name states."""
    cluster = Cluster(plane)
    for level in ("restricted", "baseline"):
        cluster.kubectl("create", "namespace", level)
        cluster.kubectl("label", "namespace", level, f"pod-security.kubernetes.io/enforce={level}")
        cluster.kubectl("wait", "--for=create", "--timeout=60s", f"-n={level}", "serviceaccount/default")
    yield cluster
    cluster.kubectl("delete", "namespace", "restricted", "baseline", "--wait=false")


# The level that it meets, of those that a namespace can enforce; "" means none.
POD_LEVELS = {
    ("admin-secret", "Deployment", "aad-pod-identity-mic"): "restricted",
    ("defaults", "Job", "aad-pod-identity-crds"): "restricted",
    ("fail-closed", "Job", "aad-pod-identity-cleanup"): "restricted",
    ("helm-test", "Pod", "aad-pod-identity-test"): "restricted",
    ("defaults", "Pod", "aad-pod-identity-redirect-test"): "restricted",
    ("defaults", "Deployment", "aad-pod-identity-mic"): "",
    ("defaults", "DaemonSet", "aad-pod-identity-nmi"): "",
    ("every-flag", "DaemonSet", "aad-pod-identity-nmi"): "",
}


@pytest.mark.parametrize(("values", "kind", "name"), POD_LEVELS)
def test_the_pod_meets_this_level_and_no_higher(levels: Cluster, values: str, kind: str, name: str) -> None:
    pod = pod_of(render(GOLDEN / f"{values}.values.yaml"), kind, name)
    for level in ("restricted", "baseline"):
        path = f"/api/v1/namespaces/{level}/pods?dryRun=All"
        if POD_LEVELS[values, kind, name]:
            assert levels.plane.api("POST", path, pod)["metadata"]["name"] == "tried"
        else:
            with pytest.raises(RuntimeError, match=f'violates PodSecurity "{level}'):
                levels.plane.api("POST", path, pod)


@pytest.mark.parametrize("values", golden_sets(), ids=lambda file: file.name.removesuffix(".values.yaml"))
def test_every_container_of_every_pod_has_the_runtimes_seccomp_profile(values: Path) -> None:
    count = 0
    for manifest in render(values):
        spec = (
            manifest["spec"]
            if manifest["kind"] == "Pod"
            else manifest.get("spec", {}).get("template", {}).get("spec", {})
        )
        for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
            own = container.get("securityContext", {}).get("seccompProfile")
            assert (own or spec["securityContext"]["seccompProfile"]) == {"type": "RuntimeDefault"}, container["name"]
            assert not container.get("securityContext", {}).get("privileged"), container["name"]
            count += 1
    assert count
