"""Faults of the table in docs/troubleshooting.md, and the steps that inject them into a sandbox.

Each function prepares the objects, makes one thing wrong, and returns the pod that shows it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity, ServicePrincipal
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from tests.integration.identity_requests import (
    NODE,
    binding,
    eventually,
    exception,
    identity,
    run_bound_pod,
    run_pod,
    secret,
)

LABEL: Final = {"aadpodidbinding": "web"}
POD: Final = "web"
WRONG_CLIENT: Final = "00000000-0000-4000-8000-0000000000ff"


@dataclass(frozen=True)
class Shown:
    """The pod that shows a fault, and its request."""

    context: ExecutionContext | None
    """None: the pod sends no request in this test."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None


Inject = Callable[[Sandbox], Awaitable[Shown]]


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    text: str
    inject: Inject
    link: str
    """The first broken link of `explain pod`."""
    checks: tuple[str, ...]
    """The checks of `doctor` with a warning or a problem."""
    emulator_only: bool = False
    """Whether it needs the emulated API server."""

    @property
    def id(self) -> str:
        return self.inject.__name__


FAULTS: Final[list[Fault]] = []


def fault(text: str, link: str, *checks: str, emulator_only: bool = False) -> Callable[[Inject], Inject]:
    """Add the decorated function to FAULTS."""

    def add(inject: Inject) -> Inject:
        FAULTS.append(Fault(text, inject, link, checks, emulator_only))
        return inject

    return add


async def _managed(sandbox: Sandbox, *, selector: str = POD, **spec: Any) -> ManagedIdentity:
    """Create the identity on Azure, its AzureIdentity with changes of *spec*, and the binding."""
    known = sandbox.azure.directory.add_identity(identity_id(POD), client_id="00000000-0000-4000-8000-000000000001")
    usual: dict[str, Any] = {"type": 0, "resourceID": known.resource_id, "clientID": known.client_id}
    await sandbox.cluster.apply(identity(POD, **(usual | spec)))
    await sandbox.cluster.apply(binding(POD, selector))
    return known


async def _principal(sandbox: Sandbox, data: Mapping[str, bytes] | None = None, **spec: Any) -> ServicePrincipal:
    """Create a service principal, its AzureIdentity with changes of *spec*, the binding and the Secret."""
    known = sandbox.azure.directory.add_principal(client_id="00000000-0000-4000-8000-000000000002")
    usual: dict[str, Any] = {
        "type": 1,
        "tenantID": sandbox.azure.directory.tenant_id,
        "clientID": known.client_id,
        "clientPassword": {"name": "web-secret", "namespace": "default"},
    }
    values = {"clientSecret": known.secret.encode()} if data is None else data
    if values:
        await sandbox.cluster.apply(secret("web-secret", values))
    await sandbox.cluster.apply(identity(POD, **(usual | spec)))
    await sandbox.cluster.apply(binding(POD, POD))
    return known


async def _pod(sandbox: Sandbox, labels: Mapping[str, str] = LABEL) -> Shown:
    return Shown(await run_pod(sandbox, POD, labels))


@fault("`clientID` of a user-assigned identity is another identity's", "assigned identity", "assignments")
async def wrong_client_id(sandbox: Sandbox) -> Shown:
    await _managed(sandbox, clientID=WRONG_CLIENT)
    return await _pod(sandbox)


@fault("`clientID` of a service principal is wrong", "token", "tokens")
async def wrong_application(sandbox: Sandbox) -> Shown:
    await _principal(sandbox, clientID=WRONG_CLIENT)
    return await _pod(sandbox)


@fault("The Secret of a service principal does not exist", "secret", "credentials", "tokens")
async def missing_secret(sandbox: Sandbox) -> Shown:
    await _principal(sandbox, {})
    return await _pod(sandbox)


@fault("The Secret of a certificate lacks the key `certificate`", "secret", "credentials", "tokens")
async def missing_key(sandbox: Sandbox) -> Shown:
    await _principal(sandbox, {"tls.crt": b"x"}, type=2)
    return await _pod(sandbox)


@fault("The client secret is wrong or expired", "token", "tokens")
async def wrong_secret(sandbox: Sandbox) -> Shown:
    await _principal(sandbox, {"clientSecret": b"not-the-secret-of-this-application"})
    return await _pod(sandbox)


@fault("`clientPassword` names a Secret of another namespace", "assigned identity", "unusable", "tokens")
async def foreign_secret(sandbox: Sandbox) -> Shown:
    await _principal(sandbox, clientPassword={"name": "web-secret", "namespace": "vault"})
    return await _pod(sandbox)


@fault("The binding's selector is misspelled", "binding", "selectors", "selectors")
async def misspelled_selector(sandbox: Sandbox) -> Shown:
    await _managed(sandbox, selector="wbe")
    return await _pod(sandbox)


@fault("The binding's selector differs in case", "binding", "selectors", "selectors")
async def selector_in_another_case(sandbox: Sandbox) -> Shown:
    await _managed(sandbox, selector="Web")
    return await _pod(sandbox)


@fault("The label's key is misspelled", "label", "selectors")
async def misspelled_label(sandbox: Sandbox) -> Shown:
    await _managed(sandbox)
    return await _pod(sandbox, {"aadpodidbindng": POD})


