"""helm refuses values that are misspelled, unsafe or cannot work, and states what to set. It accepts similar values."""

from typing import Any

import pytest

from tests.repository.deploy.helms import HELMS
from tests.repository.deploy.test_federated_values import BINDS, CLIENT, ON, OWN_ACCOUNT, PROXY, PUBLIC
from tools.chart.rendering import NAMESPACE, RenderError, render

# Refused values, with a part of the message and similar values that are accepted.
REFUSED: dict[str, tuple[str, str]] = {
    "nmi: {probPort: 8085}": ("probPort", "nmi: {probePort: 8085}"),
    "forceNameSpaced: 'true'": ("forceNameSpaced", "forceNamespaced: 'true'"),
    "rbac: {enable: false}": ("enable", "rbac: {enabled: false}"),
    "rbac: {enabled: 'false'}": ("/rbac/enabled", "rbac: {enabled: 'true'}"),
    "mic: {replicas: two}": ("/mic/replicas", "mic: {replicas: '2'}"),
    "prometheusRule: {runbookBaseURL: wiki}": ("runbookBaseURL", "prometheusRule: {runbookBaseURL: https://wiki/}"),
    "operationMode: Managed": ("/operationMode", "operationMode: managed"),
    "nmi: {probePort: 70000}": ("/nmi/probePort", "nmi: {probePort: 65535}"),
    "nmi: {probePort: http}": ("/nmi/probePort", "nmi: {probePort: '8085'}"),
    "nmi: {routeLocalnet: yes}": ("/nmi/routeLocalnet", "nmi: {routeLocalnet: check}"),
    "nmi: {seccompProfile: runtime/default}": ("seccompProfile", "nmi: {seccompProfile: Unconfined}"),
    "nmi: {extraCapabilities: [cap_sys_admin]}": ("extraCapabilities", "nmi: {extraCapabilities: [DAC_READ_SEARCH]}"),
    "rbac: {secretNamespaces: shop}": ("secretNamespaces", "rbac: {secretNamespaces: [shop]}"),
    "rbac: {secretNamespaces: [Shop]}": ("secretNamespaces", "rbac: {secretNamespaces: [shop-2]}"),
    "rbac: {secretNamespaces: ['*']}": ("secretNamespaces", "rbac: {secretNamespaces: []}"),
    "rbac: {secretNamespaces: [shop, shop]}": ("secretNamespaces", "rbac: {secretNamespaces: null}"),
    "nmi: {failClosed: 'false'}": ("/nmi/failClosed", "nmi: {failClosed: false}"),
    "nmi: {extraArgs: [max-hold=30s]}": ("/nmi/extraArgs", "nmi: {extraArgs: [--max-hold=30s]}"),
    "nmi: {allowedADEndpoints: [http://a/]}": ("/nmi/allowedADEndpoints", "nmi: {allowedADEndpoints: [https://a/]}"),
    "nmi: {redirect: {backend: nat}}": ("redirect", "nmi: {redirect: {backend: nftables}}"),
    "nmi: {redirect: {target: host}}": ("redirect", "nmi: {redirect: {target: node}}"),
    "nmi: {redirect: {mode: node}}": ("redirect", "nmi: {redirect: {target: loopback}}"),
    "mic: {syncRetryDuration: '3600'}": ("/mic/syncRetryDuration", "mic: {syncRetryDuration: 1h}"),
    "mic: {startupTaint: 'nmi-not-ready:NoSchedule'}": ("/mic/startupTaint", "mic: {startupTaint: a.b/nmi-not-ready}"),
    "mic: {clientQps: 0}": ("/mic/clientQps", "mic: {clientQps: 0.5}"),
    "mic: {leaderElection: {names: a}}": ("names", "mic: {leaderElection: {name: a}}"),
    "mic: {podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}}": (
        "/mic/podDisruptionBudget",
        "mic: {podDisruptionBudget: {maxUnavailable: 1}}",
    ),
    "azureIdentities: {a: {type: 4, clientID: c, tenantID: t, binding: {name: b, selector: s}}}": (
        "/azureIdentities/a/type",
        "azureIdentities: {a: {type: 3, clientID: c, tenantID: t, binding: {name: b, selector: s}}}",
    ),
    "azureIdentities: {a: {type: 0, clientID: c, resourceID: r}}": (
        "binding",
        "azureIdentities: {a: {type: 0, clientID: c, resourceID: r, binding: {name: b, selector: s}}}",
    ),
    "caBundle: {configMap: a, key: ../b}": ("key", "caBundle: {configMap: a, key: b}"),
    "caBundle: {hostPath: relative.pem}": ("hostPath", "caBundle: {hostPath: /absolute.pem}"),
    "caBundle: {configmap: a}": ("configmap", "caBundle: {configMap: a}"),
    "mic: {cloudConfig: ''}": (
        "set mic.cloudConfig to the path of azure",
        "{mic: {cloudConfig: ''}, operationMode: managed, forceNamespaced: 'true'}",
    ),
    "podMonitor: {enabled: true, interval: 1min}": ("/podMonitor/interval", "podMonitor: {interval: 1m}"),
    "serviceMonitor: {enabled: true, scrapeTimeout: 1.5m}": (
        "/serviceMonitor/scrapeTimeout",
        "serviceMonitor: {scrapeTimeout: 90s}",
    ),
}

