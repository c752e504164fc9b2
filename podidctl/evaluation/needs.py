"""What a command has to read or have reviewed, by the objects that it has read, and the limits of one run. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from nmi.settings import NmiSettings
from podidctl.evaluation.federated import account_name, proxied_identities
from podidctl.evaluation.pod import host_of
from podidctl.evaluation.rbac import ALL, BoundRule, Permissions, service_account
from podidctl.evaluation.tokens import SERVICE_PRINCIPAL_TYPES
from podidctl.facts.kinds import Daemon, PlacedNode, service_account_of
from podidctl.facts.model import DaemonUse, Facts, IdentityKey, ReadFailure, Right, readable
from podidctl.facts.rbac import Rbac
from podidctl.facts.settings import readable_configurations
from podidctl.report.text import by_turns, namespace_of
from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB, Exchange
from podidentity.azure.identity_permissions import ALL_IDENTITIES, is_grantable, permission_resource
from podidentity.azure.resource_ids import Host
from podidentity.resources import AzureIdentity, IdentityType, Pod

CHECKED_MAX: Final = 200
"""Objects of one kind that a command reads or checks one by one, and permissions of one kind that it has reviewed."""
READ_PERMISSION: Final = (
    "run this command with permission to get these Secrets: only the presence of their keys is checked"
)
NOT_READ: Final = ReadFailure(f"one run reads at most {CHECKED_MAX} Secrets")
"""The check of a Secret beyond that limit."""
ServedPairs = Sequence[tuple[Pod, AzureIdentity]]


def live_pods(facts: Facts) -> list[Pod]:
    """Return the labelled pods that have not ended."""
    return [pod for pod in facts.pods if pod.binding_label and not pod.finished]


def namespaces_of(identities: Iterable[AzureIdentity], *, cross_namespace: bool) -> tuple[str, ...]:
    """Return the namespaces, sorted, of the Secrets that service principals among *identities* name.

    A Secret of another namespace counts only with *cross_namespace*: NMI does not read it otherwise.
    """
    names = set()
    for identity in identities:
        own, reference = identity.metadata.namespace, identity.spec.client_password
        if identity.spec.type in SERVICE_PRINCIPAL_TYPES and reference is not None:
            names.add(reference.namespace if cross_namespace and reference.namespace else own)
    return tuple(sorted(names))


def needed_identities(facts: Facts) -> set[IdentityKey]:
    """Return the identities of bindings that select a running pod."""
    labels = {pod.binding_label for pod in live_pods(facts)}
    return {
        (binding.metadata.namespace, binding.spec.azure_identity)
        for binding in facts.bindings
        if binding.spec.selector in labels
    }


class Review(NamedTuple):
    """A permission of a service account that the API server reviews."""

    account: str
    """`namespace/name`."""
    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """The review's `resourceAttributes`."""
        # An empty group is the core group; an absent namespace or name means all of them.
        return {key: value for key, value in self._asdict().items() if key != "account" and (value or key == "group")}


def token_review(account: str, service_account: str) -> Review:
    """Return the review whether NMI's *account* may request tokens of *service_account* (`namespace/name`)."""
    namespace, _, name = service_account.partition("/")
    return Review(account, "create", "", "serviceaccounts", "token", namespace, name)


def use_review(account: str, client_id: str) -> Review:
    """Return the review whether *account* may use the identity at the token proxy; `*` for all identities."""
    return Review(account, BINDING_VERB, BINDING_GROUP, permission_resource(client_id))


def secret_review(account: str, namespace: str) -> Review:
    """Return the review whether *account* may get Secrets of *namespace*, or of all namespaces."""
    return Review(account, "get", "", "secrets", namespace=namespace)


def right_review(account: str, right: Right) -> Review:
    """Return the review whether *account* has *right*."""
    return Review(account, right.verb, right.group, right.resource, "", right.namespace, right.name)


