"""Checks of federated identities (type 3): their requirements on NMI, on the API server and on Azure. Pure."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nmi.settings import Settings
from nmi.tokens.source import PolicyError
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.exchanges import exchange_of
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.service_accounts import GRANT, account_name
from podidctl.doctor import programs
from podidctl.doctor.binding_permissions import check_binding_permissions
from podidctl.doctor.objects import live_pods
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import FederatedAccess, Objects, ServerState
from podidctl.printing import listed
from podidentity.azure.federation import Exchange
from podidentity.report import counted
from podidentity.resources import AzureIdentity, IdentityType, Pod
from podidentity.telemetry.logs import redacted

CHECK: Final = "federated"
CREDENTIALS_MAX: Final = 20
"""Azure's limit of federated credentials for one managed identity or application."""
CREDENTIALS_MANY: Final = 15
"""The number above which an identity is reported before it reaches the limit."""
FEWER_CREDENTIALS: Final = (
    "on AKS use identity bindings, which need no credential for each service account (podidctl migrate plan -o az "
    "--exchange identityBindings --cluster RESOURCE-ID, and federated.exchange in the chart's values); elsewhere let "
    "pods of one application share a service account, or distribute them over more identities"
)
ACCOUNTS_MAX: Final = 200
"""Service accounts that one command checks."""
OLDEST_MINOR: Final = 30
"""The first Kubernetes 1.x with ValidatingAdmissionPolicies, one of which limits the tokens that NMI may request."""

ServedPairs = Sequence[tuple[Pod, AzureIdentity]]


def served_pairs(objects: Objects) -> list[tuple[Pod, AzureIdentity]]:
    """Return the live pods, each with every federated identity that serves it."""
    federations = {each.key: each for each in objects.identities if each.spec.type == IdentityType.FEDERATED}
    selected: defaultdict[tuple[str, str], dict[tuple[str, str], AzureIdentity]] = defaultdict(dict)
    for binding in objects.bindings:
        namespace = binding.metadata.namespace
        identity = federations.get((namespace, binding.spec.azure_identity))
        if identity is not None:
            selected[namespace, binding.spec.selector][identity.key] = identity
    return [
        (pod, identity)
        for pod in live_pods(objects)
        if not pod.spec.host_network
        for identity in selected.get((pod.metadata.namespace, pod.binding_label), {}).values()
    ]


def check_federated_identities(
    federation: FederatedAccess,
    objects: Objects,
    nmi: Sequence[Daemon],
    server: ServerState | ReadFailure,
    exempt: Callable[[Pod], str] = lambda _: "",
) -> Iterator[Finding]:
    """Report all faults of federated identities; nothing if there are none."""
    identities = [each for each in objects.identities if each.spec.type == IdentityType.FEDERATED]
    if not identities:
        return
    pairs = [(pod, identity) for pod, identity in served_pairs(objects) if not exempt(pod)]
    faults = [
        *_enabled(identities, pairs, nmi),
        *_kubernetes_version(server),
        *_wrong_namespaces(identities, objects),
        *_accounts(federation, pairs),
        *_forbidden(federation),
        *check_binding_permissions(federation, pairs),
        *_too_many_credentials(pairs, nmi),
    ]
    yield from faults
    if not faults:
        accounts = counted(len({account_name(pod) for pod, _ in pairs}), "service account")
        yield make_finding(
            CHECK, Level.OK, f"{counted(len(identities), 'identity', 'identities')} for pods of {accounts}"
        )


def _enabled(identities: Sequence[AzureIdentity], pairs: ServedPairs, nmi: Sequence[Daemon]) -> Iterator[Finding]:
    settings = [each.settings for each in programs.readable_configurations(nmi)]
    without = [each.node_name for each in settings if not each.federated_identities]
    if not without:
        return
    if len(without) < len(settings):
        says = f"NMI has no --federated-identities on {counted(len(without), 'node')}, but has it on others: "
        then = "finish the rollout of the DaemonSet: kubectl rollout status"
        yield make_finding(CHECK, Level.WARNING, says + listed(without), then)
        return
    names = listed("/".join(each.key) for each in identities)
    says = (
        f"{counted(len(identities), 'identity is', 'identities are')} federated (type 3), and no NMI has "
        f"--federated-identities: {names}"
    )
    then = "set federated.enabled and federated.namespaces in the chart's values, or give these identities another type"
    yield make_finding(CHECK, Level.PROBLEM if pairs else Level.WARNING, says, then)


