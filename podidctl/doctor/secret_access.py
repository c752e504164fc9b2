"""Reads which Secrets NMI's service accounts may get, by SubjectAccessReviews."""

from collections.abc import Sequence

from podidctl.doctor.programs import rules
from podidctl.doctor.secrets import namespaces_of
from podidctl.doctor.state import Objects, SecretAccess
from podidctl.inquiry.daemons import Daemon
from podidctl.inquiry.facts import Unread
from podidctl.inquiry.reviews import account_of, allowed
from podidentity.kube.client import Client


async def secret_access(
    client: Client, objects: Objects | Unread, nmi: Sequence[Daemon] | Unread
) -> tuple[SecretAccess, ...]:
    """One value for each service account of NMI; none where the identities could not be read. Raises ApiError."""
    if isinstance(objects, Unread) or isinstance(nmi, Unread):
        return ()
    needed: dict[str, set[str]] = {}
    for each in nmi:
        cross = any(one.settings.allow_cross_namespace_secrets for one in rules([each]))
        own = namespaces_of(objects.identities, cross_namespace=cross)
        needed.setdefault(account_of(each), set()).update(own)
    found = []
    for account, namespaces in needed.items():
        everywhere = await _may_get(client, account, "")
        names = sorted(namespaces)
        forbidden = [] if everywhere else [each for each in names if not await _may_get(client, account, each)]
        found.append(SecretAccess(account, everywhere, tuple(names), tuple(forbidden)))
    return tuple(found)


async def _may_get(client: Client, account: str, namespace: str) -> bool:
    return await allowed(client, account, verb="get", group="", resource="secrets", namespace=namespace)