def secret_namespaces(facts: Facts) -> dict[str, list[str]]:
    """Return by NMI's service account the namespaces of the Secrets that it needs, existing ones first."""
    existing = {identity.metadata.namespace for identity in facts.identities}
    needed: dict[str, set[str]] = {}
    for daemon in readable(facts.nmi):
        # Per daemon, because a Secret of another namespace needs a permission only where an NMI has the flag.
        cross = any(
            configuration.settings.allow_cross_namespace_secrets for configuration in readable_configurations([daemon])
        )
        own = namespaces_of(facts.identities, cross_namespace=cross)
        needed.setdefault(service_account_of(daemon), set()).update(own)
    # With --allow-cross-namespace-secrets an AzureIdentity may name any text as the namespace of its Secret.
    return {account: sorted(names, key=lambda name: (name not in existing, name)) for account, names in needed.items()}


def used_hosts(facts: Facts) -> Sequence[Host]:
    """Return the hosts of labelled pods, each once, sorted by key."""
    nodes = {pod.spec.node_name for pod in live_pods(facts)}
    return distinct_hosts(node for node in facts.nodes if node.metadata.name in nodes)


def distinct_hosts(nodes: Iterable[PlacedNode]) -> Sequence[Host]:
    """Return the hosts of *nodes*, each once, sorted by key."""
    by_key = {host.key: host for host in map(host_of, nodes) if host is not None}
    return [by_key[key] for key in sorted(by_key)]


def served_pairs(facts: Facts) -> list[tuple[Pod, AzureIdentity]]:
    """Return the live pods, each with every federated identity that serves it."""
    federations = {
        identity.key: identity for identity in facts.identities if identity.spec.type == IdentityType.FEDERATED
    }
    selected: defaultdict[tuple[str, str], dict[tuple[str, str], AzureIdentity]] = defaultdict(dict)
    for binding in facts.bindings:
        namespace = binding.metadata.namespace
        identity = federations.get((namespace, binding.spec.azure_identity))
        if identity is not None:
            selected[namespace, binding.spec.selector][identity.key] = identity
    return [
        (pod, identity)
        for pod in live_pods(facts)
        # To a pod on the host's network IMDS responds, and not NMI.
        if not pod.spec.host_network
        for identity in selected.get((pod.metadata.namespace, pod.binding_label), {}).values()
    ]


class BindingUse(NamedTuple):
    """A service account and an identity that it uses by identity bindings."""

    account: str
    """`namespace/name`."""
    client_id: str
    """In lower case."""

    @property
    def namespace(self) -> str:
        return namespace_of(self.account)


def binding_uses(pairs: Sequence[tuple[Pod, AzureIdentity]], nmi: Sequence[Daemon]) -> list[BindingUse]:
    """Return the uses of *pairs* for which an NMI sends the exchange to the token proxy, each once, sorted."""
    identities = list({identity.key: identity for _, identity in pairs}.values())
    clients: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for node_settings in _exchanging(configuration.settings for configuration in readable_configurations(nmi)):
        for client_id, its in proxied_identities(node_settings, identities).items():
            for identity in its:
                clients[identity.key].add(client_id)
    uses = {
        BindingUse(account_name(pod), client_id)
        for pod, identity in pairs
        # A pod without a service account gets no token, which another check reports.
        if pod.spec.service_account_name
        for client_id in clients.get(identity.key, ())
    }
    return sorted(uses)


def _exchanging(settings: Iterable[NmiSettings]) -> list[NmiSettings]:
    """Return those of *settings* that serve federated identities, one for each way to choose the exchange."""
    # All NMIs of a cluster have one or two ways, and each is applied to all identities.
    return list(
        {
            (node_settings.federated_exchange, node_settings.federated_exchange_annotation): node_settings
            for node_settings in settings
            if node_settings.federated_identities
        }.values()
    )


class FederatedNeeds(NamedTuple):
    """What the checks of federated identities depend on. Empty if no pod has one."""

    namespaces: Sequence[str]
    """Namespaces of the pods' service accounts."""
    tokens: Sequence[Review]
    unchecked: int
    """Number of service accounts beyond the limit of one command."""
    uses: Sequence[BindingUse]
    unchecked_uses: int