# Values that lack something or contradict each other, and a part of the message.
USELESS: dict[str, str] = {
    "adminsecret: {cloud: AzurePublicCloud}": "adminsecret.subscriptionID is missing",
    "azureIdentities: {a: {type: 0, clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.resourceID is",
    "azureIdentities: {a: {type: 1, clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.tenantID is",
    "azureIdentities: {a: {type: 1, clientID: c, tenantID: t, binding: {name: b, selector: s}}}": "clientPassword is",
    "azureIdentities: {a: {type: '3', clientID: c, binding: {name: b, selector: s}}}": "azureIdentities.a.tenantID is",
    "azureIdentities: {a: {type: 1, clientID: c, tenantID: t, clientPassword: hunter2, binding: {name: b, "
    "selector: s}}}": "clientPassword has no name",
    "test: {selector: demo}": "test.subscriptionID is missing",
    "{operationMode: managed, mic: {startupTaint: a/b}}": "mic.startupTaint is a/b, but managed mode has no MIC",
    "rbac: {pspEnabled: true}": "rbac.pspEnabled is true, but this cluster has no PodSecurityPolicy",
    "{rbac: {enabled: false}, federated: {enabled: true, namespaces: [{name: shop}]}}": (
        "rbac.enabled is false: set it to true"
    ),
    "nmi: {redirect: {backend: cilium}}": "set nmi.handover.enabled to false",
    "nmi: {redirect: {backend: cilium, target: loopback}, handover: {enabled: false}}": "set nmi.redirect.target to",
    "nmi: {redirect: {backend: cilium}, handover: {enabled: false}, bootGuard: true}": "set nmi.bootGuard to false",
    "nmi: {redirect: {backend: cilium}, handover: {enabled: false}, routeLocalnet: set}": (
        "set nmi.routeLocalnet to check"
    ),
    "nmi: {redirect: {backend: cilium}, handover: {enabled: false}, extraArgs: [--nmi-port=80]}": "choose another port",
    "nmi: {redirect: {backend: cilium}, handover: {enabled: false}, extraArgs: [--host-token-types=0]}": (
        "remove the flag"
    ),
    "nmi: {redirect: {backend: none}}": "set nmi.failClosed to false",
    "nmi: {redirect: {backend: none, target: node}, failClosed: false}": "set nmi.redirect.target to auto",
    "nmi: {redirect: {backend: none}, failClosed: false, bootGuard: true}": "set nmi.bootGuard to false",
    "nmi: {redirect: {backend: none}, failClosed: false, routeLocalnet: set}": "set nmi.routeLocalnet to check",
    "nmi: {redirect: {target: node}, routeLocalnet: set}": "set nmi.routeLocalnet to check",
    "nmi: {redirect: {backend: nftables}, extraArgs: [--redirect=nat]}": "remove the flag from nmi.extraArgs",
    "nmi: {redirect: {target: node}, extraArgs: [-redirect-target=loopback]}": "remove the flag from nmi.extraArgs",
    "{podMonitor: {enabled: true, interval: 61s}, prometheusRule: {enabled: true}}": (
        "podMonitor.interval is 61s, too long for the alerts of prometheusRule, which use the last 5 minutes: "
        "set it to 1m or less"
    ),
    "{podMonitor: {enabled: true, interval: 1m1ms}, prometheusRule: {enabled: true}}": (
        "podMonitor.interval is 1m1ms, too long"
    ),
    "{podMonitor: {enabled: true, interval: 2h}, prometheusRule: {enabled: true}}": (
        "podMonitor.interval is 2h, too long"
    ),
    "{serviceMonitor: {enabled: true, interval: 5m}, prometheusRule: {enabled: true}}": (
        "serviceMonitor.interval is 5m, too long"
    ),
    "podMonitor: {enabled: true, interval: 20s}": (
        "podMonitor.scrapeTimeout is 30s, longer than the interval of 20s, and the Prometheus operator ignores such a "
        "monitor: set it to 20s or less"
    ),
    "serviceMonitor: {enabled: true, scrapeTimeout: 1m30s}": (
        "serviceMonitor.scrapeTimeout is 1m30s, longer than the interval of 1m"
    ),
    "{podMonitor: {enabled: true, scrapeTimeout: 2m}, prometheusRule: {enabled: true}}": (
        "scrapeTimeout is 2m, longer than the interval of 1m"
    ),
    "caBundle: {configMap: a, secret: b}": (
        "caBundle has configMap and secret, of which only one can be used: remove the others"
    ),
    "customCloud: {hostPath: /a, environment: {name: AzureStackCloud}}": "customCloud has hostPath and environment",
    "caBundle: {pem: ca.crt}": "caBundle.pem contains no certificate: give the authorities' certificates",
    "caBundle: {pem: '-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----'}": (
        "caBundle.pem contains a private key, which everyone"
    ),
    "{customCloud: {configMap: a}, mic: {customCloud: {enabled: true}}}": (
        "customCloud.configMap and mic.customCloud.enabled both describe the cloud to MIC: remove mic.customCloud"
    ),
    "{customCloud: {configMap: a}, adminsecret: {cloud: AzurePublicCloud, subscriptionID: a, resourceGroup: a, "
    "vmType: vmss, tenantID: a, clientID: a, clientSecret: a}}": (
        "adminsecret.cloud is AzurePublicCloud, so MIC would not use it: set adminsecret.cloud to AzureStackCloud"
    ),
    "customCloud: {environment: {activeDirectoryEndpoint: 'http://a', resourceManagerEndpoint: 'https://b'}}": (
        "customCloud.environment.activeDirectoryEndpoint is not an https URL"
    ),
    "customCloud: {environment: {activeDirectoryEndpoint: 'https://a'}}": (
        "customCloud.environment.resourceManagerEndpoint is not an https URL"
    ),
}


