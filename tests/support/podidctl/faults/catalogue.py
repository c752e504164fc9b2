"""Faults of the table in docs/troubleshooting.md, and the steps that inject them into a sandbox or a real node.

Each function prepares the objects, makes one thing wrong, and returns the request of the pod that shows it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from podidentity.azure.federation import DIRECT_AUDIENCE, Exchange
from podidentity.azure.identity_permissions import permission_binding, permission_role
from podidentity.resources import EXCHANGE_ANNOTATION
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.daemons import ACCOUNTS
from podidentity_sandbox.directory import FederatedCredential, ManagedIdentity, ServicePrincipal
from tests.support.identity_requests import binding, exception, identity, secret
from tests.support.podidctl.faults.places import POD, Place, PodRequest

LABEL: Final = {"aadpodidbinding": POD}
WRONG_CLIENT: Final = "00000000-0000-4000-8000-0000000000ff"

_RBAC: Final = "rbac.authorization.k8s.io"
TOKEN_REQUESTS: Final[tuple[Mapping[str, Any], ...]] = (
    {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": "request-tokens", "namespace": "default"},
        "rules": [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}],
    },
    {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "request-tokens", "namespace": "default"},
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": "request-tokens"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNTS["nmi"], "namespace": "default"}],
    },
)
"""What lets NMI request tokens of service accounts, as the chart's `federated.namespaces` does."""

_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
DEPLOYMENTS: Final[Mapping[str, Any]] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "deployments.apps"},
    "spec": {
        "group": "apps",
        "scope": "Namespaced",
        "names": {"kind": "Deployment", "plural": "deployments"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _ANYTHING}}],
    },
}
"""The sandbox's API server has no Deployments of its own."""

Inject = Callable[[Place], Awaitable[PodRequest]]


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    text: str
    inject: Inject
    link: str
    """The first broken link of `explain pod`."""
    checks: tuple[str, ...]
    """The checks of `doctor` with a warning or a problem."""
    response_on_node: str = ""
    """The pod's response on a real node, if it is another one there."""
    on_node: bool = True
    """Whether it is also tested on a real node."""

    @property
    def id(self) -> str:
        return self.inject.__name__

    @property
    def tested(self) -> str:
        """The places of the tests, as the table states them."""
        node_response = f" (there: {self.response_on_node})" if self.response_on_node else ""
        return f"sandbox{f', node{node_response}' if self.on_node else ''}"


FAULTS: Final[list[Fault]] = []


def fault(
    text: str, link: str, *checks: str, response_on_node: str = "", on_node: bool = True
) -> Callable[[Inject], Inject]:
    """Add the decorated function to FAULTS."""

    def add(inject: Inject) -> Inject:
        FAULTS.append(Fault(text, inject, link, checks, response_on_node, on_node))
        return inject

    return add


async def _managed(place: Place, *, selector: str = POD, **spec: Any) -> ManagedIdentity:
    """Create the identity on Azure, its AzureIdentity with changes of *spec*, and the binding."""
    managed = await _identity_on_azure(place)
    usual: dict[str, Any] = {"type": 0, "resourceID": managed.resource_id, "clientID": managed.client_id}
    await place.apply(identity(POD, **(usual | spec)))
    await place.apply(binding(POD, selector))
    return managed


async def _identity_on_azure(place: Place) -> ManagedIdentity:
    return await place.on_azure(lambda azure: azure.directory.add_identity(identity_id(place.identity)))


async def _bound_pod(place: Place) -> None:
    """Create the identity, its binding and the pod. Return once MIC has assigned the identity."""
    await _managed(place)
    await place.run_pod(LABEL)
    await place.until_assigned()


async def _principal(place: Place, data: Mapping[str, bytes] | None = None, **spec: Any) -> ServicePrincipal:
    """Create a service principal, its AzureIdentity with changes of *spec*, the binding and the Secret."""
    principal = await place.on_azure(lambda azure: azure.directory.add_principal())
    usual: dict[str, Any] = {
        "type": 1,
        "tenantID": principal.tenant_id,
        "clientID": principal.client_id,
        "clientPassword": {"name": "web-secret", "namespace": "default"},
    }
    values = {"clientSecret": principal.secret.encode()} if data is None else data
    if values:
        await place.apply(secret("web-secret", values))
    await place.apply(identity(POD, **(usual | spec)))
    await place.apply(binding(POD, POD))
    return principal