def _kubernetes_version(server: ServerState | ReadFailure) -> Iterator[Finding]:
    match = re.match(r"v1\.(\d+)", server.version) if isinstance(server, ServerState) else None
    if isinstance(server, ServerState) and match is not None and int(match[1]) < OLDEST_MINOR:
        says = (
            f"Kubernetes {server.version} has no ValidatingAdmissionPolicy, which prevents the use of NMI's own token "
            "for any token of the service accounts that NMI may request"
        )
        yield make_finding(CHECK, Level.WARNING, says, f"upgrade to 1.{OLDEST_MINOR} or newer")


def _wrong_namespaces(identities: Sequence[AzureIdentity], objects: Objects) -> Iterator[Finding]:
    """Report identities whose pods are all in other namespaces. Another check reports the pods that are not served."""
    selectors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in objects.bindings:
        selectors[binding.metadata.namespace, binding.spec.azure_identity].add(binding.spec.selector)
    namespaces: defaultdict[str, set[str]] = defaultdict(set)
    for pod in live_pods(objects):
        namespaces[pod.binding_label].add(pod.metadata.namespace)
    for identity in identities:
        where = set[str]().union(*(namespaces.get(each, set()) for each in selectors[identity.key]))
        if where and identity.metadata.namespace not in where:
            says = (
                f"AzureIdentity {'/'.join(identity.key)} is federated, but the pods that its bindings select are all "
                f"in other namespaces ({listed(where)}), which it never serves"
            )
            then = (
                "create AzureIdentity and AzureIdentityBinding in the pods' namespace, or a binding for pods of this "
                "namespace"
            )
            yield make_finding(CHECK, Level.WARNING, says, then)


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
        says = f"service account {account} does not exist; Azure identifies these pods by it: {listed(pods)}"
        namespace, _, name = account.partition("/")
        yield make_finding(
            CHECK, Level.PROBLEM, says, f"create it: kubectl create serviceaccount -n {namespace} {name}"
        )
    if unread:
        says = f"service accounts of {listed(unread)} could not be read: {next(iter(unread.values())).why}"
        yield make_finding(
            CHECK, Level.UNKNOWN, says, next(iter(unread.values())).next_action("list on serviceaccounts")
        )


def _forbidden(federation: FederatedAccess) -> Iterator[Finding]:
    if isinstance(federation.forbidden, ReadFailure):
        says = f"NMI's permission to request tokens could not be read: {federation.forbidden.why}"
        yield make_finding(
            CHECK, Level.UNKNOWN, says, federation.forbidden.next_action("create on subjectaccessreviews")
        )
        return
    if federation.unchecked:
        says = f"NMI's permission was not checked for {counted(federation.unchecked, 'more service account')}"
        then = f"one run checks at most {ACCOUNTS_MAX}; podidctl explain pod checks that of one pod"
        yield make_finding(CHECK, Level.UNKNOWN, says, then)
    for account, others in federation.forbidden.items():
        if others:
            says = f"NMI's service account {account} may not request tokens of service accounts {listed(others)}"
            yield make_finding(CHECK, Level.PROBLEM, says, GRANT)


def _too_many_credentials(pairs: ServedPairs, nmi: Sequence[Daemon]) -> Iterator[Finding]:
    """Report identities near or above Azure's limit. A cluster has one issuer: each subject needs a credential."""
    settings = [each.settings for each in programs.readable_configurations(nmi)]
    subjects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for pod, identity in pairs:
        if _needs_credentials(settings, identity):
            spec = identity.spec
            subjects[spec.tenant_id.strip().lower(), spec.client_id.strip().lower()].add(account_name(pod))
    for (_, client), accounts in subjects.items():
        if len(accounts) > CREDENTIALS_MANY:
            too_many = len(accounts) > CREDENTIALS_MAX
            says = (
                f"pods of {len(accounts)} service accounts share client id {redacted(client)}, and Azure accepts at "
                f"most {CREDENTIALS_MAX} federated credentials for one identity, including those of other clusters: "
                f"{listed(accounts)}"
            )
            yield make_finding(CHECK, Level.PROBLEM if too_many else Level.WARNING, says, FEWER_CREDENTIALS)


def _needs_credentials(settings: Sequence[Settings], identity: AzureIdentity) -> bool:
    """Return whether an NMI exchanges tokens for *identity* at Entra ID, which needs a credential for each subject."""
    try:
        return not settings or any(exchange_of(each, identity) is Exchange.DIRECT for each in settings)
    except PolicyError:  # NMI refuses the identity, which another check reports
        return False
