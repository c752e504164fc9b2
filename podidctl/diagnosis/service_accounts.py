"""Checks of a pod's service account, whose token federated identities (type 3) trust. Pure."""

from typing import Final, NamedTuple

from nmi.error_refusals import refusal_of
from nmi.refusal import Refusal
from nmi.tokens.assertions import NoAssertionError
from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis.bindings import bound_identities
from podidctl.diagnosis.identity_permissions import permission_refusal
from podidctl.diagnosis.input import DiagnosisInput, ServiceAccountAccess
from podidctl.diagnosis.token_source import describe_token_source
from podidentity.resources import AzureIdentity, IdentityType, Pod

GRANT: Final = (
    "add the namespace (and the service account, if the list names them) to federated.namespaces in the chart's "
    "values; this lets NMI create serviceaccounts/token there"
)


class AssertionFault(NamedTuple):
    """Reason why NMI gets no token of the pod's service account."""

    code: str
    """NMI's error code."""
    says: str
    then: str
    """The next action."""


def subject(pod: Pod) -> str:
    """Return the subject of the pod's token, which the federated credential on Azure must have."""
    return f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}"


def account_name(pod: Pod) -> str:
    """Return the service account as `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.spec.service_account_name}"


def federated_identities(data: DiagnosisInput, pod: Pod) -> list[AzureIdentity]:
    """Return the pod's federated identities: those of its bindings and those assigned to it."""
    ours = [each for each in bound_identities(data, pod) if each.spec.type == IdentityType.FEDERATED]
    return [each for each in ours if each.metadata.namespace == pod.metadata.namespace]


def assertion_fault(pod: Pod, account: ServiceAccountAccess | None) -> AssertionFault | None:
    """Return why the API server refuses NMI a token of the pod's service account, in the API server's order of checks,
    or None.
    """
    name = account_name(pod)
    if not pod.spec.service_account_name:
        then = "delete and create the pod again: a new pod always gets a service account"
        return AssertionFault("service_account_missing", "the pod has no service account", then)
    if account is not None and account.nmi_may_request is False:
        says = f"NMI's service account {account.nmi} may not request tokens of service account {name}"
        return AssertionFault("assertion_forbidden", says, GRANT)
    if account is not None and account.exists is False:
        then = f"create it: kubectl create serviceaccount -n {pod.metadata.namespace} {pod.spec.service_account_name}"
        return AssertionFault("service_account_missing", f"service account {name} does not exist", then)
    return None


def pod_token_source(data: DiagnosisInput, identity: AzureIdentity, resource: str) -> str | Refusal:
    """Return the endpoint that NMI asks for a token of *identity*, or the refusal that it returns without a request to
    Azure.
    """
    pod = data.pod
    if pod is None or identity.spec.type != IdentityType.FEDERATED:
        source = describe_token_source(data.configuration.settings, identity, resource)
        secret = data.secrets.get(identity.key)
        return refusal_of(secret) if isinstance(source, str) and isinstance(secret, CredentialError) else source
    whom = describe_token_source(data.configuration.settings, identity, resource, account=account_name(pod))
    if isinstance(whom, Refusal):
        return whom
    if (why := assertion_fault(pod, data.account)) is not None:
        return refusal_of(NoAssertionError(f"{why.says}: {why.then}", code=why.code))
    return permission_refusal(data, identity, account_name(pod)) or whom