def one(**entry: Any) -> dict[str, Any]:
    return {"enabled": True, "namespaces": [entry]}


def permitted(**changed: Any) -> dict[str, Any]:
    entry = {"clientID": CLIENT, "subjects": [{"namespace": "shop"}], **changed}
    return {**BINDS, "identityBindings": {"permissions": [entry]}}


def proxied(**changed: Any) -> dict[str, Any]:
    return {**BINDS, "identityBindings": {**PROXY, **changed}}


# Values of `federated`, a part of the message, and similar values that are accepted.
FEDERATED: dict[str, tuple[Any, str, Any]] = {
    "no namespaces": ({"enabled": True}, "federated.namespaces is empty: list the namespaces", {"enabled": False}),
    "an empty key": (
        {"enabled": True, "namespaces": None},
        "federated.namespaces is empty",
        {"enabled": False, "namespaces": None},
    ),
    "a namespace twice": (
        {"enabled": True, "namespaces": [{"name": "shop"}, {"name": "shop", "serviceAccounts": ["web"]}]},
        "federated.namespaces lists shop twice: write one entry",
        {"enabled": False, "namespaces": [{"name": "shop"}, {"name": "shop", "serviceAccounts": ["web"]}]},
    ),
    "no service account where some are to be listed": (
        one(name="shop", serviceAccounts=[]),
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
        {**one(name="shop", serviceAccounts=[]), "enabled": False},
    ),
    "a list of service accounts that was commented out": (
        one(name="shop", serviceAccounts=None),
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
        {**one(name="shop", serviceAccounts=None), "enabled": False},
    ),
    "an unknown value": ({**ON, "audiences": [PUBLIC]}, "audiences", {**ON, "audience": PUBLIC}),
    "an unknown key of a namespace": (
        one(name="shop", serviceAccount="web"),
        "serviceAccount",
        one(name="shop", serviceAccounts=["web"]),
    ),
    "a namespace without a name": (one(serviceAccounts=["web"]), "name", one(name="a", serviceAccounts=["web"])),
    "a namespace as text": ({"enabled": True, "namespaces": ["shop"]}, "/federated/namespaces/0", one(name="shop")),
    "a wildcard": (one(name="*"), "/federated/namespaces/0/name", one(name="a")),
    "a name in capitals": (one(name="Shop"), "/federated/namespaces/0/name", one(name="shop-1")),
    "a name with a dot": (one(name="shop.eu"), "/federated/namespaces/0/name", one(name="shop-eu")),
    "a name too long": (one(name="a" * 64), "/federated/namespaces/0/name", one(name="a" * 63)),
    "a wildcard for service accounts": (
        one(name="shop", serviceAccounts=["*"]),
        "/serviceAccounts/0",
        one(name="shop", serviceAccounts=["web.eu"]),
    ),
    "a service account's name too long": (
        one(name="shop", serviceAccounts=["a" * 254]),
        "/serviceAccounts/0",
        one(name="shop", serviceAccounts=["a" * 253]),
    ),
    "a service account twice": (
        one(name="shop", serviceAccounts=["web", "web"]),
        "/serviceAccounts",
        one(name="shop", serviceAccounts=["web", "api"]),
    ),
    "an audience that an API server could have": (
        {**ON, "audience": "https://kubernetes.default.svc"},
        "/federated/audience",
        {**ON, "audience": "api://AzureADTokenExchangeUSGov"},
    ),
    "an audience that ends the expression": (
        {**ON, "audience": 'api://a"] || ["b" == "b'},
        "/federated/audience",
        {**ON, "audience": "api://a.b-c/d_e"},
    ),
    "a switch as text": ({**ON, "enabled": "false"}, "/federated/enabled", ON),
    "another exchange": ({**ON, "exchange": "IdentityBindings"}, "/federated/exchange", BINDS),
    "an address without TLS": (proxied(tokenProxy="http://a"), "/tokenProxy", proxied(tokenProxy="https://a")),
    "an address with a user": (proxied(tokenProxy="https://u@a"), "/tokenProxy", proxied(tokenProxy="https://a:1/b")),
    "an address with a query": (proxied(tokenProxy="https://a?b"), "/tokenProxy", proxied(tokenProxy="https://a/b")),
    "an IPv6 address with a zone": (
        proxied(tokenProxy="https://[fd00::1%eth0]"),
        "/tokenProxy",
        proxied(tokenProxy="https://[fd00::1]:443/prefix"),
    ),
    "a user before an IPv6 address": (
        proxied(tokenProxy="https://u@[fd00::1]"),
        "/tokenProxy",
        proxied(tokenProxy="https://[FD00::1]"),
    ),
    "two authorities": (proxied(caFile="/ca.crt"), "exactly one of caFile and caData", proxied()),
    "no authority": (proxied(caData=""), "exactly one of caFile and caData", proxied(caData="", caFile="/ca.crt")),
    "an authority without a proxy": (proxied(tokenProxy=""), "but no tokenProxy: set tokenProxy", proxied()),
    "a wildcard for identities": (permitted(clientID="*"), "/clientID", permitted()),
    "no subject": (permitted(subjects=[]), "/subjects", permitted()),
    "a wildcard for namespaces": (permitted(subjects=[{"namespace": "*"}]), "/namespace", permitted()),
    "nmi's own service account": (
        permitted(subjects=[{"namespace": NAMESPACE, "serviceAccount": OWN_ACCOUNT}]),
        f"NMI's own service account {NAMESPACE}/{OWN_ACCOUNT} use {CLIENT}",
        permitted(subjects=[{"namespace": NAMESPACE, "serviceAccount": "web"}]),
    ),
    "all service accounts of nmi's namespace": (
        permitted(subjects=[{"namespace": "shop"}, {"namespace": NAMESPACE}]),
        "NMI's own service account",
        permitted(subjects=[{"namespace": "shop", "serviceAccount": OWN_ACCOUNT}, {"namespace": "reports"}]),
    ),
    "an identity twice": (
        {**BINDS, "identityBindings": {"permissions": permitted()["identityBindings"]["permissions"] * 2}},
        "twice: write one entry",
        permitted(),
    ),
}


def refusal(values: Any, helm: str) -> str:
    """Return helm's message about *values*, in one line."""
    with pytest.raises(RenderError) as refused:
        render(given=values, helm=helm)
    return " ".join(str(refused.value).split())


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_values_are_refused_and_similar_correct_ones_are_not(wrong: str, helm: str) -> None:
    message, right = REFUSED[wrong]
    assert message in refusal(wrong, helm)
    assert render(given=right, helm=helm)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", USELESS)
def test_what_cannot_work_is_refused_with_the_next_action(wrong: str, helm: str) -> None:
    told = refusal(wrong, helm)
    assert USELESS[wrong] in told
    assert "hunter2" not in told


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", FEDERATED)
def test_unsafe_federated_values_are_refused_and_similar_safe_ones_are_not(name: str, helm: str) -> None:
    wrong, message, right = FEDERATED[name]
    assert message in refusal({"federated": wrong}, helm)
    assert render(given={"federated": right}, helm=helm)
