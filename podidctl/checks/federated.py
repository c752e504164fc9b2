"""Checks of federated identities (type 3): service accounts, NMI's permission for their tokens, their permission to use
identities at the cluster's token proxy, and Azure's limits. Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nmi.settings import NmiSettings
from nmi.tokens.source import PolicyError
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import (
    APPLY,
    CREDENTIALS_MAX,
    GRANT,
    REVIEW_ACCESS,
    Permission,
    account_name,
    assertion_fault,
    manifest_of,
    permissions_of,
    subject,
)
from podidctl.evaluation.needs import CHECKED_MAX, ServedPairs, live_pods, served_pairs
from podidctl.evaluation.pod import PodCase
from podidctl.evaluation.tokens import audience_of, exchange_of
from podidctl.facts.model import Facts, FederatedAccess, ReadFailure, ServerState
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import listed
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.azure.identity_permissions import is_grantable
from podidentity.report import counted
from podidentity.resources import AzureIdentity, IdentityType, Pod

SERVICE_ACCOUNT: Final = "service account"
READ_ACCOUNT: Final = "get on serviceaccounts"
PERMISSION: Final = "permission"
FEDERATED: Final = "federated"
CREDENTIALS_MANY: Final = 15
"""The number above which an identity is reported before it reaches the limit."""
FEWER_CREDENTIALS: Final = (
    "on AKS use identity bindings, which need no credential for each service account (podidctl migrate plan -o az "
    "--exchange identityBindings --cluster RESOURCE-ID, and federated.exchange in the chart's values); elsewhere let "
    "pods of one application share a service account, or distribute them over more identities"
)
OLDEST_MINOR: Final = 30
"""The first Kubernetes 1.x with ValidatingAdmissionPolicies, one of which limits the tokens that NMI may request."""
NOT_A_GUID: Final = (
    "set clientID of the AzureIdentities, which podidctl explain pod names, to the client id of the identity: a GUID"
)


def service_account_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of the pod's service account; none if the pod has no federated identity."""
    identities = case.federated
    if not identities:
        return
    about, access = account_name(case.pod), case.facts.federation
    if (reason := assertion_fault(case.pod, access)) is not None:
        yield problem(SERVICE_ACCOUNT, reason.message, reason.then, about=about)
        return
    message = "; ".join(_trusts(case, identities))
    if not access.accounts:
        then = f"run this command with more permissions ({READ_ACCOUNT}, {REVIEW_ACCESS})"
        message = f"{message}; it could not be read whether the account exists and NMI may request its tokens"
        yield unknown(SERVICE_ACCOUNT, message, then, about=about)
    elif unread := list(_unread(access)):
        for failed_read in unread:
            message += f"; it could not be read whether {failed_read.what}: {failed_read.failure.reason}"
        yield unknown(SERVICE_ACCOUNT, message, "; ".join(_next_actions(unread)), about=about)
    elif not access.forbidden:
        then = "see podidctl doctor if NMI runs in pods that have its label"
        yield unknown(SERVICE_ACCOUNT, f"{message}; NMI's own service account is not known", then, about=about)
    else:
        yield ok(SERVICE_ACCOUNT, f"{message}; NMI may request its tokens", about=about)


class _Unread(NamedTuple):
    what: str
    failure: ReadFailure
    permission: str
    """The operator's permission that the read needs."""


def _unread(access: FederatedAccess) -> Iterator[_Unread]:
    for there in access.accounts.values():
        if isinstance(there, ReadFailure):
            yield _Unread("the account exists", there, READ_ACCOUNT)
    if isinstance(access.forbidden, ReadFailure):
        yield _Unread("NMI may request its tokens", access.forbidden, REVIEW_ACCESS)


def _next_actions(unread: Sequence[_Unread]) -> Iterator[str]:
    """Yield the next action for the forbidden reads, and for those that failed."""
    for forbidden in (True, False):
        if its := [failed_read for failed_read in unread if failed_read.failure.is_forbidden is forbidden]:
            yield its[0].failure.next_action(", ".join(failed_read.permission for failed_read in its))


def _trusts(case: PodCase, identities: Sequence[AzureIdentity]) -> Iterator[str]:
    """Yield for each exchange the values of the pod's token, and the object that must trust them."""
    settings = case.settings
    clients: dict[Exchange, dict[str, None]] = {}
    for identity in identities:
        try:
            exchange = exchange_of(settings, identity)
        except PolicyError:  # the link of the identity has the reason
            exchange = settings.federated_exchange
        clients.setdefault(exchange, {})[identity.spec.client_id.strip()] = None
    for exchange, its in sorted(clients.items()):
        trust = f"subject {subject(case.pod)}, audience {audience_of(settings, exchange)}"
        if exchange is Exchange.DIRECT:
            yield (
                f"its token identifies the pod to Azure as {trust} (exchange {exchange}); a federated credential of "
                f"{', '.join(its)} must have the same values"
            )
        else:
            yield (
                f"its token identifies the pod to the cluster's token proxy as {trust} (exchange {exchange}); the "
                f"cluster needs an identity binding of {', '.join(its)}, and the service account the permission "
                f"{BINDING_VERB}"
            )


