"""Checks of the permissions of NMI's and MIC's service accounts: all that they need, and no identities. Pure.

AKS's webhook mounts a token of NMI's service account into NMI's pods. With the permission to use an identity by AKS
identity bindings, a process that reads this token, or makes another one of the service account, gets tokens of the
identity. The chart refuses the permission; another program or an administrator can still bind it.
"""

from collections.abc import Iterator
from typing import Final

from podidctl.checks.daemons import NEEDS_MIC, running_as
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import REVIEW_ACCESS
from podidctl.evaluation.needs import CHECKED_MAX
from podidctl.evaluation.rights import UPGRADE
from podidctl.facts.model import DaemonUse, ReadFailure
from podidctl.report.finding import Finding, ok, problem, unknown, warning
from podidctl.report.text import listed
from podidentity.azure.federation import BINDING_VERB
from podidentity.report import counted

REMOVE: Final = (
    "helm upgrade removes it; with helm template (as in Argo CD) set mic.extraArgs=[--enable-type-upgrade=false], with "
    "manifests run kubectl delete -f deploy/manifests/type-upgrade.yaml"
)
RIGHTS: Final = "rights"
RESTORE: Final = (
    "restore its roles: helm upgrade with the release's values; without helm kubectl auth reconcile -f "
    "deploy/manifests/deployment-rbac.yaml, which restores roles only and cannot decode the CustomResourceDefinitions"
)
READ_BINDINGS: Final = "list on clusterroles and clusterrolebindings of rbac.authorization.k8s.io"


def check_rights(case: ClusterCase) -> Iterator[Finding]:
    """Check that each service account has the permissions that its program needs, and that MIC has no others on the
    objects of tenants.
    """
    for account_rights in case.read("rights", case.facts.rights):
        needed = [right for right in account_rights.lacking if not right.purpose]
        others = [right for right in account_rights.lacking if right.purpose]
        who = f"{account_rights.program}'s service account {account_rights.account}"
        if needed:
            message = f"{who} may not: {listed(right.description for right in needed)}"
            daemons = case.mic if account_rights.program == "MIC" else case.nmi
            cause = f"{account_rights.program} {account_rights.account}"
            is_used = any(running_as(account_rights.program, daemon) == cause for daemon in daemons)
            explains = (cause, *(NEEDS_MIC if account_rights.program == "MIC" else ())) if is_used else ()
            yield problem("rights", message, RESTORE, explains=explains)
        if others:
            what = ", ".join(dict.fromkeys(right.purpose for right in others))
            message = f"{who} may not: {listed(right.description for right in others)}; without: {what}"
            yield warning("rights", message, "grant it, or accept the limitation")
        if account_rights.spare:
            rights = listed(right.description for right in account_rights.spare)
            message = f"{who} may still: {rights}, although the type upgrade is done or off; {REMOVE}"
            yield ok("rights", message)
        if account_rights.unread_record:
            message = (
                f"{who}: whether it still needs permission for {UPGRADE} is unknown: "
                f"{account_rights.unread_record.reason}"
            )
            then = account_rights.unread_record.next_action("get on the ConfigMap with the record of the type upgrade")
            yield unknown("rights", message, then, cause=account_rights.unread_record.reason)
        elif not account_rights.lacking and not account_rights.spare:
            yield ok("rights", f"{who} has all permissions that it needs")


def check_daemon_uses(case: ClusterCase) -> Iterator[Finding]:
    """Report each permission with the object that gives it, and what could not be read; nothing if there is none."""
    uses = case.facts.daemon_uses
    if isinstance(uses.by_bindings, ReadFailure):
        message = (
            "the bindings that may let NMI's and MIC's own service accounts use identities "
            f"({BINDING_VERB}) could not be read: {uses.by_bindings.reason}"
        )
        then = uses.by_bindings.next_action(READ_BINDINGS)
        yield unknown(RIGHTS, message, then, cause=uses.by_bindings.reason)
    else:
        for use in uses.by_bindings:
            subject = f", as a member of group {use.group}," if use.group else ""
            message = (
                f"{_who(use)}{subject} may use {_identities(use)} ({BINDING_VERB}), by ClusterRoleBinding "
                f"{use.binding} of ClusterRole {use.role}: {_effect(use)}"
            )
            yield problem(RIGHTS, message, _removal(use))
    if isinstance(uses.by_reviews, ReadFailure):
        message = (
            f"whether NMI's and MIC's own service accounts may use identities ({BINDING_VERB}) could not be reviewed: "
            f"{uses.by_reviews.reason}"
        )
        yield unknown(RIGHTS, message, uses.by_reviews.next_action(REVIEW_ACCESS), cause=uses.by_reviews.reason)
        return
    for use in uses.by_reviews:
        reason = use.reason or "the API server gives no reason"
        message = f"{_who(use)} may use {_identities(use)} ({BINDING_VERB}): {_effect(use)}. Reason: {reason}"
        then = (
            "remove this permission from the service account and from its groups: it is in the binding that the reason "
            "names, or in another authorizer of the API server"
        )
        yield problem(RIGHTS, message, then)
    if uses.unchecked:
        message = (
            f"{counted(uses.unchecked, 'more permission')} of NMI's and MIC's own service accounts to use an identity "
            "not reviewed"
        )
        then = f"one run reviews at most {CHECKED_MAX}: kubectl auth can-i checks one"
        yield unknown(RIGHTS, message, then)


def _who(use: DaemonUse) -> str:
    return f"{use.program}'s own service account {use.account}"


def _identities(use: DaemonUse) -> str:
    if not use.client_ids:
        return "all identities"
    names = listed(use.client_ids)
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


CHECKS: Final = (check_rights, check_daemon_uses)
