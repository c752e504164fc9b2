"""helm refuses values that are misspelled, unsafe or cannot work, and states what to set. It accepts similar values."""

import subprocess

import pytest

from tests.support.chart_objects import HELMS
from tests.support.testplane import up
from tools.chart.rendering import CHART, RenderError, render

# Refused values, with a part of the message and similar values that are accepted.
REFUSED: dict[str, tuple[str, str]] = {
    "image: {repository: mcr.microsoft.com/oss/azure/aad-pod-identity}": (
        "names the Go implementation's images, which do not accept this chart's arguments: remove mic.tag and nmi.tag",
        "image: {repository: registry.example/oss/azure/aad-pod-identity}",
    ),
    "image: {repository: REGISTRY/PATH}": (
        "image.repository is REGISTRY/PATH, which is no registry and path in lower case: set image.repository to the",
        "image: {repository: 'localhost:5000/a_b/aad-pod-identity'}",
    ),
    "image: {repository: mcr.azk8s.cn/aad-pod-identity}": (
        "names the Go implementation's images",
        "image: {repository: registry.example/mcr.azk8s.cn/aad-pod-identity}",
    ),
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
    "image: {repository: ''}": (
        "image.repository is missing: set image.repository to the registry and path to which you pushed this project's "
        "images, for example registry.example/aad-pod-identity (docs/install-on-aks.md, Images, builds and pushes them)"
    ),
    "image:": "image.repository is missing",
    "image: {repository: aad-pod-identity}": (
        "image.repository is aad-pod-identity, a former default, which is a path of Docker Hub that this project does "
        "not own: set image.repository to the registry"
    ),
    "image: {repository: registry.example/a/}": "which is no registry and path in lower case: set image.repository",
    "image: {repository: /aad-pod-identity}": "which is no registry and path in lower case",
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
    "mic: {tag: v1.8.17}": "the tag of image mic is v1.8.17, which names the Go implementation's images",
    "nmi: {tag: v1.7.0}": "the tag of image nmi is v1.7.0, which",
    "customCloud: {environment: {activeDirectoryEndpoint: 'http://a', resourceManagerEndpoint: 'https://b'}}": (
        "customCloud.environment.activeDirectoryEndpoint is not an https URL"
    ),
    "customCloud: {environment: {activeDirectoryEndpoint: 'https://a'}}": (
        "customCloud.environment.resourceManagerEndpoint is not an https URL"
    ),
}


ON = "enabled: true, namespaces: [{name: shop}]"
BINDS = f"{ON}, exchange: identityBindings"
CLIENT = "d3a0c11e-0000-4000-8000-000000000001"
PEM = r'"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"'
TWICE = "namespaces: [{name: shop}, {name: shop, serviceAccounts: [web]}]"


def one_namespace(entry: str) -> str:
    return f"enabled: true, namespaces: [{{{entry}}}]"


def proxied(proxy: str = "https://proxy.example/prefix", authority: str = f"caData: {PEM}") -> str:
    return f"{BINDS}, identityBindings: {{tokenProxy: '{proxy}', {authority}}}"


def permitted(*, client: str = CLIENT, subjects: str = "{namespace: shop}", times: int = 1) -> str:
    entry = f"{{clientID: '{client}', subjects: [{subjects}]}}"
    return f"{BINDS}, identityBindings: {{permissions: [{', '.join([entry] * times)}]}}"


