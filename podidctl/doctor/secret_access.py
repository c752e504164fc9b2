"""Reader of the namespaces whose Secrets NMI's service accounts may get, by SubjectAccessReviews."""

from collections.abc import Sequence
from functools import partial

from podidctl.diagnosis.access_reviews import is_allowed, service_account_of
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.secrets import NAMESPACES_MAX, namespaces_of
from podidctl.doctor.state import Objects, SecretAccess
from podidentity.kube.client import Client


async def secret_access(
    client: Client, objects: Objects | ReadFailure, nmi: Sequence[Daemon] | ReadFailure
) -> tuple[SecretAccess, ...]:
    """Return one value per service account of NMI; none if the identities could not be read. Raises ApiError."""
    if isinstance(objects, ReadFailure) or isinstance(nmi, ReadFailure):
        return ()
    existing = {each.metadata.namespace for each in objects.identities}
    needed: dict[str, set[str]] = {}
    for each in nmi:
        cross = any(one.settings.allow_cross_namespace_secrets for one in readable_configurations([each]))
        own = namespaces_of(objects.identities, cross_namespace=cross)
        needed.setdefault(service_account_of(each), set()).update(own)
    found = []
    for account, namespaces in needed.items():
        everywhere = await _may_get(client, account, "")
        # With --allow-cross-namespace-secrets an AzureIdentity may name any text as the namespace of its Secret.
        names = sorted(namespaces, key=lambda name: (name not in existing, name))
        checked = () if everywhere else names[:NAMESPACES_MAX]
        allowed = await in_batches(partial(_may_get, client, account, each) for each in checked)
        forbidden = tuple(name for name, may in zip(checked, allowed, strict=True) if not may)
        unchecked = 0 if everywhere else len(names) - len(checked)
        found.append(SecretAccess(account, everywhere, tuple(sorted(names)), forbidden, unchecked))
    return tuple(found)


async def _may_get(client: Client, account: str, namespace: str) -> bool:
    return await is_allowed(client, account, verb="get", group="", resource="secrets", namespace=namespace)
