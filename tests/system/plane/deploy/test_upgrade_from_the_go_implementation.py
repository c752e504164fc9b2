"""`helm upgrade`, with the values of the Go implementation's chart, adopts a release of that chart: same names, and
selectors that cannot change. `helm rollback` gives it back."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.chart_objects import HELMS
from tests.support.go_implementation_chart import VALUES, write_chart
from tests.support.testplane import up
from tests.system.plane.deploy.helm_cluster import LIMIT, Cluster
from tools.chart.rendering import CHART

pytestmark = pytest.mark.plane


@pytest.mark.parametrize("helm", HELMS)
def test_the_release_is_upgraded_in_place(plane: up.Plane, tmp_path: Path, helm: str) -> None:
    namespace = f"old-{helm}"
    Cluster(plane, "helm3").install(namespace, chart=write_chart(tmp_path))
    cluster = Cluster(plane, helm)

    def by_name(kind: str) -> dict[str, Any]:
        listed = json.loads(cluster.kubectl("get", kind, f"-n={namespace}", "-o", "json"))["items"]
        return {
            manifest["metadata"]["name"]: manifest
            for manifest in listed
            if manifest["metadata"]["name"].startswith("aad-pod")
        }

    before = {**by_name("deployments"), **by_name("daemonsets")}

    def run_in_place(image: str) -> None:
        after = {**by_name("deployments"), **by_name("daemonsets")}
        assert {name: manifest["metadata"]["uid"] for name, manifest in after.items()} == {
            name: manifest["metadata"]["uid"] for name, manifest in before.items()
        }
        for part in ("mic", "nmi"):
            pod = after[f"aad-pod-identity-{part}"]["spec"]["template"]["spec"]
            assert [container["image"].partition("/")[0] for container in pod["containers"]] == [image]

    # The hook's Job would wait for a kubelet, which this cluster does not have.
    images = "--set=image.repository=ours,mic.tag=,nmi.tag="
    options = ("--no-hooks", f"--values={VALUES}", images, LIMIT)
    cluster.helm("upgrade", "pi", str(CHART), f"--namespace={namespace}", *options)
    try:
        run_in_place("ours")
        rights = cluster.rights("aad-pod-identity-nmi", of=namespace, within=namespace)
        assert ("*.aadpodidentity.k8s.io", "", "*") not in rights
        assert ("pods", "", "get list watch") in rights
        cluster.helm("rollback", "pi", "1", f"--namespace={namespace}", "--no-hooks", LIMIT)
        run_in_place("theirs")
    finally:
        cluster.helm("uninstall", "pi", f"--namespace={namespace}", LIMIT, "--no-hooks")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
