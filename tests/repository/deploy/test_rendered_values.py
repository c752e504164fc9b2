"""The intended fields of the rendered objects for single values, of which a golden file shows the present ones only.

A path is the kind and the end of the name of an object, and a field, in whose names ~ is a dot. An element of a list is
chosen by its name, or by its number, and a flag of a command line by its name.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from podidentity_sandbox.certificates import Authority
from tests.support.chart_objects import HELMS
from tools.chart.rendering import Object, render

NMI, CLEANUP = "DaemonSet/nmi spec.template.spec", "DaemonSet/cleanup spec.template.spec"
MIC = "Deployment/mic spec.template.spec"
STRATEGY, READY_SECONDS = "DaemonSet/nmi spec.updateStrategy", "DaemonSet/nmi spec.minReadySeconds"
PORTS = f"{NMI}.containers.nmi.ports"
READINESS = f"{NMI}.containers.nmi.readinessProbe.httpGet.path"
CAPABILITIES = f"{NMI}.containers.nmi.securityContext.capabilities"
CLEANUP_CAPABILITIES = f"{CLEANUP}.initContainers.cleanup.securityContext.capabilities"
QUOTA = "ResourceQuota/priority spec.scopeSelector.matchExpressions"
USER = f"{MIC}.containers.mic.securityContext.runAsUser"

TAINT, ADDONS = ({"key": key, "operator": "Exists"} for key in ("example.com/nmi-not-ready", "CriticalAddonsOnly"))
GUARD = "DaemonSet/nmi metadata.annotations.aadpodidentity~k8s~io/boot-guard"
ARGUMENTS, BOOT_GUARD = f"{NMI}.containers.nmi.args", f"{NMI}.initContainers.boot-guard"
REDIRECT, TARGET = f"{ARGUMENTS}.redirect", f"{ARGUMENTS}.redirect-target"
FAIL_CLOSED, SIGNAL = f"{ARGUMENTS}.fail-closed", f"{ARGUMENTS}.start-signal"
CILIUM_PORT = "CiliumLocalRedirectPolicy/nmi spec.redirectBackend.toPorts.0.port"
CILIUM_DENIAL = "CiliumClusterwideNetworkPolicy/nmi-fail-closed apiVersion"
TYPE_UPGRADE = "ClusterRole/mic-type-upgrade kind"
EGRESS = "NetworkPolicy/mic spec.egress"
POLICY = "ValidatingAdmissionPolicy/federated spec"
AUDIENCES = f"{POLICY}.validations.1.expression"
WEBHOOK = "DaemonSet/nmi spec.template.metadata.labels.azure~workload~identity/use"
WEBHOOK_BINDING = "DaemonSet/nmi spec.template.metadata.annotations.azure~workload~identity/use-identity-binding"
TOKEN_PROXY = f"{NMI}.containers.nmi.env.AZURE_KUBERNETES_TOKEN_PROXY.value"
TEST_POD = "Pod/test spec"
TEST_CLOUD = f"{TEST_POD}.containers.demo.env.AZURE_ENVIRONMENT_FILEPATH.value"

PUBLIC, BINDING = "api://AzureADTokenExchange", "api://AKSIdentityBinding"
ON = "enabled: true, namespaces: [{name: shop}]"
BINDS = f"{ON}, exchange: identityBindings"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CA = Authority().pem
CLOUD = {
    "name": "AzureStackCloud",
    "activeDirectoryEndpoint": "https://login.cloud.example/",
    "resourceManagerEndpoint": "https://management.cloud.example/",
}
TEST = "test: {selector: demo, clientID: demo, subscriptionID: demo, resourceGroup: demo}"
ALERTS = "prometheusRule: {enabled: true}"
SYSTEMS_OWN = {"Secret/mic data.UserAssignedMSIClientID": "", "Secret/mic data.UseMSI": "dHJ1ZQ=="}
OF_CILIUM = "redirect: {backend: cilium}, handover: {enabled: false}"
ADMIN = "cloud: AzureStackCloud, vmType: vmss, " + ", ".join(
    f"{name}: a" for name in ("subscriptionID", "resourceGroup", "tenantID", "clientID", "clientSecret")
)


def read_by_both(name: str, setting: str, volume: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the fields by which NMI and MIC read *file* of a volume. A mount with a subPath would never change."""
    parts = {
        f"volumes.{name}": {"name": name, **volume},
        f"containers.0.{setting}": f"/etc/aad-pod-identity/{file}",
        f"containers.0.volumeMounts.{name}": mount(name, file if "hostPath" in volume else file.partition("/")[0]),
    }
    return {f"{pod}.{part}": expected for pod in (NMI, MIC) for part, expected in parts.items()}


