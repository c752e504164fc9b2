"""Check of the permissions that AKS identity bindings need: each service account may use its identity at the cluster's
token proxy. Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.identity_permissions import APPLY, REVIEW_ACCESS, manifest_of, proxied_identities
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.service_accounts import account_name
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import FederatedAccess
from podidctl.fair_order import namespace_of
from podidctl.printing import listed
from podidentity.azure.federation import BINDING_VERB
from podidentity.azure.identity_permissions import is_grantable
from podidentity.report import counted
from podidentity.resources import AzureIdentity, Pod
from podidentity.telemetry.logs import redacted

CHECK: Final = "federated"
USES_MAX: Final = 200
"""Pairs of service account and identity that one command checks."""
NOT_A_GUID: Final = (
    "set clientID of the AzureIdentities, which podidctl explain pod names, to the client id of the identity: a GUID"
)


class BindingUse(NamedTuple):
    """A service account and an identity that it uses by identity bindings."""

    account: str
    """`namespace/name`."""
    client_id: str
    """In lower case."""

    @property
    def namespace(self) -> str:
        return namespace_of(self.account)


def binding_uses(pairs: Sequence[tuple[Pod, AzureIdentity]], nmi: Sequence[Daemon]) -> list[BindingUse]:
    """Return the uses of *pairs* for which an NMI sends the exchange to the token proxy, each once, sorted."""
    settings = [each.settings for each in readable_configurations(nmi) if each.settings.federated_identities]
    kinds = {(each.federated_exchange, each.federated_exchange_annotation): each for each in settings}
    identities = list({identity.key: identity for _, identity in pairs}.values())
    clients: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for each in kinds.values():
        for client_id, its in proxied_identities(each, identities).items():
            for identity in its:
                clients[identity.key].add(client_id)
    found = {
        BindingUse(account_name(pod), client_id)
        for pod, identity in pairs
        if pod.spec.service_account_name
        for client_id in clients.get(identity.key, ())
    }
    return sorted(found)


def check_binding_permissions(
    federation: FederatedAccess, pairs: Sequence[tuple[Pod, AzureIdentity]]
) -> Iterator[Finding]:
    """Report each identity that a service account of *pairs* may not use, with the objects that permit it."""
    missing = federation.unpermitted
    if isinstance(missing, ReadFailure):
        says = (
            f"the permissions of service accounts to use identities ({BINDING_VERB}) could not be read: {missing.why}"
        )
        yield make_finding(CHECK, Level.UNKNOWN, says, missing.next_action(REVIEW_ACCESS))
        return
    if federation.unchecked_uses:
        says = f"the permission of {counted(federation.unchecked_uses, 'more service account')} was not checked"
        then = (
            f"one run checks at most {USES_MAX} pairs of service account and identity; podidctl explain pod checks one"
        )
        yield make_finding(CHECK, Level.UNKNOWN, says, then)
    owners = {account_name(pod) for pod, _ in pairs}
    for client_id, accounts in missing.items():
        refused = [each for each in accounts if each in owners]
        if not refused:
            continue
        says = (
            f"RBAC does not let service accounts {listed(refused)} use the identity with client id "
            f"{redacted(client_id)} ({BINDING_VERB}), so the cluster's token proxy refuses their next exchange"
        )
        then = APPLY if is_grantable(client_id) else NOT_A_GUID
        yield make_finding(CHECK, Level.PROBLEM, says, then, manifest=manifest_of({client_id: refused}))
