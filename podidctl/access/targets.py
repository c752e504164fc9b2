"""AzureIdentities that an action leads to, directly or through pods, Secrets and service accounts. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeAlias

from mic.decisions.assignments import misconfigured
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import TAKES_OVER, Action, Grant, HostAccess, ProgramAccess
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import account_name
from podidctl.evaluation.tokens import SERVICE_PRINCIPAL_TYPES
from podidentity.resources import AzureIdentity

Names: TypeAlias = frozenset[str]


class ByName:
    """Identities by the name of a namespaced object (`namespace/name`), with their unions by namespace."""

    def __init__(self, identities: Mapping[str, AbstractSet[str]]) -> None:
        self.of_object: Mapping[str, Names] = {name: frozenset(its) for name, its in identities.items()}
        self._objects: defaultdict[str, dict[str, Names]] = defaultdict(dict)
        for name, its in self.of_object.items():
            namespace, _, bare = name.partition("/")
            self._objects[namespace][bare] = its
        self._by_namespace = {name: _union(several.values()) for name, several in self._objects.items()}
        self._all = _union(self._by_namespace.values())

    def within(self, namespace: str, names: Names = frozenset()) -> Names:
        """Return the identities of the objects in *namespace* (all if empty) with one of *names* (all if empty)."""
        if not names:
            return self._by_namespace.get(namespace, frozenset()) if namespace else self._all
        several = [self._objects.get(namespace, {})] if namespace else self._objects.values()
        # The intersection takes the time of the smaller set: a rule can have thousands of names.
        return _union(objects[name] for objects in several for name in objects.keys() & names)


def _union(several: Iterable[AbstractSet[str]]) -> Names:
    return frozenset().union(*several)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """AzureIdentities that each action leads to. Names of namespaced things are `namespace/name`."""

    identities: Names
    offered: Callable[[str], Names]
    """Identities that bindings give to pods of a namespace with any label; of every namespace if it is empty."""
    of_pods: ByName
    """By pod: its grants, and with access to its host those of the host."""
    of_nodes: Mapping[str, Names] = field(default_factory=dict)
    """By node: those of its pods."""
    of_accounts: ByName
    """By service account: identities of type 3, those within reach of NMI's and MIC's own accounts, and those that the
    account's permissions lead to."""
    of_secrets: ByName
    """By Secret."""
    only: Names | None = None
    """Identities that count; None for all. Permissions that lead to none of them are left out."""

    def of(self, action: Action, namespace: str, names: Names, *, on_nodes: bool = False) -> Names:
        """Return the identities that *action* leads to in *namespace* (all if empty) on *names* (all if empty), which
        with *on_nodes* are the names of nodes.
        """
        if on_nodes:
            identities = _union(self.of_nodes[node] for node in self.of_nodes.keys() & names)
        else:
            identities = self._all_of(action, namespace, names)
        return identities if self.only is None else identities & self.only

    def _all_of(self, action: Action, namespace: str, names: Names) -> Names:
        match action:
            case Action.PODS | Action.WORKLOADS:
                # The author of a pod chooses its label, its service account and the Secrets that it mounts.
                identities = (
                    self.offered(namespace) | self.of_accounts.within(namespace) | self.of_secrets.within(namespace)
                )
            case Action.LABELS:
                # A change of the image, or of the address in the status, uses the pod's own identities.
                identities = self.offered(namespace) | self.of_pods.within(namespace, names)
            case Action.EXEC:
                identities = self.of_pods.within(namespace, names)
            case Action.TOKENS:
                identities = self.of_accounts.within(namespace, names)
            case Action.IMPERSONATE if namespace:
                # Of all that can be impersonated only service accounts are namespaced.
                identities = self.of_accounts.within(namespace, names)
            case Action.SECRETS:
                identities = self.of_secrets.within(namespace, names)
            case Action.BINDINGS:
                identities = _within(self.identities, namespace)
            case Action.ROLES if namespace:
                identities = _within(self.identities, namespace) | self.offered(namespace)
                identities |= self.of_pods.within(namespace) | self.of_accounts.within(namespace)
                identities |= self.of_secrets.within(namespace)
            case _:
                identities = self.identities
        return identities