def mount(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": f"/etc/aad-pod-identity/{path}", "readOnly": True}


def bundle(volume: Mapping[str, Any], file: str = "ca/ca.crt") -> dict[str, Any]:
    return read_by_both("ca-bundle", "args.ca-bundle", volume, file)


def cloud(volume: Mapping[str, Any], file: str = "cloud/environment.json") -> dict[str, Any]:
    return read_by_both("custom-cloud", "env.AZURE_ENVIRONMENT_FILEPATH.value", volume, file)


def intervals(kind: str, seconds: str | None) -> dict[str, str | None]:
    endpoints = "endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"
    return {f"{kind}/{program} spec.{endpoints}.0.interval": seconds for program in ("nmi", "mic")}


# The values, and the rendered fields by path; None: the field is absent.
RENDERED: Mapping[str, Mapping[str, Any]] = {
    "": {
        READY_SECONDS: None,
        f"{NMI}.volumes.handover.hostPath.path": "/run/aad-pod-identity",
        f"{NMI}.hostNetwork": True,
        f"{NMI}.priorityClassName": "system-node-critical",
        f"{MIC}.priorityClassName": "system-cluster-critical",
        f"{ARGUMENTS}.handover-socket": "/run/aad-pod-identity/nmi.sock",
        "Pod/redirect-test kind": "Pod",
        CILIUM_DENIAL: None,
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
        STRATEGY: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        READY_SECONDS: 7,
        CILIUM_DENIAL: "cilium.io/v2",
    },
    f"nmi: {{{OF_CILIUM}, extraCapabilities: [DAC_READ_SEARCH]}}": {f"{CAPABILITIES}.add": ["DAC_READ_SEARCH"]},
    f"nmi: {{{OF_CILIUM}, extraArgs: [--nmi-port=4000], prometheusPort: 9099}}": {
        PORTS: [
            {"name": "metrics", "containerPort": 9099, "protocol": "TCP"},
            {"containerPort": 4000, "protocol": "TCP"},
        ],
        CILIUM_PORT: "4000",
        "CiliumLocalRedirectPolicy/nmi-check spec.redirectFrontend.addressMatcher.toPorts.0.port": "4000",
    },
    "{priorityClassQuota: true, mic: {priorityClassName: ''}, nmi: {priorityClassName: ''}}": {
        f"{NMI}.priorityClassName": None,
        f"{MIC}.priorityClassName": None,
        QUOTA: None,
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
    # Backend and target become flags, which the extra arguments replace.
    "nmi: {redirect: {backend: iptables-legacy}}": {REDIRECT: "iptables-legacy", FAIL_CLOSED: "true"},
    "nmi: {redirect: {backend: iptables-nft}}": {REDIRECT: "iptables-nft", FAIL_CLOSED: "true"},
    "nmi: {redirect: {backend: nftables}}": {REDIRECT: "nftables", FAIL_CLOSED: "true"},
    "nmi: {redirect: {target: loopback}}": {TARGET: "loopback", FAIL_CLOSED: "true"},
    "nmi: {redirect: {target: node}}": {TARGET: "node", FAIL_CLOSED: "true"},
    "nmi: {redirect: {target: auto}}": {TARGET: None, REDIRECT: None, FAIL_CLOSED: "true"},
    "nmi: {extraArgs: [--redirect=none]}": {REDIRECT: "none", FAIL_CLOSED: None},
    "nmi: {extraArgs: [--redirect-target=node]}": {TARGET: "node", FAIL_CLOSED: "true"},
    "{nmi: {redirect: {backend: none}, failClosed: false}}": {"Pod/redirect-test kind": None},
    "nmi: {bootGuard: true, extraArgs: [--metadata-ip=169.254.1.1]}": {
        f"{BOOT_GUARD}.args.metadata-ip": "169.254.1.1",
        f"{BOOT_GUARD}.securityContext.capabilities": {"drop": ["ALL"]},
    },
    f"nmi: {{{OF_CILIUM}, failClosed: false}}": {CILIUM_PORT: "2579", CILIUM_DENIAL: None},
    # NMI reaches Azure itself, and in place of IMDS the pods of NMI.
    f"{{networkPolicy: {{enabled: true, egress: [{{ports: [{{port: 443}}]}}]}}, nmi: {{{OF_CILIUM}}}}}": {
        f"{EGRESS}.0.ports.0.port": 443,
        f"{EGRESS}.1.ports.0.port": 2579,
    },
    "networkPolicy: {enabled: true, egress: [{ports: [{port: 443}]}]}": {EGRESS: [{"ports": [{"port": 443}]}]},
    # No host port prevents the second pod of NMI on a node.
    "{podMonitor: {enabled: true}, serviceMonitor: {enabled: true}, nmi: {prometheusPort: 9099}}": {
        PORTS: None,
        "PodMonitor/nmi spec.podMetricsEndpoints.0.port": None,
        "PodMonitor/nmi spec.podMetricsEndpoints.0.relabelings.1.replacement": "$1:9099",
        "Service/nmi-metrics spec.ports.metrics.targetPort": 9099,
    },
    "{podMonitor: {enabled: true}, nmi: {handover: {enabled: false}}}": {
        f"{PORTS}.metrics.containerPort": 9090,
        "PodMonitor/nmi spec.podMetricsEndpoints.0.port": "metrics",
        f"{ARGUMENTS}.handover-socket": None,
        SIGNAL: None,
    },
    "nmi: {micNamespace: mics}": {f"{ARGUMENTS}.MICNamespace": "mics", SIGNAL: "/tmp/started"},
    # Only a MIC that upgrades types has the role for it.
    "mic: {extraArgs: [--enable-type-upgrade=false]}": {TYPE_UPGRADE: None},
    "mic: {extraArgs: [-enable-type-upgrade=F]}": {TYPE_UPGRADE: None},
    "mic: {extraArgs: [--enable-type-upgrade=0]}": {TYPE_UPGRADE: None},
    "mic: {extraArgs: [--enable-type-upgrade=true]}": {TYPE_UPGRADE: "ClusterRole"},
    "mic: {extraArgs: [--syncRetryDuration=10s]}": {TYPE_UPGRADE: "ClusterRole"},
    # Text for numbers and switches, and unused keys of older charts.
    "{installCRDs: false, forceNameSpaced: 'false', podMonitor: {enabled: 'true'}, mic: {replicas: '3'}, "
    "rbac: {enabled: 'true'}}": {
        "Deployment/mic spec.replicas": 3,
        "ServiceAccount/mic kind": "ServiceAccount",
        "PodMonitor/mic kind": "PodMonitor",
    },
    # Federated identities: the policy allows exactly the audience of the exchange.
    f"federated: {{{ON}, audience: {PUBLIC}USGov}}": {
        AUDIENCES: f'has(object.spec.audiences) && object.spec.audiences == ["{PUBLIC}USGov"]',
        f"{ARGUMENTS}.federated-identities": "true",
        f"{ARGUMENTS}.federated-audience": f"{PUBLIC}USGov",
        f"{ARGUMENTS}.federated-exchange-annotation": None,
        WEBHOOK: None,
        WEBHOOK_BINDING: None,
    },
    f"federated: {{{ON}, exchangeAnnotation: true}}": {
        AUDIENCES: "has(object.spec.audiences) && "
        f'["{PUBLIC}","{BINDING}"].exists(audience, object.spec.audiences == [audience])',
        f"{ARGUMENTS}.federated-audience": PUBLIC,
        f"{ARGUMENTS}.federated-exchange-annotation": "true",
    },
    f"{{operationMode: managed, federated: {{{ON}}}}}": {
        f"{NMI}.serviceAccountName": "aad-pod-identity-nmi",
        "RoleBinding/federated subjects": [
            {"kind": "ServiceAccount", "name": "aad-pod-identity-nmi", "namespace": "podid"}
        ],
        f"{POLICY}.matchConditions.asked-by-nmi.expression": (
            'request.userInfo.username == "system:serviceaccount:podid:aad-pod-identity-nmi"'
        ),
    },
    # AKS's webhook changes NMI's pods for identity bindings only without an explicit proxy.
    f"{{federated: {{{BINDS}}}, nmi: {{podLabels: {{azure.workload.identity/use: 'true', other: x}}}}}}": {
        AUDIENCES: f'has(object.spec.audiences) && object.spec.audiences == ["{BINDING}"]',
        WEBHOOK: "true",
        WEBHOOK_BINDING: "true",
        "DaemonSet/nmi spec.template.metadata.labels.other": "x",
        TOKEN_PROXY: None,
    },
    f"federated: {{{BINDS}, identityBindings: {{tokenProxy: https://proxy.example/prefix, serverName: name.ests.aks, "
    f"caData: {json.dumps(PEM)}}}}}": {
        WEBHOOK: None,
        WEBHOOK_BINDING: None,
        TOKEN_PROXY: "https://proxy.example/prefix",
        f"{NMI}.containers.nmi.env.AZURE_KUBERNETES_SNI_NAME.value": "name.ests.aks",
        f"{NMI}.containers.nmi.env.AZURE_KUBERNETES_CA_DATA.value": PEM,
        f"{NMI}.containers.nmi.env.AZURE_KUBERNETES_CA_FILE": None,
    },
    f"federated: {{{BINDS}, identityBindings: {{tokenProxy: 'https://10.0.0.1:443', caFile: /ca.crt}}}}": {
        TOKEN_PROXY: "https://10.0.0.1:443",
        f"{NMI}.containers.nmi.env.AZURE_KUBERNETES_CA_FILE.value": "/ca.crt",
    },
    # NMI, MIC and the pod of `helm test` read the CA certificates and the description of the cloud from their sources.
    "caBundle: {configMap: corporate}": bundle({"configMap": {"name": "corporate"}}),
    "caBundle: {configMap: corporate, key: all.pem}": bundle({"configMap": {"name": "corporate"}}, "ca/all.pem"),
    "caBundle: {hostPath: /etc/ssl/all.pem}": bundle({"hostPath": {"path": "/etc/ssl/all.pem", "type": "File"}}),
    f"caBundle: {{pem: {json.dumps(CA)}}}": {
        **bundle({"configMap": {"name": "aad-pod-identity-ca-bundle"}}),
        "ConfigMap/ca-bundle data": {"ca.crt": CA},
    },
    "customCloud: {configMap: stack, key: cloud}": cloud({"configMap": {"name": "stack"}}, "cloud/cloud"),
    "customCloud: {hostPath: /etc/stack.json}": cloud({"hostPath": {"path": "/etc/stack.json", "type": "File"}}),
    "{operationMode: managed, forceNamespaced: 'true', caBundle: {secret: corporate}, "
    "customCloud: {configMap: stack}}": {
        f"{ARGUMENTS}.ca-bundle": "/etc/aad-pod-identity/ca/ca.crt",
        f"{NMI}.containers.nmi.env.AZURE_ENVIRONMENT_FILEPATH.value": "/etc/aad-pod-identity/cloud/environment.json",
    },
    f"{{{TEST}, caBundle: {{secret: corporate}}}}": {
        **bundle({"secret": {"secretName": "corporate"}}),
        f"{TEST_POD}.volumes": [{"name": "ca-bundle", "secret": {"secretName": "corporate"}}],
        f"{TEST_POD}.containers.demo.volumeMounts": [mount("ca-bundle", "ca")],
        f"{TEST_POD}.containers.demo.args.ca-bundle": "/etc/aad-pod-identity/ca/ca.crt",
        TEST_CLOUD: None,
    },
    f"{{{TEST}, customCloud: {{environment: {json.dumps(CLOUD)}}}}}": {
        **cloud({"configMap": {"name": "aad-pod-identity-cloud"}}),
        f"{TEST_POD}.volumes": [{"name": "custom-cloud", "configMap": {"name": "aad-pod-identity-cloud"}}],
        f"{TEST_POD}.containers.demo.volumeMounts": [mount("custom-cloud", "cloud")],
        f"{TEST_POD}.containers.demo.args.ca-bundle": None,
        TEST_CLOUD: "/etc/aad-pod-identity/cloud/environment.json",
    },
    f"{{{TEST}, caBundle: {{hostPath: /ca.crt}}, customCloud: {{configMap: stack}}}}": {
        f"{TEST_POD}.volumes": [
            {"name": "ca-bundle", "hostPath": {"path": "/ca.crt", "type": "File"}},
            {"name": "custom-cloud", "configMap": {"name": "stack"}},
        ],
        f"{TEST_POD}.containers.demo.volumeMounts": [mount("ca-bundle", "ca/ca.crt"), mount("custom-cloud", "cloud")],
        f"{TEST_POD}.containers.demo.args.ca-bundle": "/etc/aad-pod-identity/ca/ca.crt",
        TEST_CLOUD: "/etc/aad-pod-identity/cloud/environment.json",
    },
    # The interval of a monitor is short enough for the alerts.
    "podMonitor: {enabled: true, interval: 1h30m}": intervals("PodMonitor", "1h30m"),
    f"{{podMonitor: {{enabled: true}}, {ALERTS}}}": intervals("PodMonitor", "1m"),
    f"{{podMonitor: {{enabled: true, interval: 30s}}, {ALERTS}}}": intervals("PodMonitor", "30s"),
    f"{{podMonitor: {{enabled: true, interval: 60000ms}}, {ALERTS}}}": intervals("PodMonitor", "60000ms"),
    f"{{podMonitor: {{enabled: true, interval: ''}}, {ALERTS}}}": intervals("PodMonitor", None),
    f"{{serviceMonitor: {{enabled: true}}, {ALERTS}}}": intervals("ServiceMonitor", "1m"),
    "serviceMonitor: {enabled: true, interval: 15s, scrapeTimeout: 15s}": intervals("ServiceMonitor", "15s"),
    "serviceMonitor: {enabled: true, interval: 15s, scrapeTimeout: ''}": intervals("ServiceMonitor", "15s"),
}

# Values that change nothing, and other values or "".
WITHOUT_EFFECT = {
    "federated: {namespaces: [{name: shop}], audience: api://other}": "",
    "federated:": "",
    f"federated: {{{BINDS}, enabled: false}}": "",
    f"federated: {{{ON}, exchange: direct, identityBindings: {{permissions: "
    "[{clientID: d3a0c11e-0000-4000-8000-000000000001, subjects: [{namespace: shop}]}]}}": f"federated: {{{ON}}}",
    # reference: charts/aad-pod-identity/templates/mic-deployment.yaml reads cloudConfig without adminsecret only.
    f"{{adminsecret: {{{ADMIN}}}, mic: {{cloudConfig: ''}}}}": f"adminsecret: {{{ADMIN}}}",
}


def field(objects: list[Object], where: str) -> Any:
    """Return the field at this path; None if the object or the field is absent."""
    title, _, path = where.partition(" ")
    kind, _, name = title.partition("/")
    current: Any = next(
        (
            manifest
            for manifest in objects
            if manifest["kind"] == kind and manifest["metadata"]["name"].endswith(f"aad-pod-identity-{name}")
        ),
        None,
    )
    for part in path.split("."):
        if isinstance(current, list):
            current = {key: value for number, element in enumerate(current) for key, value in keys_of(number, element)}
        current = (current or {}).get(part.replace("~", "."))
    return current


def keys_of(number: int, element: Any) -> list[tuple[str, Any]]:
    """Return the keys of an element of a list, and its value for each."""
    if isinstance(element, str):
        flag, _, value = element.removeprefix("--").partition("=")
        return [(str(number), element), (flag, value)]
    return [(key, element) for key in (str(number), element.get("name", ""))]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", RENDERED)
def test_the_values_become_these_fields(values: str, helm: str) -> None:
    objects = render(given=values, helm=helm)
    assert {where: field(objects, where) for where in RENDERED[values]} == RENDERED[values]


def test_a_field_that_is_absent_with_some_values_exists_with_others() -> None:
    """A misspelled path would be absent, too."""
    rows = [(where, expected) for fields in RENDERED.values() for where, expected in fields.items()]
    present = [where for where, expected in rows if expected is not None]
    assert all(any(path.startswith(where) for path in present) for where, expected in rows if expected is None)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", WITHOUT_EFFECT)
def test_these_values_change_nothing(values: str, helm: str) -> None:
    assert render(given=values, helm=helm) == render(given=WITHOUT_EFFECT[values], helm=helm)


def test_the_startup_probe_waits_for_the_signal_that_nmi_gives() -> None:
    """Two NMIs of a node fit next to each other."""
    objects = render()
    nmi = field(objects, f"{NMI}.containers.nmi")
    *_, path, seconds = nmi["startupProbe"]["exec"]["command"]
    assert field(objects, SIGNAL) == path
    assert int(seconds) < nmi["startupProbe"]["timeoutSeconds"]
    (mount,) = (
        volume_mount for volume_mount in nmi["volumeMounts"] if volume_mount["mountPath"] == path.rpartition("/")[0]
    )
    volume = field(objects, f"{NMI}.volumes.{mount['name']}")
    assert "emptyDir" in volume, "the NMIs of a node must not share the signal"


def test_a_changed_inline_description_of_the_cloud_restarts_the_programs() -> None:
    checksums = {}
    for described in (CLOUD, {**CLOUD, "tokenAudience": "https://other"}):
        objects = render(given={"customCloud": {"environment": described}})
        for workload in ("DaemonSet/nmi", "Deployment/mic"):
            checksum = field(objects, f"{workload} spec.template.metadata.annotations.checksum/cloud")
            checksums[workload, len(described)] = checksum
    assert None not in checksums.values()
    assert len(set(checksums.values())) == 2
