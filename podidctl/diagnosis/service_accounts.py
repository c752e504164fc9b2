"""What a pod proves itself by where its identity is federated (type 3): its own service account. Pure."""

from typing import Final, NamedTuple

from nmi.error_refusals import refusal_of
from nmi.refusal import Refusal
from nmi.tokens.assertions import NoAssertionError
from podidctl.diagnosis.bindings import named_identity, namespace_restriction, selecting_bindings
from podidctl.diagnosis.decision import is_managed, is_watched
from podidctl.diagnosis.input import DiagnosisInput, ServiceAccountAccess
from podidctl.diagnosis.token_source import describe_token_source
from podidentity.resources import AzureIdentity, IdentityType, Pod

GRANT: Final = (
    "list the namespace (and, where it names them, the service account) in the chart's federated.namespaces, which "
    "lets NMI create serviceaccounts/token there"
)


class AssertionFault(NamedTuple):
    """Why a pod cannot prove itself."""

    code: str
    """NMI's word for it."""
    says: str
    then: str
    """What to do."""


def subject(pod: Pod) -> str:
    """What Azure must have been told of the pod, in the words of its token."""
    return f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}"


def account_name(pod: Pod) -> str:
    """Namespace and name of its service account."""
    return f"{pod.metadata.namespace}/{pod.spec.service_account_name}"


def federated_identities(data: DiagnosisInput, pod: Pod) -> list[AzureIdentity]:
    """The federated identities that are meant for the pod: of its bindings, and of what is assigned to it."""
    bindings = [each for each in selecting_bindings(data, pod) if not namespace_restriction(data, pod, each)]
    found = [identity for each in bindings if (identity := named_identity(data, each)) is not None]
    if not is_managed(data):
        found += [each.spec.azure_identity_ref for each in data.assigned if is_watched(data, pod, each)]
    ours = [each for each in found if each.spec.type == IdentityType.FEDERATED]
    return list({each.key: each for each in ours if each.metadata.namespace == pod.metadata.namespace}.values())


def assertion_fault(pod: Pod, account: ServiceAccountAccess | None) -> AssertionFault | None:
    """Why the API server makes no token of the pod's service account for NMI, in the order in which that is known
    there; None where nothing is known against it."""
    name = account_name(pod)
    if not pod.spec.service_account_name:
        then = "make the pod anew: each gets one when it is made"
        return AssertionFault("service_account_missing", "the pod has no service account", then)
    if account is not None and account.nmi_may_request is False:
        says = f"NMI's service account {account.nmi} may not ask for tokens of service account {name}"
        return AssertionFault("assertion_forbidden", says, GRANT)
    if account is not None and account.exists is False:
        then = f"create it: kubectl create serviceaccount -n {pod.metadata.namespace} {pod.spec.service_account_name}"
        return AssertionFault("service_account_missing", f"there is no service account {name}", then)
    return None


def pod_token_source(data: DiagnosisInput, identity: AzureIdentity, resource: str) -> str | Refusal:
    """Whom NMI asks for a token of *identity* for the pod; or what it answers without asking Azure."""
    pod = data.pod
    if pod is None or identity.spec.type != IdentityType.FEDERATED:
        return describe_token_source(data.configuration.settings, identity, resource)
    whom = describe_token_source(data.configuration.settings, identity, resource, account=account_name(pod))
    why = assertion_fault(pod, data.account)
    if isinstance(whom, Refusal) or why is None:
        return whom
    return refusal_of(NoAssertionError(f"{why.says}: {why.then}", code=why.code))
