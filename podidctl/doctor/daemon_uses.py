"""Check that NMI's and MIC's own service accounts may use no identity by AKS identity bindings. Pure.

AKS's webhook mounts a token of NMI's service account into NMI's pods. With the permission, a process that reads this
token, or makes another one of the service account, gets tokens of the identity. The chart refuses the permission;
another program or an administrator can still bind it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from nmi.settings import Settings
from podidctl.access.cluster_objects import Rbac
from podidctl.access.rbac import ALL, BoundRule, Permissions, service_account
from podidctl.diagnosis.identity_permissions import REVIEW_ACCESS, proxied_identities
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import DaemonUse, DaemonUses
from podidctl.fair_order import by_turns
from podidctl.printing import listed
from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB, Exchange
from podidentity.azure.identity_permissions import ALL_IDENTITIES, is_grantable
from podidentity.report import counted
from podidentity.resources import AzureIdentity
from podidentity.telemetry.logs import redacted

CHECK: Final = "rights"
REVIEWS_MAX: Final = 200
"""Pairs of a daemon's service account and an identity that one command has reviewed."""
READ_BINDINGS: Final = "list on clusterroles and clusterrolebindings of rbac.authorization.k8s.io"


class DaemonAccount(NamedTuple):
    """A service account of NMI or MIC."""

    program: str
    account: str
    """`namespace/name`."""


def review_resources(settings: Sequence[Settings], identities: Iterable[AzureIdentity]) -> list[str]:
    """Return the resources to review: all identities, then each one for which an NMI uses the token proxy, some of each
    namespace first. Empty if no NMI uses it.
    """
    using = [
        each
        for each in settings
        if each.federated_identities
        and (each.federated_exchange is Exchange.IDENTITY_BINDINGS or each.federated_exchange_annotation)
    ]
    if not using:
        return []
    in_turn = by_turns(identities, lambda each: each.metadata.namespace)
    kinds = {(each.federated_exchange, each.federated_exchange_annotation): each for each in using}
    found = {resource: None for each in kinds.values() for resource in proxied_identities(each, in_turn)}
    return [ALL_IDENTITIES, *(each for each in found if each != ALL_IDENTITIES)]


def bound_uses(rbac: Rbac, accounts: Iterable[DaemonAccount]) -> Iterator[DaemonUse]:
    """Return the permissions of *accounts* by *rbac*, one for each binding and subject of the service account."""
    permissions = Permissions(rbac)
    bindings = {each.metadata.name: each for each in rbac.cluster_role_bindings}
    for program, account in accounts:
        for subject in service_account(account):
            rules: dict[str, list[BoundRule]] = {}
            for bound in permissions.by_subject.get(subject, ()):
                if not bound.namespace and _client_ids(bound):
                    rules.setdefault(bound.binding, []).append(bound)
            for name, several in rules.items():
                client_ids = dict.fromkeys(each for bound in several for each in _client_ids(bound))
                yield DaemonUse(
                    program=program,
                    account=account,
                    client_ids=() if ALL_IDENTITIES in client_ids else tuple(sorted(client_ids)),
                    binding=name,
                    role=bindings[name].role_ref.name,
                    group=subject.name if subject.kind == "Group" else "",
                    other_subjects=len(bindings[name].subjects or ()) - 1,
                    is_general=all(ALL in (bound.rule.api_groups or ()) for bound in several),
                )


def _client_ids(bound: BoundRule) -> list[str]:
    """Return the resources of identities that the rule covers: the proxy's review has no resource name."""
    rule = bound.rule
    if (
        bound.names
        or {ALL, BINDING_VERB}.isdisjoint(rule.verbs or ())
        or {ALL, BINDING_GROUP}.isdisjoint(rule.api_groups or ())
    ):
        return []
    return [each for each in rule.resources or () if each == ALL_IDENTITIES or is_grantable(each)]


def check_daemon_uses(uses: DaemonUses) -> Iterator[Finding]:
    """Report each permission with the object that gives it, and what could not be read; nothing if there is none."""
    if isinstance(uses.by_bindings, ReadFailure):
        says = (
            "the bindings that may let NMI's and MIC's own service accounts use identities "
            f"({BINDING_VERB}) could not be read: {uses.by_bindings.why}"
        )
        yield make_finding(CHECK, Level.UNKNOWN, says, uses.by_bindings.next_action(READ_BINDINGS))
    else:
        for each in uses.by_bindings:
            subject = f", as a member of group {each.group}," if each.group else ""
            says = (
                f"{_who(each)}{subject} may use {_identities(each)} ({BINDING_VERB}), by ClusterRoleBinding "
                f"{each.binding} of ClusterRole {each.role}: {_effect(each)}"
            )
            yield make_finding(CHECK, Level.PROBLEM, says, _removal(each))
    if isinstance(uses.by_reviews, ReadFailure):
        says = (
            f"whether NMI's and MIC's own service accounts may use identities ({BINDING_VERB}) could not be reviewed: "
            f"{uses.by_reviews.why}"
        )
        yield make_finding(CHECK, Level.UNKNOWN, says, uses.by_reviews.next_action(REVIEW_ACCESS))
        return
    for each in uses.by_reviews:
        reason = each.reason or "the API server gives no reason"
        says = f"{_who(each)} may use {_identities(each)} ({BINDING_VERB}): {_effect(each)}. Reason: {reason}"
        then = (
            "remove this permission from the service account and from its groups: it is in the binding that the reason "
            "names, or in another authorizer of the API server"
        )
        yield make_finding(CHECK, Level.PROBLEM, says, then)
    if uses.unchecked:
        says = (
            f"{counted(uses.unchecked, 'more permission')} of NMI's and MIC's own service accounts to use an identity "
            "not reviewed"
        )
        then = f"one run reviews at most {REVIEWS_MAX}: kubectl auth can-i checks one"
        yield make_finding(CHECK, Level.UNKNOWN, says, then)


def _who(use: DaemonUse) -> str:
    return f"{use.program}'s own service account {use.account}"


def _identities(use: DaemonUse) -> str:
    if not use.client_ids:
        return "all identities"
    names = listed(redacted(each) for each in use.client_ids)
    return f"the {'identity' if len(use.client_ids) == 1 else 'identities'} with client id {names}"


def _effect(use: DaemonUse) -> str:
    used = "it" if len(use.client_ids) == 1 else "them"
    return f"a process with a token of this service account can use {used} for itself"


def _removal(use: DaemonUse) -> str:
    """Return the next action for a permission by a binding."""
    edit = f"kubectl edit clusterrolebinding {use.binding}"
    delete = f"kubectl delete clusterrolebinding {use.binding}"
    if use.is_general:
        needed = f"{use.program} needs only the ClusterRole of the chart or the manifests"
        who = f"group {use.group}" if use.group else "the service account"
        return f"{needed}: remove {who} from the binding ({edit}), or delete the binding ({delete})"
    if use.group:
        return (
            f"in the binding's subjects, name the service accounts of the pods one by one in place of group {use.group}"
            f" ({edit}), or delete the binding ({delete})"
        )
    if use.other_subjects:
        return f"remove this service account from the binding's subjects: {edit}"
    return f"delete the binding: {delete}"
