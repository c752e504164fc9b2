"""Federated identities (type 3) of a pod: its service account, and the account's permissions to use identities at the
cluster's token proxy. Pure.

The proxy authorizes by Kubernetes RBAC, so an access review of the API server has the proxy's decision before any
request of the pod.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import yaml

from nmi.error_refusals import refusal_of
from nmi.refusal import Refusal
from nmi.settings import NmiSettings
from nmi.tokens.assertions import NoAssertionError
from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.secrets import CredentialError
from nmi.tokens.source import PolicyError
from podidctl.evaluation.pod import PodCase
from podidctl.evaluation.tokens import describe_token_source, exchange_of
from podidctl.facts.model import FederatedAccess, ReadFailure
from podidentity.azure.errors import Refused
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.azure.identity_permissions import permission_binding, permission_resource, permission_role
from podidentity.resources import AzureIdentity, IdentityType, Pod

IDENTITIES_MAX: Final = 10
"""Identities of one pod that one command checks: any number of bindings can select a pod."""
CREDENTIALS_MAX: Final = 20
"""Azure's limit of federated credentials for one managed identity or application."""
NAMESPACES_MAX: Final = 3
"""Namespaces that the comment of a manifest names."""
REVIEW_ACCESS: Final = "create on subjectaccessreviews of authorization.k8s.io"
"""The operator's permission that an access review needs."""
APPLY: Final = "apply the ClusterRole and ClusterRoleBinding that this command prints (kubectl apply -f -)"
GRANT: Final = (
    "add the namespace (and the service account, if the list names them) to federated.namespaces in the chart's "
    "values; this lets NMI create serviceaccounts/token there"
)


def proxied_identities(settings: NmiSettings, identities: Iterable[AzureIdentity]) -> dict[str, list[AzureIdentity]]:
    """Return the federated ones of *identities* whose tokens NMI gets from the token proxy, by the permission's
    resource.
    """
    by_resource: dict[str, list[AzureIdentity]] = {}
    for identity in identities:
        if identity.spec.type != IdentityType.FEDERATED:
            continue
        try:
            exchange = exchange_of(settings, identity)
        except PolicyError:  # NMI refuses the identity, which another check reports
            continue
        resource = permission_resource(identity.spec.client_id)
        if exchange is Exchange.IDENTITY_BINDINGS and resource:
            by_resource.setdefault(resource, []).append(identity)
    return by_resource


class Permission(NamedTuple):
    """Permission of the pod's service account to use one identity."""

    resource: str
    """The identity's client id, in lower case."""
    identities: Sequence[AzureIdentity]
    """The AzureIdentities with this client id."""
    allowed: bool | None
    """None if it could not be checked."""
    unread: ReadFailure | None = None
    """Why it could not be checked."""


def permissions_of(case: PodCase, identities: Iterable[AzureIdentity]) -> list[Permission]:
    """Return the permissions that the pod needs for *identities*; none for the ones without identity bindings."""
    proxied = proxied_identities(case.settings, identities).items()
    unpermitted = case.facts.federation.unpermitted
    if isinstance(unpermitted, ReadFailure):
        return [Permission(resource, its, None, unpermitted) for resource, its in proxied]
    above = ReadFailure(f"one run checks at most {IDENTITIES_MAX} identities")
    return [
        Permission(resource, its, not unpermitted[resource])
        if resource in unpermitted
        else Permission(resource, its, None, above)
        for resource, its in proxied
    ]


def permission_refusal(case: PodCase, identity: AzureIdentity) -> Refusal | None:
    """Return NMI's refusal of *identity* if the pod's service account may not use it at the token proxy."""
    if all(permission.allowed is not False for permission in permissions_of(case, [identity])):
        return None
    account = account_name(case.pod)
    cause = Refused(f"RBAC has no permission {BINDING_VERB} of {account} for the identity's clientID", status=403)
    return refusal_of(NotBoundError(cause, MissingStep.PERMISSION, identity.spec.client_id, account))


def manifest_for(case: PodCase, identities: Iterable[AzureIdentity]) -> str:
    """Return the objects for `kubectl apply -f -` that grant the pod's permissions that are missing or unknown, for at
    most IDENTITIES_MAX identities.
    """
    if not case.pod.spec.service_account_name:
        return ""
    account = account_name(case.pod)
    missing = [permission.resource for permission in permissions_of(case, identities) if not permission.allowed]
    return manifest_of({client_id: [account] for client_id in missing[:IDENTITIES_MAX]})