@fault("The pod has no label", "label")
async def no_label(sandbox: Sandbox) -> Shown:
    return await _pod(sandbox, {})


@fault("The AzureIdentity that the binding names does not exist", "identity", "unusable")
async def missing_identity(sandbox: Sandbox) -> Shown:
    await sandbox.cluster.apply(binding(POD, POD))
    return await _pod(sandbox)


@fault("`resourceID` is malformed", "identity", "unusable")
async def malformed_resource_id(sandbox: Sandbox) -> Shown:
    await _managed(sandbox, resourceID="/subscriptions/s/typo")
    return await _pod(sandbox)


@fault("The identity does not exist on Azure", "assigned identity", "assignments")
async def deleted_on_azure(sandbox: Sandbox) -> Shown:
    known = await _managed(sandbox)
    sandbox.azure.directory.remove_identity(known.resource_id)
    return await _pod(sandbox)


@fault("MIC may not assign the identity", "assigned identity", "assignments")
async def no_operator_role(sandbox: Sandbox) -> Shown:
    known = await _managed(sandbox)
    sandbox.azure.arm.marked.unauthorized.add(known.resource_id.lower())
    return await _pod(sandbox)


@fault("MIC may not change the VM or scale set", "assigned identity", "assignments")
async def no_contributor_role(sandbox: Sandbox) -> Shown:
    sandbox.faults.set({"arm": "403"})
    await _managed(sandbox)
    return await _pod(sandbox)


@fault("Azure Resource Manager throttles MIC", "assigned identity", "assignments")
async def throttled_by_arm(sandbox: Sandbox) -> Shown:
    sandbox.faults.set({"arm": "429"})
    await _managed(sandbox)
    return await _pod(sandbox)


@fault("MIC does not run", "assigned identity", "MIC", "leader")
async def no_mic(sandbox: Sandbox) -> Shown:
    assert sandbox.mic is not None
    await sandbox.mic.stop()
    await _managed(sandbox)
    return await _pod(sandbox)


@fault("NMI does not run on the pod's node", "NMI", "NMI")
async def no_nmi(sandbox: Sandbox) -> Shown:
    _, context = await run_bound_pod(sandbox, POD)
    await sandbox.nmis[NODE].program.stop()
    return Shown(context)


@fault("An AzurePodIdentityException matches the pod", "exception", "exceptions")
async def exempt_pod(sandbox: Sandbox) -> Shown:
    await _managed(sandbox)
    await sandbox.cluster.apply(exception("all", {"app": "web"}))
    return await _pod(sandbox, {**LABEL, "app": "web"})


@fault("The identity serves only its own namespace", "identity", "selectors")
async def namespaced_identity(sandbox: Sandbox) -> Shown:
    known = sandbox.azure.directory.add_identity(identity_id(POD), client_id="00000000-0000-4000-8000-000000000001")
    await sandbox.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    made = identity(POD, "other", type=0, resourceID=known.resource_id, clientID=known.client_id)
    made["metadata"]["annotations"] = {"aadpodidentity.k8s.io/Behavior": "namespaced"}
    await sandbox.cluster.apply(made)
    await sandbox.cluster.apply(binding(POD, POD, "other"))
    return await _pod(sandbox)


@fault("The application requests another client id", "token", "tokens")
async def other_client_requested(sandbox: Sandbox) -> Shown:
    _, context = await run_bound_pod(sandbox, POD)
    return Shown(context, {"client_id": WRONG_CLIENT})


@fault("IMDS fails", "token", "tokens")
async def failing_imds(sandbox: Sandbox) -> Shown:
    _, context = await run_bound_pod(sandbox, POD)
    sandbox.faults.set({"imds": "500"})
    return Shown(context)


@fault("IMDS throttles the node", "token", "tokens")
async def throttling_imds(sandbox: Sandbox) -> Shown:
    _, context = await run_bound_pod(sandbox, POD)
    sandbox.faults.set({"imds": "429"})
    return Shown(context)


@fault("The sign-in of a service principal fails", "token", "tokens")
async def failing_sign_in(sandbox: Sandbox) -> Shown:
    await _principal(sandbox)
    sandbox.faults.set({"aad": "500"})
    return await _pod(sandbox)


@fault("NMI may not request tokens of a service account (type 3)", "service account", "federated", "tokens")
async def forbidden_service_account(sandbox: Sandbox) -> Shown:
    known = sandbox.azure.directory.add_identity(identity_id(POD), client_id="00000000-0000-4000-8000-000000000001")
    spec: dict[str, Any] = {"type": 3, "clientID": known.client_id, "tenantID": sandbox.azure.directory.tenant_id}
    await sandbox.cluster.apply(identity(POD, **spec))
    await sandbox.cluster.apply(binding(POD, POD))
    return await _pod(sandbox)


@fault("A proxy adds `X-Forwarded-For`", "token", "tokens")
async def forwarded_request(sandbox: Sandbox) -> Shown:
    _, context = await run_bound_pod(sandbox, POD)
    return Shown(context, headers={"Metadata": "true", "X-Forwarded-For": "10.0.0.1"})


__all__ = ["FAULTS", "Fault", "Shown", "eventually"]