async def _bound_by_cluster(place: Place, *, permitted: bool = True, bound: bool = True) -> PodRequest:
    """Create an identity of type 3 that uses AKS identity bindings, its objects, the permissions, and the pod."""
    managed = await _identity_on_azure(place)
    if bound:
        await place.on_azure(lambda azure: azure.token_proxy.bind(managed.client_id))
    made = identity(POD, type=3, clientID=managed.client_id, tenantID=managed.tenant_id)
    made["metadata"]["annotations"] = {EXCHANGE_ANNOTATION: Exchange.IDENTITY_BINDINGS}
    permission = [permission_role(managed.client_id), permission_binding(managed.client_id, "default", "default")]
    for document in (*TOKEN_REQUESTS, *(permission if permitted else ()), made, binding(POD, POD)):
        await place.apply(document)
    return await _pod(place)


async def _pod(place: Place, labels: Mapping[str, str] = LABEL) -> PodRequest:
    await place.run_pod(labels)
    return PodRequest()


@fault("`clientID` of a user-assigned identity is another identity's", "assigned identity", "assignments")
async def wrong_client_id(place: Place) -> PodRequest:
    await _managed(place, clientID=WRONG_CLIENT)
    return await _pod(place)


@fault("`clientID` of a service principal is wrong", "token", "tokens")
async def wrong_application(place: Place) -> PodRequest:
    await _principal(place, clientID=WRONG_CLIENT)
    return await _pod(place)


@fault("`tenantID` of a service principal is wrong", "token", "tokens")
async def wrong_tenant(place: Place) -> PodRequest:
    await _principal(place, tenantID=WRONG_CLIENT)
    return await _pod(place)


@fault("The Secret of a service principal does not exist", "secret", "credentials", "tokens")
async def missing_secret(place: Place) -> PodRequest:
    await _principal(place, {})
    return await _pod(place)


@fault("The Secret of a certificate lacks the key `certificate`", "secret", "credentials", "tokens")
async def missing_key(place: Place) -> PodRequest:
    await _principal(place, {"tls.crt": b"x"}, type=2)
    return await _pod(place)


@fault("The client secret is wrong or expired", "token", "tokens")
async def wrong_secret(place: Place) -> PodRequest:
    await _principal(place, {"clientSecret": b"not-the-secret-of-this-application"})
    return await _pod(place)


@fault("`clientPassword` names a Secret of another namespace", "assigned identity", "unusable", "tokens")
async def foreign_secret(place: Place) -> PodRequest:
    await _principal(place, clientPassword={"name": "web-secret", "namespace": "vault"})
    return await _pod(place)


@fault("The binding's selector is misspelled", "binding", "selectors", "selectors")
async def misspelled_selector(place: Place) -> PodRequest:
    await _managed(place, selector="wbe")
    return await _pod(place)


@fault("The binding's selector differs in case", "binding", "selectors", "selectors")
async def selector_in_another_case(place: Place) -> PodRequest:
    await _managed(place, selector="Web")
    return await _pod(place)


@fault("The label's key is misspelled", "label", "labels")
async def misspelled_label(place: Place) -> PodRequest:
    await _managed(place)
    return await _pod(place, {"aadpodidbindng": POD})


@fault("The label's key is another word", "label", "labels")
async def other_label(place: Place) -> PodRequest:
    await _managed(place)
    return await _pod(place, {"aadpodidentitybinding": POD})


@fault("The labels of an AzurePodIdentityException are misspelled", "exception")
async def misspelled_exception(place: Place) -> PodRequest:
    await place.apply(exception("all", {"app": "wbe"}))
    return await _pod(place, {"app": "web"})


@fault("The pod has no label", "label")
async def no_label(place: Place) -> PodRequest:
    return await _pod(place, {})


@fault("The label is on the Deployment, and not in its pod template", "label", "selectors", on_node=False)
async def label_on_the_deployment_only(place: Place) -> PodRequest:
    await _managed(place)
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment"}
    await place.apply(DEPLOYMENTS)
    await place.apply({**deployment, "metadata": {"name": POD, "namespace": "default", "labels": LABEL}})
    owner = {**deployment, "name": POD, "controller": True}
    await place.run_pod({"app": POD}, ownerReferences=[owner])
    return PodRequest()


@fault("The AzureIdentity that the binding names does not exist", "identity", "unusable")
async def missing_identity(place: Place) -> PodRequest:
    await place.apply(binding(POD, POD))
    return await _pod(place)