# Values of `federated`, a part of the message, and similar values that are accepted.
FEDERATED: dict[str, tuple[str, str]] = {
    "enabled: true": ("federated.namespaces is empty: list the namespaces", "enabled: false"),
    "enabled: true, namespaces: ": ("federated.namespaces is empty", "enabled: false, namespaces: "),
    f"enabled: true, {TWICE}": ("federated.namespaces lists shop twice: write one entry", f"enabled: false, {TWICE}"),
    one_namespace("name: shop, serviceAccounts: []"): (
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
        "enabled: false, namespaces: [{name: shop, serviceAccounts: []}]",
    ),
    one_namespace("name: shop, serviceAccounts: "): (
        "the serviceAccounts of shop in federated.namespaces are an empty list: name",
        "enabled: false, namespaces: [{name: shop, serviceAccounts: }]",
    ),
    f"{ON}, audiences: ['api://a']": ("audiences", f"{ON}, audience: 'api://a'"),
    one_namespace("name: shop, serviceAccount: web"): (
        "serviceAccount",
        one_namespace("name: shop, serviceAccounts: [web]"),
    ),
    one_namespace("serviceAccounts: [web]"): ("name", one_namespace("name: a, serviceAccounts: [web]")),
    "enabled: true, namespaces: [shop]": ("/federated/namespaces/0", ON),
    one_namespace("name: '*'"): ("/federated/namespaces/0/name", one_namespace("name: a")),
    one_namespace("name: Shop"): ("/federated/namespaces/0/name", one_namespace("name: shop-1")),
    one_namespace("name: shop.eu"): ("/federated/namespaces/0/name", one_namespace("name: shop-eu")),
    one_namespace(f"name: {'a' * 64}"): ("/federated/namespaces/0/name", one_namespace(f"name: {'a' * 63}")),
    one_namespace("name: a, serviceAccounts: ['*']"): (
        "/serviceAccounts/0",
        one_namespace("name: a, serviceAccounts: [web.eu]"),
    ),
    one_namespace(f"name: a, serviceAccounts: [{'a' * 254}]"): (
        "/serviceAccounts/0",
        one_namespace(f"name: a, serviceAccounts: [{'a' * 253}]"),
    ),
    one_namespace("name: a, serviceAccounts: [web, web]"): (
        "/serviceAccounts",
        one_namespace("name: a, serviceAccounts: [web, api]"),
    ),
    # An audience that an API server could have, and one that ends the expression.
    f"{ON}, audience: 'https://kubernetes.default.svc'": ("/federated/audience", f"{ON}, audience: 'api://TokenUSGov'"),
    f"""{ON}, audience: 'api://a"] || ["b" == "b'""": ("/federated/audience", f"{ON}, audience: 'api://a.b-c/d_e'"),
    "enabled: 'false', namespaces: [{name: shop}]": ("/federated/enabled", ON),
    f"{ON}, exchange: IdentityBindings": ("/federated/exchange", BINDS),
    proxied("http://a"): ("/tokenProxy", proxied("https://a")),
    proxied("https://u@a"): ("/tokenProxy", proxied("https://a:1/b")),
    proxied("https://a?b"): ("/tokenProxy", proxied("https://a/b")),
    proxied("https://[fd00::1%eth0]"): ("/tokenProxy", proxied("https://[fd00::1]:443/prefix")),
    proxied("https://u@[fd00::1]"): ("/tokenProxy", proxied("https://[FD00::1]")),
    proxied(authority=f"caData: {PEM}, caFile: /ca.crt"): ("exactly one of caFile and caData", proxied()),
    proxied(authority="caData: ''"): ("exactly one of caFile and caData", proxied(authority="caFile: /ca.crt")),
    proxied(""): ("but no tokenProxy: set tokenProxy", proxied()),
    permitted(client="*"): ("/clientID", permitted()),
    permitted(subjects=""): ("/subjects", permitted()),
    permitted(subjects="{namespace: '*'}"): ("/namespace", permitted()),
    permitted(times=2): ("twice: write one entry", permitted()),
    permitted(subjects="{namespace: podid, serviceAccount: aad-pod-identity-nmi}"): (
        f"NMI's own service account podid/aad-pod-identity-nmi use {CLIENT}",
        permitted(subjects="{namespace: podid, serviceAccount: web}"),
    ),
    permitted(subjects="{namespace: shop}, {namespace: podid}"): (
        "NMI's own service account",
        permitted(subjects="{namespace: shop, serviceAccount: aad-pod-identity-nmi}, {namespace: reports}"),
    ),
}


def refusal(values: str, helm: str) -> str:
    """Return helm's message about *values*, in one line."""
    with pytest.raises(RenderError) as refused:
        render(given=values, helm=helm)
    return " ".join(str(refused.value).split())


@pytest.mark.parametrize("helm", HELMS)
def test_the_chart_itself_names_no_registry(helm: str) -> None:
    """A default, such as a path of Docker Hub, could belong to others."""
    done = subprocess.run(
        [str(up.tool(helm)), "template", str(CHART)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "image.repository is missing: set" in done.stderr


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_values_are_refused_and_similar_correct_ones_are_not(wrong: str, helm: str) -> None:
    message, right = REFUSED[wrong]
    assert message in refusal(wrong, helm)
    assert render(given=right, helm=helm)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", USELESS)
def test_what_cannot_work_is_refused_with_the_next_action(wrong: str, helm: str) -> None:
    message = refusal(wrong, helm)
    assert USELESS[wrong] in message
    assert "hunter2" not in message


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", FEDERATED)
def test_unsafe_federated_values_are_refused_and_similar_safe_ones_are_not(wrong: str, helm: str) -> None:
    message, right = FEDERATED[wrong]
    assert message in refusal(f"federated: {{{wrong}}}", helm)
    assert render(given=f"federated: {{{right}}}", helm=helm)
