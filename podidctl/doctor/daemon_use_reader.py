"""Reader of the permissions of NMI's and MIC's service accounts to use identities by AKS identity bindings.

The cluster's bindings have the permissions for every client id, also for one that no AzureIdentity names. An access
review also has those of other authorizers, and needs no permission to read the bindings.
"""

from collections.abc import Sequence
from functools import partial

from podidctl.access.cluster_objects import Rbac
from podidctl.access.projections import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES
from podidctl.diagnosis.access_reviews import identity_decision, service_account_of
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.daemon_uses import REVIEWS_MAX, DaemonAccount, bound_uses, review_resources
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.state import DaemonUse, DaemonUses, Objects
from podidentity.azure.identity_permissions import ALL_IDENTITIES
from podidentity.kube.client import Client


async def read_daemon_uses(
    client: Client,
    objects: Objects | ReadFailure,
    nmi: Sequence[Daemon] | ReadFailure,
    mic: Sequence[Daemon] | ReadFailure,
) -> DaemonUses:
    """Return these permissions. Reads nothing if no NMI uses identity bindings. Raises NoResponse."""
    daemons = [] if isinstance(nmi, ReadFailure) else [("NMI", each) for each in nmi]
    settings = [each.settings for each in readable_configurations([each for _, each in daemons])]
    resources = review_resources(settings, objects.identities if isinstance(objects, Objects) else ())
    if not resources:
        return DaemonUses()
    daemons += [] if isinstance(mic, ReadFailure) else [("MIC", each) for each in mic]
    accounts = sorted({DaemonAccount(program, service_account_of(each)) for program, each in daemons})
    rbac = await or_failure(_cluster_rbac(client))
    bound = rbac if isinstance(rbac, ReadFailure) else tuple(bound_uses(rbac, accounts))
    wanted = [(account, each) for each in resources for account in accounts if not _has(bound, account, each)]
    reviewed = await or_failure(_reviewed_uses(client, wanted[:REVIEWS_MAX]))
    return DaemonUses(bound, reviewed, max(0, len(wanted) - REVIEWS_MAX))


def _has(uses: Sequence[DaemonUse] | ReadFailure, account: DaemonAccount, resource: str) -> bool:
    return not isinstance(uses, ReadFailure) and any(
        (each.program, each.account) == account and (not each.client_ids or resource in each.client_ids)
        for each in uses
    )


async def _cluster_rbac(client: Client) -> Rbac:
    # A RoleBinding gives no permission for the proxy's review, which has no namespace.
    return Rbac(
        cluster_roles=tuple(await client.list(CLUSTER_ROLES)),
        cluster_role_bindings=tuple(await client.list(CLUSTER_ROLE_BINDINGS)),
    )


async def _reviewed_uses(client: Client, wanted: Sequence[tuple[DaemonAccount, str]]) -> tuple[DaemonUse, ...]:
    decisions = await in_batches(
        partial(identity_decision, client, each.account, resource) for each, resource in wanted
    )
    found: dict[tuple[DaemonAccount, str], list[str]] = {}
    for (account, resource), decision in zip(wanted, decisions, strict=True):
        if decision.allowed:
            found.setdefault((account, decision.reason), []).append(resource)
    return tuple(
        DaemonUse(
            program=account.program,
            account=account.account,
            client_ids=() if ALL_IDENTITIES in resources else tuple(resources),
            reason=reason,
        )
        for (account, reason), resources in found.items()
    )
