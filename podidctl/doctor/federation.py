"""Reads what federated identities need: the pods' service accounts, and whether NMI may ask for their tokens."""

from collections.abc import Sequence

from nmi.tokens.assertions import SERVICE_ACCOUNTS
from podidctl.doctor.federated import served
from podidctl.doctor.programs import rules
from podidctl.doctor.state import Federation, Objects
from podidctl.inquiry.accounts import name_of
from podidctl.inquiry.daemons import Daemon
from podidctl.inquiry.facts import Unread
from podidctl.inquiry.gather import or_unread
from podidctl.inquiry.reviews import account_of, may_prove
from podidentity.kube.client import Client


async def federation(client: Client, objects: Objects | Unread, nmi: Sequence[Daemon] | Unread) -> Federation:
    """What is there; nothing is asked where no pod has a federated identity. Raises Unreachable."""
    pods = [pod for pod, _ in served(objects)] if isinstance(objects, Objects) else []
    namespaces = sorted({each.metadata.namespace for each in pods})
    accounts = {each: await or_unread(_accounts(client, each)) for each in namespaces}
    names = sorted({name_of(each) for each in pods if each.spec.service_account_name})
    ours = () if isinstance(nmi, Unread) else nmi
    its = sorted({account_of(each) for each in ours if any(one.settings.federated_identities for one in rules([each]))})
    return Federation(accounts, await or_unread(_forbidden(client, its, names)))


async def _accounts(client: Client, namespace: str) -> frozenset[str]:
    return frozenset({each.metadata.name for each in await client.list(SERVICE_ACCOUNTS, namespace)})


async def _forbidden(client: Client, its: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for account in its:
        found[account] = tuple([each for each in names if not await may_prove(client, account, *each.split("/"))])
    return found
