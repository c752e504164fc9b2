"""What a pod proves itself by where its identity is federated (type 3): its own service account. Pure."""

from typing import Final, NamedTuple

from nmi.error_refusals import refusal_of
from nmi.refusal import Refusal
from nmi.tokens.assertions import NoAssertionError
from podidctl.inquiry.asking import asked
from podidctl.inquiry.bound import elsewhere, named, selecting
from podidctl.inquiry.facts import Account, Facts
from podidctl.inquiry.verdict import is_managed, watched
from podidentity.resources import AzureIdentity, IdentityType, Pod

GRANT: Final = (
    "list the namespace (and, where it names them, the service account) in the chart's federated.namespaces, which "
    "lets NMI create serviceaccounts/token there"
)


class Unproved(NamedTuple):
    """Why a pod cannot prove itself."""

    code: str
    """NMI's word for it."""
    says: str
    then: str
    """What to do."""


def subject(pod: Pod) -> str:
    """What Azure must have been told of the pod, in the words of its token."""
    return f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}"


def name_of(pod: Pod) -> str:
    """Namespace and name of its service account."""
    return f"{pod.metadata.namespace}/{pod.spec.service_account_name}"


def federated(facts: Facts, pod: Pod) -> list[AzureIdentity]:
    """The federated identities that are meant for the pod: of its bindings, and of what is assigned to it."""
    bindings = [each for each in selecting(facts, pod) if not elsewhere(facts, pod, each)]
    found = [identity for each in bindings if (identity := named(facts, each)) is not None]
    if not is_managed(facts):
        found += [each.spec.azure_identity_ref for each in facts.assigned if watched(facts, pod, each)]
    ours = [each for each in found if each.spec.type == IdentityType.FEDERATED]
    return list({each.key: each for each in ours if each.metadata.namespace == pod.metadata.namespace}.values())


def unproved(pod: Pod, account: Account | None) -> Unproved | None:
    """Why the API server makes no token of the pod's service account for NMI, in the order in which that is known
    there; None where nothing is known against it."""
    name = name_of(pod)
    if not pod.spec.service_account_name:
        then = "make the pod anew: each gets one when it is made"
        return Unproved("service_account_missing", "the pod has no service account", then)
    if account is not None and account.nmi_may is False:
        says = f"NMI's service account {account.nmi} may not ask for tokens of service account {name}"
        return Unproved("assertion_forbidden", says, GRANT)
    if account is not None and account.there is False:
        then = f"create it: kubectl create serviceaccount -n {pod.metadata.namespace} {pod.spec.service_account_name}"
        return Unproved("service_account_missing", f"there is no service account {name}", then)
    return None


def asked_for(facts: Facts, identity: AzureIdentity, resource: str) -> str | Refusal:
    """Whom NMI asks for a token of *identity* for the pod; or what it answers without asking Azure."""
    pod = facts.pod
    if pod is None or identity.spec.type != IdentityType.FEDERATED:
        return asked(facts.rules.settings, identity, resource)
    whom = asked(facts.rules.settings, identity, resource, account=name_of(pod))
    why = unproved(pod, facts.account)
    if isinstance(whom, Refusal) or why is None:
        return whom
    return refusal_of(NoAssertionError(f"{why.says}: {why.then}", code=why.code))
