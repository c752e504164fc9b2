"""Reader of the state that federated identities depend on: the pods' service accounts, NMI's permission to request
their tokens, and their permission to use identities at the cluster's token proxy.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from nmi.tokens.assertions import SERVICE_ACCOUNTS
from podidctl.diagnosis.access_reviews import may_request_tokens, may_use_identity, service_account_of
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure, readable
from podidctl.diagnosis.service_accounts import account_name
from podidctl.doctor.binding_permissions import USES_MAX, BindingUse, binding_uses
from podidctl.doctor.federated_identities import ACCOUNTS_MAX, served_pairs
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.state import FederatedAccess, Objects
from podidctl.fair_order import by_turns, namespace_of
from podidentity.kube.client import Client


async def read_federated_access(
    client: Client, objects: Objects | ReadFailure, nmi: tuple[Daemon, ...] | ReadFailure
) -> FederatedAccess:
    """Return this state. Reads nothing if no pod has a federated identity. Raises NoResponse."""
    pairs = served_pairs(objects) if isinstance(objects, Objects) else []
    pods = [pod for pod, _ in pairs]
    namespaces = sorted({each.metadata.namespace for each in pods})
    accounts = {each: await or_failure(_accounts(client, each)) for each in namespaces}
    names = sorted({account_name(each) for each in pods if each.spec.service_account_name})
    ours = readable(nmi)
    its = sorted(
        {
            service_account_of(each)
            for each in ours
            if any(one.settings.federated_identities for one in readable_configurations([each]))
        }
    )
    checked = by_turns(names, namespace_of)[:ACCOUNTS_MAX]
    uses = by_turns(binding_uses(pairs, ours), lambda use: use.namespace)
    checked_uses = uses[:USES_MAX]
    return FederatedAccess(
        accounts,
        await or_failure(_forbidden(client, its, checked)),
        unchecked=len(names) - len(checked) if its else 0,
        unpermitted=await or_failure(_unpermitted(client, checked_uses)),
        unchecked_uses=len(uses) - len(checked_uses),
    )


async def _accounts(client: Client, namespace: str) -> frozenset[str]:
    return frozenset({each.metadata.name for each in await client.list(SERVICE_ACCOUNTS, namespace)})


async def _unpermitted(client: Client, uses: Sequence[BindingUse]) -> dict[str, tuple[str, ...]]:
    allowed = await in_batches(partial(may_use_identity, client, each.account, each.client_id) for each in uses)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for use, may in zip(uses, allowed, strict=True):
        if not may:
            found[use.client_id].append(use.account)
    return {client_id: tuple(sorted(accounts)) for client_id, accounts in found.items()}


async def _forbidden(client: Client, its: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for account in its:
        allowed = await in_batches(partial(may_request_tokens, client, account, *each.split("/")) for each in names)
        found[account] = tuple(name for name, may in zip(names, allowed, strict=True) if not may)
    return found
