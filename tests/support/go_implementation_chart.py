"""A chart with the names, labels and selectors of the Go implementation's chart 4.1.18.

Without images of the programs it has no more. With them it also has what the programs need to run: their flags,
environment, mounts, capabilities and rights, with the default values of that chart.

reference: templates/_helper.tpl, mic-deployment.yaml, nmi-daemonset.yaml, mic-clusterrole.yaml of chart 4.1.18.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

VALUES: Final = Path(__file__).with_name("go_implementation_values.yaml")
"""The values.yaml of that chart, read as one."""
GROUP = "rbac.authorization.k8s.io"
CLOUD_CONFIG: Final = "/etc/kubernetes/azure.json"
CLOUD: Final = "/etc/kubernetes/akscustom.json"
"""The description of a cloud that is none of Azure's, which the chart mounts from the node."""
KUBELET_CONFIG: Final = "/etc/default/kubelet"
MIC_PROBE_PORT: Final = 8080
NMI_PROBE_PORT: Final = 8085
MIC_FLAGS: Final = (f"--cloudconfig={CLOUD_CONFIG}", "--logtostderr")
NMI_FLAGS: Final = (
    "--node=$(NODE_NAME)",
    f"--http-probe-port={NMI_PROBE_PORT}",
    "--enableScaleFeatures=true",
    "--metadata-header-required=true",
    "--operation-mode=standard",
    f"--kubelet-config={KUBELET_CONFIG}",
)


@dataclass(frozen=True, slots=True)
class ProgramImages:
    """The names of the images of the Go implementation's programs."""

    nmi: str
    mic: str


def write_chart(folder: Path, *, release: str = "pi", programs: ProgramImages | None = None) -> Path:
    """Write the chart for a release of this name into a directory of *folder*. Return the chart's directory.

    Without *programs*, the image of both has the name `theirs`, and takes no flags.
    """
    chart = folder / "old" / "aad-pod-identity"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: aad-pod-identity\nversion: 4.1.18\nappVersion: 1.8.17\n")
    (chart / "templates" / "all.yaml").write_text(yaml.safe_dump_all(_objects(release, programs)))
    return chart


def _labels(release: str) -> dict[str, str]:
    chart = {"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "aad-pod-identity-4.1.18"}
    return {**_selectors(release), **chart}


def _selectors(release: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "aad-pod-identity", "app.kubernetes.io/instance": release}


def _workload(release: str, pod: dict[str, Any], kind: str, part: str, **more: Any) -> dict[str, Any]:
    component = {"app.kubernetes.io/component": part}
    spec = {
        "selector": {"matchLabels": {**_selectors(release), **component}},
        "template": {
            "metadata": {"labels": {**_labels(release), **component}},
            "spec": {"serviceAccountName": f"aad-pod-identity-{part}", **pod},
        },
        **more,
    }
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _metadata(release, part), "spec": spec}


def _metadata(release: str, part: str) -> dict[str, Any]:
    return {
        "name": f"aad-pod-identity-{part}",
        "labels": {**_labels(release), "app.kubernetes.io/component": part},
    }


def _variable(name: str, field: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def _with_files(container: dict[str, Any], *, read_only: bool, **files: tuple[str, str]) -> dict[str, Any]:
    """Return a pod's specification with *container* and files of the node: name -> path and type."""
    mounts = [{"name": name, "mountPath": path, "readOnly": read_only} for name, (path, _) in files.items()]
    volumes = [{"name": name, "hostPath": {"path": path, "type": kind}} for name, (path, kind) in files.items()]
    return {"containers": [{**container, "volumeMounts": mounts}], "volumes": volumes}


def _probe(port: int) -> dict[str, Any]:
    return {"httpGet": {"path": "/healthz", "port": port}, "initialDelaySeconds": 10, "periodSeconds": 5}


def _mic_pod(image: str) -> dict[str, Any]:
    restricted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    security = {"runAsUser": 0, **restricted, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "mic",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(MIC_FLAGS),
        "env": [
            _variable("MIC_POD_NAMESPACE", "metadata.namespace"),
            {"name": "AZURE_ENVIRONMENT_FILEPATH", "value": CLOUD},
        ],
        "securityContext": security,
        "livenessProbe": _probe(MIC_PROBE_PORT),
    }
    return _with_files(container, read_only=True, kubeconfig=(CLOUD_CONFIG, "File"), cloud=(CLOUD, "File"))


def _nmi_pod(image: str) -> dict[str, Any]:
    added = ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"]
    container = {
        "name": "nmi",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(NMI_FLAGS),
        "env": [_variable("HOST_IP", "status.podIP"), _variable("NODE_NAME", "spec.nodeName")],
        "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": added}},
        "livenessProbe": _probe(NMI_PROBE_PORT),
    }
    files = {"iptableslock": ("/run/xtables.lock", "FileOrCreate"), "kubelet": (KUBELET_CONFIG, "FileOrCreate")}
    pod = _with_files(container, read_only=False, **files)
    return {**pod, "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}


def _rights(part: str, programs: ProgramImages | None) -> list[dict[str, Any]]:
    """Return the rules of a program's role: those that an upgrade must remove, and with *programs* all others."""

    def rule(verbs: str, *resources: str, group: str = "") -> dict[str, Any]:
        return {"apiGroups": [group], "resources": list(resources), "verbs": verbs.split()}

    rules = [rule("*", "*", group="aadpodidentity.k8s.io")]
    if part == "mic":
        rules.append(rule("create get update", "endpoints"))
    if programs is None:
        return rules
    rules.append(rule("get list watch", "pods", "nodes"))
    if part == "nmi":
        return [*rules, rule("get", "secrets")]
    definitions = rule("get list watch", "customresourcedefinitions", group="apiextensions.k8s.io")
    return [*rules, rule("create patch", "events"), rule("create get update", "configmaps"), definitions]


def _objects(release: str, programs: ProgramImages | None) -> list[dict[str, Any]]:
    mic, nmi = ({"containers": [{"name": part, "image": "theirs"}]} for part in ("mic", "nmi"))
    if programs is not None:
        mic, nmi = _mic_pod(programs.mic), _nmi_pod(programs.nmi)
    made = [
        _workload(release, mic, "Deployment", "mic", replicas=2),
        _workload(release, nmi, "DaemonSet", "nmi"),
    ]
    for part in ("mic", "nmi"):
        meta = _metadata(release, part)
        made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        rules = _rights(part, programs)
        made.append({"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules})
        role = {"apiGroup": GROUP, "kind": "ClusterRole", "name": meta["name"]}
        account = {"kind": "ServiceAccount", "name": meta["name"], "namespace": "{{ .Release.Namespace }}"}
        binding = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": meta}
        made.append({**binding, "roleRef": role, "subjects": [account]})
    exception = {"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzurePodIdentityException"}
    spec = {"podLabels": {"app": "mic"}}
    made.append({**exception, "metadata": {"name": "mic", "labels": _labels(release)}, "spec": spec})
    return made
