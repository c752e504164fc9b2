"""`helm upgrade` adopts a release of the Go implementation's chart: the same names, and selectors that cannot change.

The old chart of this test has the names, labels and selectors of the Go implementation's, and no more.
reference: templates/_helper.tpl, mic-deployment.yaml, nmi-daemonset.yaml, mic-clusterrole.yaml of chart 4.1.18.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm_cluster import LIMIT, Cluster
from tests.testplane import up
from tools.chart.rendering import CHART, HELMS

pytestmark = [pytest.mark.plane, pytest.mark.timeout(120)]

SELECTORS = {"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/instance": "pi"}
LABELS = {**SELECTORS, "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "aad-pod-identity-4.1.18"}
GROUP = "rbac.authorization.k8s.io"


def workload(kind: str, part: str, **more: Any) -> dict[str, Any]:
    component = {"app.kubernetes.io/component": part}
    pod = {"serviceAccountName": f"aad-pod-identity-{part}", "containers": [{"name": part, "image": "theirs"}]}
    spec = {
        "selector": {"matchLabels": {**SELECTORS, **component}},
        "template": {"metadata": {"labels": {**LABELS, **component}}, "spec": pod},
        **more,
    }
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta(part), "spec": spec}


def meta(part: str) -> dict[str, Any]:
    return {"name": f"aad-pod-identity-{part}", "labels": {**LABELS, "app.kubernetes.io/component": part}}


def theirs() -> list[dict[str, Any]]:
    made = [workload("Deployment", "mic", replicas=2), workload("DaemonSet", "nmi")]
    for part in ("mic", "nmi"):
        made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(part)})
        wide = [{"apiGroups": ["aadpodidentity.k8s.io"], "resources": ["*"], "verbs": ["*"]}]
        made.append({"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": meta(part), "rules": wide})
        role = {"apiGroup": GROUP, "kind": "ClusterRole", "name": f"aad-pod-identity-{part}"}
        account = {
            "kind": "ServiceAccount",
            "name": f"aad-pod-identity-{part}",
            "namespace": "{{ .Release.Namespace }}",
        }
        binding = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": meta(part)}
        made.append({**binding, "roleRef": role, "subjects": [account]})
    exception = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException"}
    made.append({**exception, "metadata": {"name": "mic", "labels": LABELS}, "spec": {"podLabels": {"app": "mic"}}})
    return made


@pytest.fixture
def old_chart(tmp_path: Path) -> Path:
    chart = tmp_path / "old" / "aad-pod-identity"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: aad-pod-identity\nversion: 4.1.18\nappVersion: 1.8.17\n")
    (chart / "templates" / "all.yaml").write_text(yaml.safe_dump_all(theirs()))
    return chart


@pytest.mark.parametrize("helm", HELMS)
def test_the_release_is_upgraded_in_place(plane: up.Plane, old_chart: Path, helm: str) -> None:
    namespace = f"old-{helm}"
    Cluster(plane, "helm3").install(namespace, chart=old_chart)
    cluster = Cluster(plane, helm)

    def found(kind: str) -> dict[str, Any]:
        listed = json.loads(cluster.kubectl("get", kind, f"-n={namespace}", "-o", "json"))["items"]
        return {each["metadata"]["name"]: each for each in listed if each["metadata"]["name"].startswith("aad-pod")}

    before = {**found("deployments"), **found("daemonsets")}
    # The hook's Job would wait for a kubelet, which this cluster does not have.
    options = ("--no-hooks", "--set=image.repository=ours", LIMIT)
    cluster.helm("upgrade", "pi", str(CHART), f"--namespace={namespace}", *options)
    try:
        after = {**found("deployments"), **found("daemonsets")}
        assert {name: each["metadata"]["uid"] for name, each in after.items()} == {
            name: each["metadata"]["uid"] for name, each in before.items()
        }
        for part in ("mic", "nmi"):
            pod = after[f"aad-pod-identity-{part}"]["spec"]["template"]["spec"]
            assert [each["image"].partition("/")[0] for each in pod["containers"]] == ["ours"]
        rights = cluster.rights("aad-pod-identity-nmi", of=namespace, within=namespace)
        assert ("*.aadpodidentity.k8s.io", "", "*") not in rights
        assert ("pods", "", "get list watch") in rights
    finally:
        cluster.helm("uninstall", "pi", f"--namespace={namespace}", LIMIT, "--no-hooks")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
