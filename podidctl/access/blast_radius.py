"""Reach of an attacker in one pod or one node, or with the credentials of NMI or MIC, today and if every AzureIdentity
were federated. Pure.

The reach of a pod or a node is a function of the parts of a review, so that it also exists for a stored document.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mic.decisions.assignments import misconfigured
from podidctl.access.schema import (
    AccessReview,
    BlastRadius,
    Explained,
    Grant,
    GrantState,
    Host,
    NodeAccess,
    PodAccess,
    ProgramAccess,
    Reach,
)
from podidctl.access.targets import secret_of
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.rbac import Permissions, Request, service_account
from podidctl.facts.kinds import service_account_of
from podidentity.resources import AzureIdentity, IdentityType

REACHED_TODAY: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.LEFTOVER, GrantState.POSSIBLE})
REACHED_FEDERATED: Final = REACHED_TODAY | {GrantState.DISABLED}
STAYS: Final = frozenset({Explained.CLUSTER, Explained.NOTHING})
"""Attached identities that remain on the host if every AzureIdentity were federated: MIC did not attach them."""
NOT_READ: Final = "its permissions are unknown, because roles and role bindings could not be read"


class BlastRadiusIndex:
    """Grants, pods and hosts by name."""

    def __init__(self, pods: Iterable[PodAccess], grants: Iterable[Grant], hosts: Iterable[Host]) -> None:
        self._grants: defaultdict[str, list[Grant]] = defaultdict(list)
        for grant in grants:
            self._grants[grant.pod].append(grant)
        self._hosts = {host.id: host for host in hosts}
        self._on_node: defaultdict[str, list[PodAccess]] = defaultdict(list)
        for pod in pods:
            self._on_node[pod.node].append(pod)

    def of_node(self, node: str, host: str, accounts: Iterable[str]) -> BlastRadius:
        """Return the reach of *node* on *host*, where NMI and MIC run with *accounts*."""
        grants = [grant for pod in self._on_node.get(node, ()) for grant in self._grants.get(pod.full_name, ())]
        # A node's root reads the tokens of all its pods, so it also gets what its pods' own requests do not.
        return _radius(grants, self._hosts.get(host), accounts, with_bypassed=True)

    def of_pod(self, pod: PodAccess, node: NodeAccess | None) -> BlastRadius:
        """Return the reach of *pod* on *node*."""
        if node is not None and pod.takes_over_node:
            return node.blast_radius
        host = self._hosts.get(node.host) if node is not None and pod.host_access else None
        return _radius(self._grants.get(pod.full_name, ()), host, (), with_bypassed=False)


def pod_blast_radius(review: AccessReview, pod: PodAccess) -> BlastRadius:
    """Return the reach of one pod of *review*. For many pods create one `BlastRadiusIndex`."""
    index = BlastRadiusIndex(review.pods, review.grants, review.hosts)
    return index.of_pod(pod, next((node for node in review.nodes if node.name == pod.node), None))


def _radius(grants: Iterable[Grant], host: Host | None, accounts: Iterable[str], *, with_bypassed: bool) -> BlastRadius:
    own = list(grants)
    bypassed = {GrantState.BYPASSED} if with_bypassed else set()
    today = {grant.identity for grant in own if grant.state in REACHED_TODAY}
    federated = {grant.identity for grant in own if grant.state in REACHED_FEDERATED | bypassed}
    return BlastRadius(
        today=_reach(today, host, frozenset(Explained)),
        federated=_reach(federated, host, STAYS),
        accounts=sorted(set(accounts)),
    )


def _reach(identities: set[str], host: Host | None, explained: frozenset[Explained]) -> Reach:
    attached = [identity for identity in host.attached if identity.explained in explained] if host is not None else []
    return Reach(
        identities=sorted(identities.union(*(identity.identities for identity in attached))),
        others=sorted(identity.resource_id for identity in attached if not identity.identities),
        system_assigned=host.system_assigned if host is not None else False,
        complete=host is None or host.read,
    )


def find_programs(case: ClusterCase, permissions: Permissions | None, grants: Sequence[Grant]) -> list[ProgramAccess]:
    """Return one value per program and service account, sorted. *permissions*: None if RBAC could not be read."""
    nmi_accounts = {service_account_of(daemon) for daemon in case.nmi}
    mic_accounts = {service_account_of(daemon) for daemon in case.mic}
    identities = case.facts.identities
    return [
        *(_mic(account, identities) for account in sorted(mic_accounts)),
        *(_nmi(account, identities, permissions, grants) for account in sorted(nmi_accounts)),
    ]


def _nmi(
    account: str, identities: Iterable[AzureIdentity], permissions: Permissions | None, grants: Sequence[Grant]
) -> ProgramAccess:
    accounts: defaultdict[str, set[str]] = defaultdict(set)
    for grant in grants:
        if grant.service_account:
            accounts[grant.identity].add(grant.service_account)
    today = [] if permissions is None else sorted(_within_nmis_reach(account, identities, permissions, accounts))
    reason = (
        "NMI may read the Secrets of identities of type 1 and 2, and request tokens of the service accounts of "
        "identities of type 3; if all are federated, of every pod with an identity"
    )
    return ProgramAccess(
        program="NMI",
        account=account,
        today=today,
        federated=sorted({grant.identity for grant in grants}),
        why=reason if permissions is not None else NOT_READ,
    )


def _within_nmis_reach(
    account: str,
    identities: Iterable[AzureIdentity],
    permissions: Permissions,
    accounts: Mapping[str, set[str]],
) -> Iterator[str]:
    subjects = service_account(account)
    for identity in identities:
        name, secret = "/".join(identity.key), secret_of(identity)
        if secret:
            requests = [Request("get", "", "secrets", *secret.split("/", 1))]
        elif identity.spec.type == IdentityType.FEDERATED:
            trusted = sorted(accounts.get(name, ()))
            requests = [
                Request("create", "", "serviceaccounts/token", *trusted_account.split("/", 1))
                for trusted_account in trusted
            ]
        else:
            continue
        if any(permissions.allows(subjects, trusted_account) for trusted_account in requests):
            yield name


def _mic(account: str, identities: Iterable[AzureIdentity]) -> ProgramAccess:
    usable = (
        "/".join(identity.key) for identity in identities if not misconfigured(identity) and identity.spec.type == 0
    )
    return ProgramAccess(
        program="MIC",
        account=account,
        today=sorted(usable),
        federated=[],
        why="MIC's Azure credentials can attach each identity of type 0 to a host; identities of type 3 need none",
    )
