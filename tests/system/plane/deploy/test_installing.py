"""Installations that e2e does not have: a node that is down, a boot guard that is switched off, any values."""

import json

import pytest
import yaml

from tests.support.chart_objects import HELMS
from tests.support.testplane import up
from tests.system.plane.deploy.helm_cluster import LIMIT, Cluster
from tools.chart.rendering import CHART, golden_sets

pytestmark = pytest.mark.plane
OF_OTHERS = ("monitoring.coreos.com/", "cilium.io/")


@pytest.mark.parametrize("helm", HELMS)
def test_after_a_failed_cleanup_the_daemonset_remains_for_the_node_that_is_down(plane: up.Plane, helm: str) -> None:
    cluster = Cluster(plane, helm)
    namespace, node = f"down-{helm}", f"down-{helm}"
    plane.api("POST", "/api/v1/nodes", {"metadata": {"name": node, "labels": {"kubernetes.io/os": "linux"}}})
    cluster.install(namespace, "--set=nmi.failClosed=true")
    try:
        with pytest.raises(AssertionError, match="uninstall"):
            cluster.helm("uninstall", "pi", f"--namespace={namespace}", "--timeout=3s")
        scheduled = "--for=jsonpath={.status.desiredNumberScheduled}=1"
        cluster.kubectl("wait", "ds/aad-pod-identity-cleanup", f"-n={namespace}", scheduled, "--timeout=60s")
        # While the DaemonSet exists, the control plane creates its pods, which need the service account.
        named = "-o=jsonpath={.spec.template.spec.serviceAccountName}{.status.desiredNumberScheduled}"
        assert cluster.kubectl("get", "ds", "aad-pod-identity-cleanup", f"-n={namespace}", named) == "1"
    finally:
        cluster.kubectl("delete", "daemonset", "aad-pod-identity-cleanup", f"-n={namespace}", "--ignore-not-found")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        plane.api("DELETE", f"/api/v1/nodes/{node}")


def test_the_api_server_accepts_the_objects_of_each_set_of_values(plane: up.Plane) -> None:
    cluster = Cluster(plane)
    theirs = ("accounting", "monitoring", "leases", "podid", "shop", "reports")
    for namespace in theirs:
        cluster.kubectl("create", "namespace", namespace)
    try:
        for values in golden_sets():
            rendered = cluster.helm("template", "pi", str(CHART), "--namespace=podid", f"--values={values}")
            objects = [manifest for manifest in yaml.safe_load_all(rendered) if manifest]
            standard = [manifest for manifest in objects if not manifest["apiVersion"].startswith(OF_OTHERS)]
            done = cluster.kubectl(
                "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(standard)
            )
            assert done.count("(server dry run)") == len(standard), values.name
    finally:
        cluster.kubectl("delete", "namespace", "--wait=false", *theirs)


@pytest.mark.parametrize("helm", HELMS)
def test_a_boot_guard_that_is_switched_off_is_removed_by_the_next_revision(plane: up.Plane, helm: str) -> None:
    """helm detects that the previous revision installed it; the hook after the release removes it, too."""
    cluster = Cluster(plane, helm)
    namespace = f"guard-{helm}"

    def arguments() -> list[str]:
        output = cluster.kubectl("get", "ds", "aad-pod-identity-nmi", f"-n={namespace}", "-o", "json")
        pod = json.loads(output)["spec"]["template"]["spec"]
        return [
            word for container in pod.get("initContainers", []) for word in container["args"] if "boot-guard" in word
        ]

    def upgrade(*options: str) -> None:
        cluster.helm("upgrade", "pi", str(CHART), f"--namespace={namespace}", "--no-hooks", LIMIT, *options)

    with cluster.installed(namespace):
        assert arguments() == []
        upgrade("--set=nmi.bootGuard=true")
        assert arguments() == ["--boot-guard=install"]
        for _ in range(2):  # a node that was down at first still needs cleaning
            upgrade("--set=nmi.bootGuard=false")
            assert arguments() == ["--boot-guard=remove"]
        hooks = cluster.helm("get", "hooks", "pi", f"--namespace={namespace}")
        assert "--systemd-directory=/host/etc/systemd/system" in hooks
