"""A chart with the names, labels and selectors of the Go implementation's chart 4.1.18, and no more.

reference: templates/_helper.tpl, mic-deployment.yaml, nmi-daemonset.yaml, mic-clusterrole.yaml of chart 4.1.18.
"""

from pathlib import Path
from typing import Any

import yaml

GROUP = "rbac.authorization.k8s.io"


def write_chart(folder: Path, *, release: str = "pi") -> Path:
    """Write the chart for a release of this name into a directory of *folder*. Return the chart's directory."""
    chart = folder / "old" / "aad-pod-identity"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: aad-pod-identity\nversion: 4.1.18\nappVersion: 1.8.17\n")
    (chart / "templates" / "all.yaml").write_text(yaml.safe_dump_all(_objects(release)))
    return chart


def _labels(release: str) -> dict[str, str]:
    return {
        **_selectors(release),
        "app.kubernetes.io/managed-by": "Helm",
        "helm.sh/chart": "aad-pod-identity-4.1.18",
    }


def _selectors(release: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/instance": release}


def _workload(release: str, kind: str, part: str, **more: Any) -> dict[str, Any]:
    component = {"app.kubernetes.io/component": part}
    pod = {"serviceAccountName": f"aad-pod-identity-{part}", "containers": [{"name": part, "image": "theirs"}]}
    spec = {
        "selector": {"matchLabels": {**_selectors(release), **component}},
        "template": {"metadata": {"labels": {**_labels(release), **component}}, "spec": pod},
        **more,
    }
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _metadata(release, part), "spec": spec}


def _metadata(release: str, part: str) -> dict[str, Any]:
    return {
        "name": f"aad-pod-identity-{part}",
        "labels": {**_labels(release), "app.kubernetes.io/component": part},
    }


def _objects(release: str) -> list[dict[str, Any]]:
    made = [_workload(release, "Deployment", "mic", replicas=2), _workload(release, "DaemonSet", "nmi")]
    for part in ("mic", "nmi"):
        meta = _metadata(release, part)
        made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        wide: list[dict[str, Any]] = [{"apiGroups": ["aadpodidentity.k8s.io"], "resources": ["*"], "verbs": ["*"]}]
        if part == "mic":
            wide.append({"apiGroups": [""], "resources": ["endpoints"], "verbs": ["create", "get", "update"]})
        made.append({"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": meta, "rules": wide})
        role = {"apiGroup": GROUP, "kind": "ClusterRole", "name": meta["name"]}
        account = {"kind": "ServiceAccount", "name": meta["name"], "namespace": "{{ .Release.Namespace }}"}
        binding = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": meta}
        made.append({**binding, "roleRef": role, "subjects": [account]})
    exception = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException"}
    spec = {"podLabels": {"app": "mic"}}
    made.append({**exception, "metadata": {"name": "mic", "labels": _labels(release)}, "spec": spec})
    return made