def _within(names: Names, namespace: str) -> Names:
    return names if not namespace else frozenset(name for name in names if name.startswith(f"{namespace}/"))


def find_targets(
    case: ClusterCase,
    pods: Iterable[ReviewedPod],
    *,
    grants: Sequence[Grant],
    programs: Iterable[ProgramAccess],
    ways: Mapping[str, list[HostAccess]],
    attached: Mapping[str, Names],
) -> Targets:
    """Return the identities that actions lead to without the permissions of service accounts. *pods* have not ended;
    *ways*: by pod; *attached*: identities of its host, by node.

    A client that runs a command in a pod has the identities of its grants and of its service account, with one of the
    *ways* those of its host, and if the pod can take over its node, those of all pods there.
    """
    of_accounts: defaultdict[str, set[str]] = defaultdict(set)
    of_pods: defaultdict[str, set[str]] = defaultdict(set)
    for grant in grants:
        of_pods[grant.pod].add(grant.identity)
        if grant.service_account:
            of_accounts[grant.service_account].add(grant.identity)
    for program in programs:
        of_accounts[program.account] |= {*program.today}
    of_secrets: defaultdict[str, set[str]] = defaultdict(set)
    for identity in case.facts.identities:
        if secret := secret_of(identity):
            of_secrets[secret].add("/".join(identity.key))
    by_name = {"/".join(pod.key): pod for pod in pods}
    on_node: defaultdict[str, set[str]] = defaultdict(set)
    for name, pod in by_name.items():
        of_pods[name] |= of_accounts.get(account_name(pod), set())
        on_node[pod.spec.node_name] |= of_pods[name]
    # A second loop, because a pod that takes over its node has what all pods there have.
    for name, pod in by_name.items():
        if ways[name]:
            of_pods[name] |= attached.get(pod.spec.node_name, frozenset())
        if any(access.way in TAKES_OVER for access in ways[name]):
            of_pods[name] |= on_node[pod.spec.node_name]
    return Targets(
        identities=frozenset("/".join(identity.key) for identity in case.facts.identities),
        offered=offered_identities(case),
        of_pods=ByName({pod: its for pod, its in of_pods.items() if its}),
        of_accounts=ByName(of_accounts),
        of_secrets=ByName(of_secrets),
    )


def offered_identities(case: ClusterCase) -> Callable[[str], Names]:
    """Return a function that returns the identities that bindings give to pods of a namespace with any label; with an
    empty namespace, of all namespaces.
    """
    identities = {identity.key: identity for identity in case.facts.identities}
    everywhere: set[str] = set()
    of_namespace: defaultdict[str, set[str]] = defaultdict(set)
    for binding in case.facts.bindings:
        namespace = binding.metadata.namespace
        identity = identities.get((namespace, binding.spec.azure_identity))
        if identity is None or not binding.spec.selector or misconfigured(identity):
            continue
        of_namespace[namespace].add("/".join(identity.key))
        if not (case.namespaced or identity.namespaced):
            everywhere.add("/".join(identity.key))
    of_everywhere, of_all = frozenset(everywhere), _union(of_namespace.values())
    return lambda namespace: of_all if not namespace else of_everywhere.union(of_namespace.get(namespace, ()))


def secret_of(identity: AzureIdentity) -> str:
    """Return the Secret of a service principal as `namespace/name`, or an empty string."""
    secret = identity.spec.client_password
    if identity.spec.type not in SERVICE_PRINCIPAL_TYPES or secret is None or not secret.name:
        return ""
    return f"{secret.namespace or identity.metadata.namespace}/{secret.name}"
