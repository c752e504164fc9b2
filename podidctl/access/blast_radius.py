"""Reach of an attacker in one pod or one node, or with the credentials of NMI or MIC, today and if every AzureIdentity
were federated. Pure.

The reach of a pod or a node is a function of the parts of a review, so that it also exists for a stored document.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from mic.decisions.assignments import misconfigured
from podidctl.access.schema import (
    AccessReview,
    BlastRadius,
    Explained,
    Grant,
    GrantState,
    Host,
    PodAccess,
    ProgramAccess,
    Reach,
)
from podidctl.access.targets import secret_of
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.rbac import Permissions, Request, service_account
from podidctl.facts.kinds import service_account_of
from podidctl.report.text import grouped
from podidentity.resources import AzureIdentity, IdentityType

REACHED_TODAY: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.LEFTOVER, GrantState.POSSIBLE})
# If all identities are federated, NMI has the flag that it lacks in the state DISABLED.
REACHED_FEDERATED: Final = REACHED_TODAY | {GrantState.DISABLED}
STAYS: Final = frozenset({Explained.CLUSTER, Explained.NOTHING})
"""Attached identities that remain on the host if every AzureIdentity were federated: MIC did not attach them."""
NOT_READ: Final = "its permissions are unknown, because roles and role bindings could not be read"


class ReviewIndex:
    """The parts of a review by name."""

    def __init__(self, review: AccessReview) -> None:
        self.review = review
        self.pods = {pod.full_name: pod for pod in review.pods}
        self.nodes = {node.name: node for node in review.nodes}
        self._hosts = {host.id: host for host in review.hosts}
        self._grants = grouped((grant.pod, grant) for grant in review.grants)

    @cached_property
    def grants_of(self) -> dict[str, list[Grant]]:
        """Grants with which a pod gets tokens, by identity."""
        grants = grouped((grant.identity, grant) for grant in self.review.grants if grant.state in REACHED_TODAY)
        return dict(sorted(grants.items()))

    def host_of(self, pod: PodAccess) -> Host | None:
        """Return the host of the pod's node, as far as the review has it."""
        node = self.nodes.get(pod.node)
        return self._hosts.get(node.host) if node is not None else None

    def blast_radius_of(self, pod: PodAccess) -> BlastRadius:
        """Return the reach of one pod."""
        # An attacker on the node has the tokens of all its pods.
        if pod.takes_over_node and (node := self.nodes.get(pod.node)) is not None:
            return node.blast_radius
        host = self.host_of(pod) if pod.host_access else None
        return blast_radius(self._grants[pod.full_name], host)


def blast_radius(
    grants: Iterable[Grant], host: Host | None, accounts: Iterable[str] = (), *, of_node: bool = False
) -> BlastRadius:
    """Return the reach of a pod with *grants* and access to *host*, or of the node (*of_node*) whose pods have these
    grants, and where NMI and MIC run with *accounts*.
    """
    own = list(grants)
    # A node's root reads the tokens of all its pods, so it also gets what its pods' own requests do not.
    bypassed = {GrantState.BYPASSED} if of_node else set()
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
    accounts = grouped((grant.identity, grant.service_account) for grant in grants if grant.service_account)
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
    accounts: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    subjects = service_account(account)
    for identity in identities:
        name, secret = "/".join(identity.key), secret_of(identity)
        if secret:
            requests = [Request("get", "", "secrets", *secret.split("/", 1))]
        elif identity.spec.type == IdentityType.FEDERATED:
            requests = [
                Request("create", "", "serviceaccounts/token", *trusted.split("/", 1))
                for trusted in set(accounts.get(name, ()))
            ]
        else:
            continue
        if any(permissions.allows(subjects, request) for request in requests):
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