@fault("`resourceID` is malformed", "identity", "unusable")
async def malformed_resource_id(place: Place) -> PodRequest:
    await _managed(place, resourceID="/subscriptions/s/typo")
    return await _pod(place)


@fault("The identity does not exist on Azure", "assigned identity", "assignments")
async def deleted_on_azure(place: Place) -> PodRequest:
    managed = await _managed(place)
    await place.on_azure(lambda azure: azure.directory.remove_identity(managed.resource_id))
    return await _pod(place)


@fault("MIC may not assign the identity", "assigned identity", "assignments")
async def no_operator_role(place: Place) -> PodRequest:
    managed = await _managed(place)
    await place.on_azure(lambda azure: azure.arm.marked.unauthorized.add(managed.resource_id.lower()))
    return await _pod(place)


@fault("MIC may not change the VM or scale set", "assigned identity", "assignments")
async def no_contributor_role(place: Place) -> PodRequest:
    await place.set_fault("arm", "403")
    await _managed(place)
    return await _pod(place)


@fault("MIC has no role in the resource group of the node", "assigned identity", "assignments", on_node=False)
async def no_role(place: Place) -> PodRequest:
    await place.set_fault("arm", "no-role")
    await _managed(place)
    return await _pod(place)


@fault("Azure has no VM of the node", "assigned identity", "assignments", on_node=False)
async def deleted_vm(place: Place) -> PodRequest:
    await place.set_fault("arm", "no-vm")
    await _managed(place)
    return await _pod(place)


@fault("Azure Resource Manager throttles MIC", "assigned identity", "assignments")
async def throttled_by_arm(place: Place) -> PodRequest:
    await place.set_fault("arm", "429")
    await _managed(place)
    return await _pod(place)


@fault("MIC does not run", "assigned identity", "MIC")
async def no_mic(place: Place) -> PodRequest:
    await place.stop_mic()
    await _managed(place)
    return await _pod(place)