def permission_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of each identity that the pod gets from the token proxy, by client id."""
    if not case.pod.spec.service_account_name:
        return  # another link reports it
    for permission in permissions_of(case, case.federated):
        yield _permission_link(account_name(case.pod), permission)


def _permission_link(account: str, permission: Permission) -> Finding:
    about = f"{account}, client id {permission.resource}"
    if permission.allowed:
        message = f"RBAC lets the service account use the identity ({BINDING_VERB})"
        return ok(PERMISSION, message, about=about)
    if permission.unread is not None:
        message = (
            f"it could not be checked whether the service account may use the identity: {permission.unread.reason}"
        )
        then = f"{permission.unread.next_action(REVIEW_ACCESS)}; if the permission is missing, {APPLY}"
        return unknown(PERMISSION, message, then, about=about)
    message = (
        f"RBAC does not let the service account use the identity ({BINDING_VERB}), so the cluster's token proxy "
        f"refuses its next exchange"
    )
    if is_grantable(permission.resource):
        return problem(PERMISSION, message, APPLY, about=about)
    names = ", ".join("/".join(identity.key) for identity in permission.identities)
    then = f"set clientID of AzureIdentity {names} to the client id of the identity, which is a GUID"
    return problem(PERMISSION, message, then, about=about)


def check_federated_identities(case: ClusterCase) -> Iterator[Finding]:
    """Report all faults of federated identities; nothing if there are none."""
    federation, objects = case.facts.federation, case.facts
    settings = [configuration.settings for configuration in case.configurations]
    identities = [identity for identity in objects.identities if identity.spec.type == IdentityType.FEDERATED]
    if not identities:
        return
    # IMDS responds to exempt pods, so they need nothing of this.
    pairs = [(pod, identity) for pod, identity in served_pairs(objects) if not case.exempt(pod)]
    faults = [
        *_enabled(identities, pairs, settings),
        *_kubernetes_version(case.facts.server),
        *_wrong_namespaces(identities, objects),
        *_accounts(federation, pairs),
        *_forbidden(federation),
        *check_binding_permissions(federation, pairs),
        *_too_many_credentials(pairs, settings),
    ]
    yield from faults
    if not faults:
        accounts = counted(len({account_name(pod) for pod, _ in pairs}), "service account")
        yield ok(FEDERATED, f"{counted(len(identities), 'identity', 'identities')} for pods of {accounts}")


def _enabled(
    identities: Sequence[AzureIdentity], pairs: ServedPairs, settings: Sequence[NmiSettings]
) -> Iterator[Finding]:
    without = [node_settings.node_name for node_settings in settings if not node_settings.federated_identities]
    if not without:
        return
    if len(without) < len(settings):
        message = f"NMI has no --federated-identities on {counted(len(without), 'node')}, but has it on others: "
        then = "finish the rollout of the DaemonSet: kubectl rollout status"
        yield warning(FEDERATED, message + listed(without), then)
        return
    names = listed("/".join(identity.key) for identity in identities)
    message = (
        f"{counted(len(identities), 'identity is', 'identities are')} federated (type 3), and no NMI has "
        f"--federated-identities: {names}"
    )
    then = "set federated.enabled and federated.namespaces in the chart's values, or give these identities another type"
    yield Finding(FEDERATED, Level.PROBLEM if pairs else Level.WARNING, message, then)


def _kubernetes_version(server: ServerState) -> Iterator[Finding]:
    if server.is_older(OLDEST_MINOR):
        message = (
            f"Kubernetes {server.version} has no ValidatingAdmissionPolicy, which prevents the use of NMI's own token "
            "for any token of the service accounts that NMI may request"
        )
        yield warning(FEDERATED, message, f"upgrade to 1.{OLDEST_MINOR} or newer")


def _wrong_namespaces(identities: Sequence[AzureIdentity], objects: Facts) -> Iterator[Finding]:
    """Report identities whose pods are all in other namespaces. Another check reports the pods that are not served."""
    selectors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in objects.bindings:
        selectors[binding.metadata.namespace, binding.spec.azure_identity].add(binding.spec.selector)
    namespaces: defaultdict[str, set[str]] = defaultdict(set)
    for pod in live_pods(objects):
        namespaces[pod.binding_label].add(pod.metadata.namespace)
    for identity in identities:
        where = set[str]().union(*(namespaces.get(selector, set()) for selector in selectors[identity.key]))
        if where and identity.metadata.namespace not in where:
            message = (
                f"AzureIdentity {'/'.join(identity.key)} is federated, but the pods that its bindings select are all "
                f"in other namespaces ({listed(where)}), which it never serves"
            )
            then = (
                "create AzureIdentity and AzureIdentityBinding in the pods' namespace, or a binding for pods of this "
                "namespace"
            )
            yield warning(FEDERATED, message, then)


def _accounts(federation: FederatedAccess, pairs: ServedPairs) -> Iterator[Finding]:
    missing: defaultdict[str, set[str]] = defaultdict(set)
    unread: dict[str, ReadFailure] = {}
    for pod, _ in pairs:
        there = federation.accounts.get(pod.metadata.namespace)
        if isinstance(there, ReadFailure):
            unread[pod.metadata.namespace] = there
        elif there is not None and pod.spec.service_account_name not in there:
            missing[account_name(pod)].add("/".join(pod.key))
    for account, pods in sorted(missing.items()):
        message = f"service account {account} does not exist; Azure identifies these pods by it: {listed(pods)}"
        namespace, _, name = account.partition("/")
        yield problem(FEDERATED, message, f"create it: kubectl create serviceaccount -n {namespace} {name}")
    if unread:
        failure = next(iter(unread.values()))
        message = f"service accounts of {listed(unread)} could not be read: {failure.reason}"
        yield unknown(FEDERATED, message, failure.next_action("list on serviceaccounts"), cause=failure.reason)


def _forbidden(federation: FederatedAccess) -> Iterator[Finding]:
    if isinstance(federation.forbidden, ReadFailure):
        message = f"NMI's permission to request tokens could not be read: {federation.forbidden.reason}"
        then = federation.forbidden.next_action("create on subjectaccessreviews")
        yield unknown(FEDERATED, message, then, cause=federation.forbidden.reason)
        return
    if federation.unchecked:
        message = f"NMI's permission was not checked for {counted(federation.unchecked, 'more service account')}"
        then = f"one run checks at most {CHECKED_MAX}; podidctl explain pod checks that of one pod"
        yield unknown(FEDERATED, message, then)
    for account, others in federation.forbidden.items():
        if others:
            message = f"NMI's service account {account} may not request tokens of service accounts {listed(others)}"
            yield problem(FEDERATED, message, GRANT)


def _too_many_credentials(pairs: ServedPairs, settings: Sequence[NmiSettings]) -> Iterator[Finding]:
    """Report identities near or above Azure's limit. A cluster has one issuer: each subject needs a credential."""
    subjects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for pod, identity in pairs:
        if _needs_credentials(settings, identity):
            spec = identity.spec
            # By tenant and client id: several AzureIdentities may name the one identity on Azure that has the limit.
            subjects[spec.tenant_id.strip().lower(), spec.client_id.strip().lower()].add(account_name(pod))
    for (_, client), accounts in subjects.items():
        if len(accounts) > CREDENTIALS_MANY:
            too_many = len(accounts) > CREDENTIALS_MAX
            message = (
                f"pods of {len(accounts)} service accounts share client id {client}, and Azure accepts at "
                f"most {CREDENTIALS_MAX} federated credentials for one identity, including those of other clusters: "
                f"{listed(accounts)}"
            )
            yield Finding(FEDERATED, Level.PROBLEM if too_many else Level.WARNING, message, FEWER_CREDENTIALS)


