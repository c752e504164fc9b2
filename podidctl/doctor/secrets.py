"""Checks of NMI's permission to read Secrets, which identities of type 1 and 2 (service principals) need. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from podidctl.diagnosis.token_source import SERVICE_PRINCIPAL_TYPES
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import SecretAccess
from podidctl.printing import listed
from podidentity.resources import AzureIdentity

CHECK: Final = "secrets"
GRANT: Final = (
    "add them to the chart's rbac.secretNamespaces, or leave that list empty for all namespaces; "
    "rbac.allowAccessToSecrets must be true"
)


def namespaces_of(identities: Iterable[AzureIdentity], *, cross_namespace: bool) -> tuple[str, ...]:
    """Return the namespaces, sorted, of the Secrets that service principals among *identities* name.

    A Secret of another namespace counts only with *cross_namespace*: NMI does not read it otherwise.
    """
    names = set()
    for each in identities:
        own, reference = each.metadata.namespace, each.spec.client_password
        if each.spec.type in SERVICE_PRINCIPAL_TYPES and reference is not None:
            names.add(reference.namespace if cross_namespace and reference.namespace else own)
    return tuple(sorted(names))


def check_secrets(access: Sequence[SecretAccess], identities: Iterable[AzureIdentity]) -> Iterator[Finding]:
    """Check that NMI may read the Secrets that it needs, and that it needs the ones that it may read."""
    needed = any(each.spec.type in SERVICE_PRINCIPAL_TYPES for each in identities)
    for each in access:
        who = f"NMI's service account {each.account}"
        if each.forbidden:
            says = f"{who} may not get Secrets that AzureIdentities of type 1 or 2 name, in {listed(each.forbidden)}"
            yield make_finding(CHECK, Level.PROBLEM, says, GRANT)
        elif each.everywhere and not needed:
            says = f"{who} may get every Secret of the cluster, but no AzureIdentity is of type 1 or 2"
            then = "remove the permission: rbac.allowAccessToSecrets=false in the chart's values"
            yield make_finding(CHECK, Level.WARNING, says, then)
        elif each.everywhere:
            says = f"{who} may get every Secret of the cluster; rbac.secretNamespaces can limit it to  "
            yield make_finding(CHECK, Level.OK, says + listed(each.needed))
        elif needed:
            yield make_finding(CHECK, Level.OK, f"{who} may get the Secrets that AzureIdentities of type 1 or 2 name")
