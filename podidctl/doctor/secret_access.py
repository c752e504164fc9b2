"""Reader of the namespaces whose Secrets NMI's service accounts may get, by SubjectAccessReviews."""

from collections.abc import Sequence

from podidctl.diagnosis.access_reviews import is_allowed, service_account_of
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.secrets import namespaces_of
from podidctl.doctor.state import Objects, SecretAccess
from podidentity.kube.client import Client


async def secret_access(
    client: Client, objects: Objects | ReadFailure, nmi: Sequence[Daemon] | ReadFailure
) -> tuple[SecretAccess, ...]:
    """Return one value per service account of NMI; none if the identities could not be read. Raises ApiError."""
    if isinstance(objects, ReadFailure) or isinstance(nmi, ReadFailure):
        return ()
    needed: dict[str, set[str]] = {}
    for each in nmi:
        cross = any(one.settings.allow_cross_namespace_secrets for one in readable_configurations([each]))
        own = namespaces_of(objects.identities, cross_namespace=cross)
        needed.setdefault(service_account_of(each), set()).update(own)
    found = []
    for account, namespaces in needed.items():
        everywhere = await _may_get(client, account, "")
        names = sorted(namespaces)
        forbidden = [] if everywhere else [each for each in names if not await _may_get(client, account, each)]
        found.append(SecretAccess(account, everywhere, tuple(names), tuple(forbidden)))
    return tuple(found)


async def _may_get(client: Client, account: str, namespace: str) -> bool:
    return await is_allowed(client, account, verb="get", group="", resource="secrets", namespace=namespace)
