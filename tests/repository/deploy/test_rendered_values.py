"""The intended fields of the rendered objects for single values, of which a golden file shows the present ones only.

A path is the kind and the end of the name of an object, and a field, in whose names ~ is a dot. An element of a list is
chosen by its name, or by its number.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tools.chart.rendering import Object, render

NMI, CLEANUP = "DaemonSet/nmi spec.template.spec", "DaemonSet/cleanup spec.template.spec"
MIC = "Deployment/mic spec.template.spec"
STRATEGY, READY_SECONDS = "DaemonSet/nmi spec.updateStrategy", "DaemonSet/nmi spec.minReadySeconds"
PORTS = f"{NMI}.containers.nmi.ports"
READINESS = f"{NMI}.containers.nmi.readinessProbe.httpGet.path"
OWN_ADDRESS = f"{NMI}.containers.nmi.env.NODE_IP.valueFrom.fieldRef.fieldPath"
CAPABILITIES = f"{NMI}.containers.nmi.securityContext.capabilities"
CLEANUP_CAPABILITIES = f"{CLEANUP}.initContainers.cleanup.securityContext.capabilities"
QUOTA = "ResourceQuota/priority spec.scopeSelector.matchExpressions"
USER = f"{MIC}.containers.mic.securityContext.runAsUser"

SURGE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
TAINT, ADDONS = ({"key": key, "operator": "Exists"} for key in ("example.com/nmi-not-ready", "CriticalAddonsOnly"))
GUARD = "DaemonSet/nmi metadata.annotations.aadpodidentity~k8s~io/boot-guard"
SYSTEMS_OWN = {"Secret/mic data.UserAssignedMSIClientID": "", "Secret/mic data.UseMSI": "dHJ1ZQ=="}
OF_CILIUM = "redirect: {backend: cilium}, handover: {enabled: false}"
ADMIN = "cloud: AzureStackCloud, vmType: vmss, " + ", ".join(
    f"{name}: a" for name in ("subscriptionID", "resourceGroup", "tenantID", "clientID", "clientSecret")
)

# The values, and the rendered fields by path; None: the field is absent.
RENDERED: Mapping[str, Mapping[str, Any]] = {
    "": {
        STRATEGY: SURGE,
        READY_SECONDS: None,
        f"{NMI}.volumes.handover.hostPath": {"path": "/run/aad-pod-identity", "type": "DirectoryOrCreate"},
        READINESS: "/healthz?readiness",  # the only page of an NMI of the Go implementation
        f"{NMI}.hostNetwork": True,
        f"{NMI}.dnsPolicy": "ClusterFirstWithHostNet",
        OWN_ADDRESS: "status.hostIP",
        CAPABILITIES: {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        f"{NMI}.priorityClassName": "system-node-critical",
        f"{MIC}.priorityClassName": "system-cluster-critical",
        QUOTA: None,
        f"{MIC}.tolerations": None,
    },
    # The old NMI ends first.
    "nmi: {handover: {enabled: false}}": {
        STRATEGY: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        READY_SECONDS: None,
        READINESS: "/readyz",
        f"{NMI}.volumes.handover": None,
        f"{NMI}.containers.nmi.startupProbe.httpGet.path": "/healthz",
    },
    "nmi: {minReadySeconds: 30}": {READY_SECONDS: 30},
    "nmi: {updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 2}}}": {
        STRATEGY: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}
    },
    "nmi: {updateStrategy: {type: OnDelete}}": {STRATEGY: {"type": "OnDelete"}},
    # NMI has a network of its own, changes no node, and a new one is ready before the old one stops.
    f"nmi: {{{OF_CILIUM}, minReadySeconds: 7}}": {
        f"{NMI}.hostNetwork": None,
        f"{NMI}.dnsPolicy": "ClusterFirst",
        OWN_ADDRESS: "status.podIP",
        CAPABILITIES: {"drop": ["ALL"]},
        PORTS: [{"containerPort": 2579, "protocol": "TCP"}],
        STRATEGY: SURGE,
        READY_SECONDS: 7,
    },
    f"nmi: {{{OF_CILIUM}, extraCapabilities: [DAC_READ_SEARCH]}}": {f"{CAPABILITIES}.add": ["DAC_READ_SEARCH"]},
    f"nmi: {{{OF_CILIUM}, extraArgs: [--nmi-port=4000], prometheusPort: 9099}}": {
        PORTS: [
            {"name": "metrics", "containerPort": 9099, "protocol": "TCP"},
            {"containerPort": 4000, "protocol": "TCP"},
        ]
    },
    "{priorityClassQuota: true, mic: {priorityClassName: ''}, nmi: {priorityClassName: ''}}": {
        f"{NMI}.priorityClassName": None,
        f"{MIC}.priorityClassName": None,
        QUOTA: None,
    },
    "priorityClassQuota: true": {
        f"{QUOTA}.0.values": ["system-cluster-critical", "system-node-critical"],
        "ResourceQuota/priority metadata.namespace": "podid",
    },
    "{priorityClassQuota: true, operationMode: managed}": {f"{QUOTA}.0.values": ["system-node-critical"]},
    "{priorityClassQuota: true, mic: {priorityClassName: mine}}": {
        f"{QUOTA}.0.values": ["mine", "system-node-critical"]
    },
    "{priorityClassQuota: true, mic: {priorityClassName: system-node-critical}}": {
        f"{QUOTA}.0.values": ["system-node-critical"]
    },
    # Both can run if all nodes have the start-up taint, so that they can remove it.
    "mic: {startupTaint: example.com/nmi-not-ready}": {
        f"{MIC}.tolerations": [TAINT],
        f"{NMI}.tolerations": [{"operator": "Exists"}],
    },
    "{mic: {startupTaint: example.com/nmi-not-ready, tolerations: [{key: CriticalAddonsOnly, operator: Exists}]}, "
    "nmi: {tolerations: [{key: CriticalAddonsOnly, operator: Exists}]}}": {
        f"{MIC}.tolerations": [ADDONS, TAINT],
        f"{NMI}.tolerations": [ADDONS, TAINT],
    },
    "{mic: {tolerations: [{key: CriticalAddonsOnly, operator: Exists}]}, "
    "nmi: {tolerations: [{key: CriticalAddonsOnly, operator: Exists}]}}": {
        f"{MIC}.tolerations": [ADDONS],
        f"{NMI}.tolerations": [ADDONS],
    },
    # The boot guard is removed after the release also without fail-closed.
    "nmi: {bootGuard: true, failClosed: false}": {
        "DaemonSet/cleanup metadata.namespace": "podid",
        GUARD: "install",  # by which an upgrade detects that it has to remove it
    },
    "nmi: {failClosed: false}": {"DaemonSet/cleanup metadata.namespace": None, GUARD: None},
    # The Go implementation's empty tolerations leave no node without NMI.
    "nmi: {tolerations: []}": {
        f"{NMI}.tolerations": [{"operator": "Exists"}],
        f"{CLEANUP}.tolerations": [{"operator": "Exists"}],
    },
    # The system's own managed identity has no client id.
    f"adminsecret: {{{ADMIN}, useMSI: true}}": SYSTEMS_OWN,
    f"adminsecret: {{{ADMIN}, useMSI: true, userAssignedMSIClientID: }}": SYSTEMS_OWN,
    # MIC is root only where it reads files of the node.
    f"{{adminsecret: {{{ADMIN}}}, caBundle: {{configMap: corporate}}, customCloud: {{configMap: stack}}}}": {
        USER: 65532
    },
    f"{{adminsecret: {{{ADMIN}}}, caBundle: {{hostPath: /etc/ssl/all.pem}}}}": {USER: 0},
    f"{{adminsecret: {{{ADMIN}}}, customCloud: {{hostPath: /etc/stack.json}}}}": {USER: 0},
    # NMI's former profile and capabilities.
    "nmi: {seccompProfile: Unconfined, extraCapabilities: [DAC_READ_SEARCH]}": {
        f"{NMI}.securityContext.seccompProfile": {"type": "Unconfined"},
        f"{CLEANUP}.securityContext.seccompProfile": {"type": "Unconfined"},
        f"{CAPABILITIES}.add": ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"],
        f"{CLEANUP_CAPABILITIES}.add": ["DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW"],
    },
}


def field(objects: list[Object], where: str) -> Any:
    """Return the field at this path; None if the object or the field is absent."""
    title, _, path = where.partition(" ")
    kind, _, name = title.partition("/")
    found: Any = next(
        (one for one in objects if one["kind"] == kind and one["metadata"]["name"] == f"aad-pod-identity-{name}"), None
    )
    for part in path.split("."):
        if isinstance(found, list):
            found = {one.get("name", str(number)): one for number, one in enumerate(found)}
        found = (found or {}).get(part.replace("~", "."))
    return found


@pytest.mark.parametrize("values", RENDERED)
def test_the_values_become_these_fields(values: str) -> None:
    objects = render(given=values)
    assert {where: field(objects, where) for where in RENDERED[values]} == RENDERED[values]


def test_a_field_that_is_absent_with_some_values_exists_with_others() -> None:
    """A misspelled path would be absent, too."""
    rows = [(where, expected) for fields in RENDERED.values() for where, expected in fields.items()]
    present = [where for where, expected in rows if expected is not None]
    assert all(any(each.startswith(where) for each in present) for where, expected in rows if expected is None)
