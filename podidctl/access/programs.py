"""Identities within reach of the credentials of NMI and MIC, which an attacker on their nodes has. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from mic.decisions.assignments import misconfigured
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import mic_daemons, nmi_daemons
from podidctl.access.offered_identities import secret_of
from podidctl.access.rbac import Permissions, Request, service_account
from podidctl.access.schema import Grant, ProgramAccess
from podidctl.facts.kinds import service_account_of
from podidctl.facts.model import readable
from podidentity.resources import AzureIdentity, IdentityType

NOT_READ = "its permissions are unknown, because roles and role bindings could not be read"


def find_programs(
    objects: ClusterObjects, permissions: Permissions | None, grants: Sequence[Grant]
) -> list[ProgramAccess]:
    """Return one value per program and service account, sorted."""
    identities = readable(objects.identities)
    found = [
        *(
            _nmi(account, identities, permissions, grants)
            for account in sorted({service_account_of(each) for each in nmi_daemons(objects)})
        ),
        *(_mic(account, identities) for account in sorted({service_account_of(each) for each in mic_daemons(objects)})),
    ]
    return sorted(found, key=lambda each: (each.program, each.account))


def _nmi(
    account: str, identities: Iterable[AzureIdentity], permissions: Permissions | None, grants: Sequence[Grant]
) -> ProgramAccess:
    accounts: defaultdict[str, set[str]] = defaultdict(set)
    for grant in grants:
        if grant.service_account:
            accounts[grant.identity].add(grant.service_account)
    today = [] if permissions is None else sorted(_within_nmis_reach(account, identities, permissions, accounts))
    why = (
        "NMI may read the Secrets of identities of type 1 and 2, and request tokens of the service accounts of "
        "identities of type 3; if all are federated, of every pod with an identity"
    )
    return ProgramAccess(
        program="NMI",
        account=account,
        today=today,
        federated=sorted({each.identity for each in grants}),
        why=why if permissions is not None else NOT_READ,
    )


def _within_nmis_reach(
    account: str,
    identities: Iterable[AzureIdentity],
    permissions: Permissions,
    accounts: dict[str, set[str]],
) -> Iterator[str]:
    subjects = service_account(account)
    for each in identities:
        name, secret = "/".join(each.key), secret_of(each)
        if secret:
            requests = [Request("get", "", "secrets", *secret.split("/", 1))]
        elif each.spec.type == IdentityType.FEDERATED:
            trusted = sorted(accounts.get(name, ()))
            requests = [Request("create", "", "serviceaccounts/token", *one.split("/", 1)) for one in trusted]
        else:
            continue
        if any(permissions.allows(subjects, one) for one in requests):
            yield name


def _mic(account: str, identities: Iterable[AzureIdentity]) -> ProgramAccess:
    usable = ("/".join(each.key) for each in identities if not misconfigured(each) and each.spec.type == 0)
    return ProgramAccess(
        program="MIC",
        account=account,
        today=sorted(usable),
        federated=[],
        why="MIC's Azure credentials can attach each identity of type 0 to a host; identities of type 3 need none",
    )
