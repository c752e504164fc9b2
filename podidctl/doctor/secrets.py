"""Checks of the Secrets of service principals (types 1 and 2), and of NMI's permission to read them. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis.input import IdentityKey, ReadFailure, SecretCheck
from podidctl.diagnosis.secrets import NOT_READ, READ_PERMISSION
from podidctl.diagnosis.token_source import SERVICE_PRINCIPAL_TYPES
from podidctl.doctor.objects import live_pods
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Objects, SecretAccess
from podidctl.fair_order import by_turns
from podidctl.printing import listed
from podidentity.report import counted
from podidentity.resources import AzureIdentity

CHECK: Final = "secrets"
CREDENTIALS: Final = "credentials"
NAMESPACES_MAX: Final = 200
"""Namespaces of Secrets that one command checks."""
GRANT: Final = (
    "add them to the chart's rbac.secretNamespaces, or set nmi.servicePrincipals=true for all namespaces (auto: if "
    "such an identity exists when helm installs or upgrades); rbac.allowAccessToSecrets must be true"
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
        if each.unchecked:
            says = f"{who}: its permission was not checked for {counted(each.unchecked, 'more namespace')}"
            then = f"one run checks at most {NAMESPACES_MAX}; podidctl explain pod checks the Secret of one pod"
            yield make_finding(CHECK, Level.UNKNOWN, says, then)
        if each.forbidden:
            says = f"{who} may not get Secrets that AzureIdentities of type 1 or 2 name, in {listed(each.forbidden)}"
            yield make_finding(CHECK, Level.PROBLEM, says, GRANT)
        elif each.everywhere and not needed:
            says = f"{who} may get every Secret of the cluster, but no AzureIdentity is of type 1 or 2"
            then = "remove the permission: helm upgrade with nmi.servicePrincipals=auto or false"
            yield make_finding(CHECK, Level.WARNING, says, then)
        elif each.everywhere:
            says = f"{who} may get every Secret of the cluster; rbac.secretNamespaces can limit it to "
            yield make_finding(CHECK, Level.OK, says + listed(each.needed))
        elif needed and not each.unchecked:
            yield make_finding(CHECK, Level.OK, f"{who} may get the Secrets that AzureIdentities of type 1 or 2 name")


def check_credentials(checks: Mapping[IdentityKey, SecretCheck], objects: Objects) -> Iterator[Finding]:
    """Check that each Secret exists and has the keys that NMI reads. An identity without pods is a warning."""
    needed = needed_identities(objects)
    usable, unread, not_read = 0, defaultdict[str, list[str]](list), list[str]()
    for key, check in by_turns(sorted(checks.items()), lambda each: each[0][0]):
        name = "/".join(key)
        match check:
            case CredentialError() as error:
                level = Level.PROBLEM if key in needed else Level.WARNING
                says, _, then = error.message.partition(": ")
                yield make_finding(CREDENTIALS, level, f"AzureIdentity {name}: {says}", then or error.message)
            case ReadFailure() if check == NOT_READ:
                not_read.append(name)
            case ReadFailure(why):
                unread[why].append(name)
            case None:
                usable += 1
    if unread:
        several = [name for names in unread.values() for name in names]
        says = f"the Secrets of {listed(several)} could not be checked: {next(iter(unread))}"
        yield make_finding(CREDENTIALS, Level.UNKNOWN, says, READ_PERMISSION)
    if not_read:
        says = f"{counted(len(not_read), 'more Secret was', 'more Secrets were')} not checked: {listed(not_read)}"
        then = f"{NOT_READ.why}; podidctl explain pod checks the Secret of one pod"
        yield make_finding(CREDENTIALS, Level.UNKNOWN, says, then)
    if usable:
        yield make_finding(
            CREDENTIALS, Level.OK, f"{counted(usable, 'Secret exists', 'Secrets exist')} with the keys that NMI reads"
        )


def needed_identities(objects: Objects) -> set[IdentityKey]:
    """Return the identities of bindings that select a running pod."""
    labels = {each.binding_label for each in live_pods(objects)}
    return {
        (each.metadata.namespace, each.spec.azure_identity) for each in objects.bindings if each.spec.selector in labels
    }