def manifest_of(missing: Mapping[str, Sequence[str]]) -> str:
    """Return the objects for `kubectl apply -f -` that grant *missing*: service accounts (`namespace/name`) by client
    id. Return an empty string if no object can grant one of them, as for a client id that is not a GUID.
    """
    documents: list[Any] = []
    namespaces: dict[str, None] = {}
    for client_id, accounts in missing.items():
        owners = [(namespace, name) for namespace, _, name in (account.partition("/") for account in accounts)]
        try:
            made = [permission_role(client_id), *(permission_binding(client_id, *owner) for owner in owners)]
        # No role can name such a client id. The finding has the next action.
        except ValueError:
            continue
        documents += made
        namespaces |= dict.fromkeys(namespace for namespace, _ in owners)
    if not documents:
        return ""
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True)
    return _comment(list(namespaces)) + text


class _Dumper(yaml.SafeDumper):
    """Dumper whose text every YAML parser reads as the same strings."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # kubectl reads `n` as a boolean and `1e3` as a number, PyYAML does not; both are valid names.
    is_plain = text[:1].isalpha() and text.lower() not in {"y", "n"}
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Dumper.add_representer(str, _represent_text)


def _comment(namespaces: Sequence[str]) -> str:
    named = namespaces if len(namespaces) <= NAMESPACES_MAX else ["NAMESPACE"]
    groups = "".join(
        f'#   {{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccounts:{namespace}"}}\n'
        for namespace in named
    )
    return (
        "# Anyone with permission to create an AzureIdentity chooses its clientID: check that these service\n"
        "# accounts may have tokens of the identity before you apply this.\n"
        "# To let all service accounts of a namespace use it, write its group as subject; not in NMI's own namespace:\n"
        f"{groups}"
    )


class AssertionFault(NamedTuple):
    """Reason why NMI gets no token of the pod's service account."""

    code: str
    """NMI's error code."""
    message: str
    then: str
    """The next action."""


def subject(pod: Pod) -> str:
    """Return the subject of the pod's token, which the federated credential on Azure must have."""
    return f"system:serviceaccount:{pod.metadata.namespace}:{pod.spec.service_account_name}"


def account_name(pod: Pod) -> str:
    """Return the service account as `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.spec.service_account_name}"


def assertion_fault(pod: Pod, access: FederatedAccess) -> AssertionFault | None:
    """Return why the API server refuses NMI a token of the pod's service account, in the API server's order of checks,
    or None.
    """
    name, there = account_name(pod), access.accounts.get(pod.metadata.namespace)
    if not pod.spec.service_account_name:
        then = "delete and create the pod again: a new pod always gets a service account"
        return AssertionFault("service_account_missing", "the pod has no service account", then)
    for nmi, names in {} if isinstance(access.forbidden, ReadFailure) else access.forbidden.items():
        if name in names:
            message = f"NMI's service account {nmi} may not request tokens of service account {name}"
            return AssertionFault("assertion_forbidden", message, GRANT)
    # A failed read of the service accounts does not prove that this one is missing.
    if isinstance(there, frozenset) and pod.spec.service_account_name not in there:
        then = f"create it: kubectl create serviceaccount -n {pod.metadata.namespace} {pod.spec.service_account_name}"
        return AssertionFault("service_account_missing", f"service account {name} does not exist", then)
    return None


def pod_token_source(case: PodCase, identity: AzureIdentity, resource: str) -> str | Refusal:
    """Return the endpoint that NMI asks for a token of *identity*, or the refusal that it returns without a request to
    Azure.
    """
    if identity.spec.type != IdentityType.FEDERATED:
        source = describe_token_source(case.settings, identity, resource)
        secret = case.credentials.get(identity.key)
        # NMI reads the Secret only after its own rules accept the identity, so their refusal comes first.
        return refusal_of(secret) if isinstance(source, str) and isinstance(secret, CredentialError) else source
    whom = describe_token_source(case.settings, identity, resource, account=account_name(case.pod))
    if isinstance(whom, Refusal):
        return whom
    if (reason := assertion_fault(case.pod, case.facts.federation)) is not None:
        return refusal_of(NoAssertionError(f"{reason.message}: {reason.then}", code=reason.code))
    return permission_refusal(case, identity) or whom
