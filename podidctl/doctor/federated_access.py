"""Reader of the state that federated identities depend on: the pods' service accounts and NMI's permission to request
their tokens.
"""

from collections.abc import Sequence
from functools import partial

from nmi.tokens.assertions import SERVICE_ACCOUNTS
from podidctl.diagnosis.access_reviews import may_request_tokens, service_account_of
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.service_accounts import account_name
from podidctl.doctor.federated_identities import ACCOUNTS_MAX, served_pairs
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.state import FederatedAccess, Objects
from podidctl.fair_order import by_turns, namespace_of
from podidentity.kube.client import Client


async def read_federated_access(
    client: Client, objects: Objects | ReadFailure, nmi: Sequence[Daemon] | ReadFailure
) -> FederatedAccess:
    """Return this state. Reads nothing if no pod has a federated identity. Raises NoResponse."""
    pods = [pod for pod, _ in served_pairs(objects)] if isinstance(objects, Objects) else []
    namespaces = sorted({each.metadata.namespace for each in pods})
    accounts = {each: await or_failure(_accounts(client, each)) for each in namespaces}
    names = sorted({account_name(each) for each in pods if each.spec.service_account_name})
    ours = () if isinstance(nmi, ReadFailure) else nmi
    its = sorted(
        {
            service_account_of(each)
            for each in ours
            if any(one.settings.federated_identities for one in readable_configurations([each]))
        }
    )
    checked = by_turns(names, namespace_of)[:ACCOUNTS_MAX]
    return FederatedAccess(
        accounts, await or_failure(_forbidden(client, its, checked)), unchecked=len(names) - len(checked) if its else 0
    )


async def _accounts(client: Client, namespace: str) -> frozenset[str]:
    return frozenset({each.metadata.name for each in await client.list(SERVICE_ACCOUNTS, namespace)})


async def _forbidden(client: Client, its: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for account in its:
        allowed = await in_batches(partial(may_request_tokens, client, account, *each.split("/")) for each in names)
        found[account] = tuple(name for name, may in zip(names, allowed, strict=True) if not may)
    return found