@fault(
    "The pod requests another identity that is bound to it, and MIC does not run",
    "assigned identity",
    "MIC",
    "several identities",
    on_node=False,
)
async def bound_without_mic(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.stop_mic()
    managed = await place.on_azure(lambda azure: azure.directory.add_identity(identity_id(f"{place.identity}-two")))
    await place.apply(identity("two", type=0, resourceID=managed.resource_id, clientID=managed.client_id))
    await place.apply(binding("two", POD))
    return PodRequest({"client_id": managed.client_id})


@fault("NMI does not run on the pod's node", "NMI", "NMI")
async def no_nmi(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.stop_nmi()
    return PodRequest()


@fault(
    "An AzurePodIdentityException matches the pod",
    "exception",
    "exceptions",
    response_on_node="200 a token of the node's identity",
)
async def exempt_pod(place: Place) -> PodRequest:
    await _managed(place)
    await place.apply(exception("all", {"app": "web"}))
    request = await _pod(place, {**LABEL, "app": "web"})
    await place.until_assigned()  # IMDS serves the only identity of a VM to a request that names none
    return request


@fault("The identity serves only its own namespace", "identity", "selectors")
async def namespaced_identity(place: Place) -> PodRequest:
    managed = await _identity_on_azure(place)
    await place.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    made = identity(POD, "other", type=0, resourceID=managed.resource_id, clientID=managed.client_id)
    made["metadata"]["annotations"] = {"aadpodidentity.k8s.io/Behavior": "namespaced"}
    await place.apply(made)
    await place.apply(binding(POD, POD, "other"))
    return await _pod(place)


@fault("The application requests another client id", "token", "tokens")
async def other_client_requested(place: Place) -> PodRequest:
    await _bound_pod(place)
    return PodRequest({"client_id": WRONG_CLIENT})


@fault("The application requests another client id, and waits less than NMI", "token", "tokens", on_node=False)
async def impatient_client(place: Place) -> PodRequest:
    await _bound_pod(place)
    return PodRequest({"client_id": WRONG_CLIENT}, seconds=1.5)


@fault("IMDS fails", "token", "tokens")
async def failing_imds(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.set_fault("imds", "500")
    return PodRequest()


@fault("IMDS does not respond", "token", "tokens")
async def silent_imds(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.set_fault("imds", "hang")
    return PodRequest()


@fault("IMDS throttles the node", "token", "tokens")
async def throttling_imds(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.set_fault("imds", "429")
    return PodRequest()


@fault("The Guest Proxy Agent refuses NMI's requests", "token", "tokens")
async def refusing_guest_proxy(place: Place) -> PodRequest:
    await _bound_pod(place)
    await place.set_fault("imds", "guest-proxy")
    return PodRequest()


@fault("The sign-in of a service principal fails", "token", "tokens")
async def failing_sign_in(place: Place) -> PodRequest:
    await _principal(place)
    await place.set_fault("aad", "500")
    return await _pod(place)


@fault("NMI may not request tokens of a service account (type 3)", "service account", "federated", "tokens")
async def forbidden_service_account(place: Place) -> PodRequest:
    managed = await _identity_on_azure(place)
    spec: dict[str, Any] = {"type": 3, "clientID": managed.client_id, "tenantID": managed.tenant_id}
    await place.apply(identity(POD, **spec))
    await place.apply(binding(POD, POD))
    return await _pod(place)


async def _federated(place: Place) -> ManagedIdentity:
    """Create an identity of type 3, its objects and NMI's permission."""
    managed = await _identity_on_azure(place)
    made = identity(POD, type=3, clientID=managed.client_id, tenantID=managed.tenant_id)
    for document in (*TOKEN_REQUESTS, made, binding(POD, POD)):
        await place.apply(document)
    return managed


@fault("The identity has no federated credential (type 3)", "token", "tokens", on_node=False)
async def no_federated_credential(place: Place) -> PodRequest:
    await _federated(place)
    return await _pod(place)


@fault("The federated credential has another issuer", "token", "tokens", on_node=False)
async def other_issuer(place: Place) -> PodRequest:
    managed = await _federated(place)
    trusted = FederatedCredential("https://oidc.example/", "system:serviceaccount:default:default", DIRECT_AUDIENCE)
    await place.on_azure(lambda azure: azure.directory.federate(managed.client_id, trusted))
    return await _pod(place)


@fault("The federated credential has another audience", "token", "tokens", on_node=False)
async def other_audience(place: Place) -> PodRequest:
    managed = await _federated(place)
    await place.trust(managed.client_id, account="default", audience="api://AnotherAudience")
    return await _pod(place)


@fault("The federated credential has another service account", "token", "tokens", on_node=False)
async def other_subject(place: Place) -> PodRequest:
    managed = await _federated(place)
    await place.trust(managed.client_id, account="web", audience=DIRECT_AUDIENCE)
    return await _pod(place)


@fault("The cluster has no identity binding for the identity", "token", "tokens", on_node=False)
async def no_identity_binding(place: Place) -> PodRequest:
    return await _bound_by_cluster(place, bound=False)


@fault(
    "The service account may not use the identity (identity bindings)",
    "permission",
    "federated",
    "tokens",
    on_node=False,
)
async def no_binding_permission(place: Place) -> PodRequest:
    return await _bound_by_cluster(place, permitted=False)


PROXY_FAULTS: Final = {
    "wrong_proxy_audience": ("audience", "The token proxy accepts another audience"),
    "wrong_proxy_server_name": ("server-name", "The TLS server name of the token proxy is wrong"),
    "wrong_proxy_authority": ("certificate", "The authority of the token proxy is wrong"),
    "wrong_proxy_certificate_name": ("certificate-name", "The token proxy's certificate has another name"),
    "silent_proxy": ("hang", "The token proxy does not respond"),
    "failing_proxy": ("500", "The token proxy fails"),
    "throttling_proxy": ("429", "The token proxy throttles the node"),
}
"""By id: the value of the sandbox's fault `proxy`, and the text of the row."""


def _proxy_fault(name: str, value: str) -> Inject:
    async def inject(place: Place) -> PodRequest:
        await place.set_fault("proxy", value)
        return await _bound_by_cluster(place)

    inject.__name__ = name
    return inject


for _name, (_value, _text) in PROXY_FAULTS.items():
    fault(_text, "token", "tokens", on_node=False)(_proxy_fault(_name, _value))


@fault("A proxy adds `X-Forwarded-For`", "token", "tokens")
async def forwarded_request(place: Place) -> PodRequest:
    await _bound_pod(place)
    return PodRequest(headers={"X-Forwarded-For": "10.0.0.1"})


@fault("The application names no resource", "token", "tokens")
async def no_resource(place: Place) -> PodRequest:
    await _bound_pod(place)
    return PodRequest(query={"resource": ""})


@fault("The application names two identities in one request", "token", "tokens")
async def two_selectors(place: Place) -> PodRequest:
    await _bound_pod(place)
    return PodRequest(query={"client_id": WRONG_CLIENT, "object_id": WRONG_CLIENT})