def _needs_credentials(settings: Sequence[NmiSettings], identity: AzureIdentity) -> bool:
    """Return whether an NMI exchanges tokens for *identity* at Entra ID, which needs a credential for each subject."""
    try:
        # Without readable flags NMI's default counts, which is the exchange at Entra ID.
        return not settings or any(
            exchange_of(node_settings, identity) is Exchange.DIRECT for node_settings in settings
        )
    except PolicyError:  # NMI refuses the identity, which another check reports
        return False


def check_binding_permissions(
    federation: FederatedAccess, pairs: Sequence[tuple[Pod, AzureIdentity]]
) -> Iterator[Finding]:
    """Report each identity that a service account of *pairs* may not use, with the objects that permit it."""
    missing = federation.unpermitted
    if isinstance(missing, ReadFailure):
        message = (
            f"the permissions of service accounts to use identities ({BINDING_VERB}) could not be read: "
            f"{missing.reason}"
        )
        yield unknown(FEDERATED, message, missing.next_action(REVIEW_ACCESS), cause=missing.reason)
        return
    if federation.unchecked_uses:
        message = f"the permission of {counted(federation.unchecked_uses, 'more service account')} was not checked"
        limit = f"one run checks at most {CHECKED_MAX} pairs of service account and identity"
        yield unknown(FEDERATED, message, f"{limit}; podidctl explain pod checks one")
    owners = {account_name(pod) for pod, _ in pairs}
    for client_id, accounts in missing.items():
        # The reviews also cover the accounts of exempt pods, to which IMDS responds.
        refused = [account for account in accounts if account in owners]
        if not refused:
            continue
        message = (
            f"RBAC does not let service accounts {listed(refused)} use the identity with client id "
            f"{client_id} ({BINDING_VERB}), so the cluster's token proxy refuses their next exchange"
        )
        then = APPLY if is_grantable(client_id) else NOT_A_GUID
        yield problem(FEDERATED, message, then, manifest=manifest_of({client_id: refused}))


POD_CHECKS: Final = (service_account_links, permission_links)


CHECKS: Final = (check_federated_identities,)