def federated_needs(facts: Facts) -> FederatedNeeds:
    """Return these needs, of at most CHECKED_MAX service accounts and as many uses."""
    pairs, nmi = served_pairs(facts), readable(facts.nmi)
    names = sorted({account_name(pod) for pod, _ in pairs if pod.spec.service_account_name})
    accounts = {
        service_account_of(daemon)
        for daemon in nmi
        if any(configuration.settings.federated_identities for configuration in readable_configurations([daemon]))
    }
    # The limit must not be used up by the service accounts of one tenant.
    checked = by_turns(names, namespace_of)[:CHECKED_MAX]
    uses = by_turns(binding_uses(pairs, nmi), lambda use: use.namespace)
    return FederatedNeeds(
        namespaces=sorted({pod.metadata.namespace for pod, _ in pairs}),
        tokens=[token_review(account, namespace) for account in sorted(accounts) for namespace in checked],
        unchecked=len(names) - len(checked) if accounts else 0,
        uses=uses[:CHECKED_MAX],
        unchecked_uses=max(0, len(uses) - CHECKED_MAX),
    )


class DaemonAccount(NamedTuple):
    """A service account of NMI or MIC."""

    program: str
    account: str
    """`namespace/name`."""


def review_resources(settings: Sequence[NmiSettings], identities: Iterable[AzureIdentity]) -> list[str]:
    """Return the resources to review: all identities, then each one for which an NMI uses the token proxy, some of each
    namespace first. Empty if no NMI uses it.
    """
    using = [
        node_settings
        for node_settings in _exchanging(settings)
        if node_settings.federated_exchange is Exchange.IDENTITY_BINDINGS or node_settings.federated_exchange_annotation
    ]
    if not using:
        return []
    # At the limit of reviews, no tenant's identities must push out those of others.
    in_turn = by_turns(identities, lambda identity: identity.metadata.namespace)
    resources = {resource: None for node_settings in using for resource in proxied_identities(node_settings, in_turn)}
    return [ALL_IDENTITIES, *(resource for resource in resources if resource != ALL_IDENTITIES)]


def bound_uses(rbac: Rbac, accounts: Iterable[DaemonAccount]) -> Iterator[DaemonUse]:
    """Return the permissions of *accounts* by *rbac*, one for each binding and subject of the service account."""
    permissions = Permissions(rbac)
    bindings = {binding.metadata.name: binding for binding in rbac.cluster_role_bindings}
    for program, account in accounts:
        for subject in service_account(account):
            rules: dict[str, list[BoundRule]] = {}
            for bound in permissions.by_subject.get(subject, ()):
                # The proxy's review has no namespace, so a RoleBinding gives no permission for it.
                if not bound.namespace and _client_ids(bound):
                    rules.setdefault(bound.binding, []).append(bound)
            for name, several in rules.items():
                client_ids = dict.fromkeys(client_id for bound in several for client_id in _client_ids(bound))
                yield DaemonUse(
                    program=program,
                    account=account,
                    client_ids=() if ALL_IDENTITIES in client_ids else tuple(sorted(client_ids)),
                    binding=name,
                    role=bindings[name].role_ref.name,
                    group=subject.name if subject.kind == "Group" else "",
                    other_subjects=len(bindings[name].subjects or ()) - 1,
                    is_general=all(ALL in (bound.rule.api_groups or ()) for bound in several),
                )


def _client_ids(bound: BoundRule) -> list[str]:
    """Return the resources of identities that the rule covers: the proxy's review has no resource name."""
    rule = bound.rule
    if (
        bound.names
        or {ALL, BINDING_VERB}.isdisjoint(rule.verbs or ())
        or {ALL, BINDING_GROUP}.isdisjoint(rule.api_groups or ())
    ):
        return []
    return [resource for resource in rule.resources or () if resource == ALL_IDENTITIES or is_grantable(resource)]


def has_use(uses: Sequence[DaemonUse] | ReadFailure, account: DaemonAccount, resource: str) -> bool:
    return not isinstance(uses, ReadFailure) and any(
        (use.program, use.account) == account and (not use.client_ids or resource in use.client_ids) for use in uses
    )
