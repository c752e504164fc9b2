"""Output of federation plans and outcomes: tables, and manifests for other namespaces."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from podidctl.migration.federation.schema import (
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    IdentityState,
    IdentityStep,
    Remark,
)
from podidctl.migration.output import commented, print_credentials, print_section
from podidctl.report.text import print_text
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.report import counted

COLORS: Final = {
    ChangeResult.CHANGED: "green",
    ChangeResult.UNCHANGED: "dim",
    ChangeResult.WOULD_CHANGE: "cyan",
    ChangeResult.NOT_CHANGED: "yellow",
    ChangeResult.ROLLED_BACK: "red",
    ChangeResult.INCOMPLETE: "red",
}


def print_plan(made: FederationPlan, where: Console, *, applications: bool) -> None:
    """Print the steps and obstacles of a plan."""
    where.print("Steps that make identities federated. No changes were made.")
    _remarks("cluster:", [("", remark) for remark in made.remarks], where)
    rows = [
        (
            step.full_name,
            "blocked" if step.blocked and step.state is IdentityState.TO_DO else step.state,
            ", ".join(account.full_name for account in step.accounts) or "-",
            step.tenant or "-",
            step.exchange,
        )
        for step in made.steps
    ]
    columns = ("AzureIdentity", "stands", "service accounts", "tenant", "exchange")
    print_section("identities:", columns, rows, where)
    _remarks("remarks:", [(step.full_name, remark) for step in made.steps for remark in step.remarks], where)
    condition = f"issuer {made.issuer or 'unknown'}, audience {made.audience}; -o az has the commands"
    print_credentials(condition, [credential for step in made.steps for credential in step.credentials], where)
    bindings = [step for step in made.steps if step.exchange is Exchange.IDENTITY_BINDINGS and step.accounts]
    print_section(
        "AKS identity bindings (-o az --cluster RESOURCE-ID has the commands; their service accounts also need the "
        f"permission {BINDING_VERB}, see federated.identityBindings.permissions in the chart's values):",
        ("AzureIdentity", "in Azure"),
        [(step.full_name, step.resource_id or "no usable resourceID") for step in bindings],
        where,
    )
    if any(step.copies for step in made.steps):
        where.print("Objects that other namespaces need: -o manifests.")
    if applications:
        _applications(made, where)
    print_section(
        "not changed by this command:",
        ("AzureIdentity", "why", "what to do"),
        [(leftover.identity, leftover.why, leftover.do) for leftover in made.leftovers],
        where,
    )
    where.print(_summary(made))


def _summary(made: FederationPlan) -> str:
    states = [step.state for step in made.steps]
    ready = sum(step.state is IdentityState.TO_DO and not step.blocked for step in made.steps)
    blocked = states.count(IdentityState.TO_DO) - ready
    return (
        f"{counted(states.count(IdentityState.SWITCHED), 'identity', 'identities')} switched, {ready} ready to be "
        f"switched, {blocked} blocked, {states.count(IdentityState.UNFINISHED)} not followed yet."
    )


def _applications(made: FederationPlan, where: Console) -> None:
    rows = [
        (application.description, application.state, application.account, application.identity, application.client_id)
        for application in made.applications
    ]
    columns = ("application", "stands", "ServiceAccount", "AzureIdentity", "client id")
    print_section("applications, on the way to workload identity:", columns, rows, where)
    remarks = [
        (application.description, remark)
        for application in made.applications
        if application.state is not ApplicationState.DONE
        for remark in application.remarks
    ]
    _remarks("remarks:", remarks, where)


def _remarks(title: str, remarks: Sequence[tuple[str, Remark]], where: Console) -> None:
    rows = [("blocks" if remark.blocks else "note", about, remark.why, remark.do) for about, remark in remarks]
    styles = ["red" if remark.blocks else "yellow" for _, remark in remarks]
    print_section(title, ("", "about", "why", "what to do"), rows, where, styles)


def print_outcomes(done: Sequence[ChangeOutcome], where: Console, *, dry: bool) -> None:
    """Print the outcomes, actual or planned."""
    tried = [(outcome.about, test) for outcome in done for test in outcome.tried]
    results = [
        (
            test.account,
            about,
            test.bound_to or "(bound to no pod)",
            test.problem or test.note or f"client {test.client_id}, object {test.object_id}, until {test.expires}",
            test.do,
        )
        for about, test in tried
    ]
    styles = ["red" if test.problem else "green" for _, test in tried]
    columns = ("ServiceAccount", "for", "pod", "result", "what to do")
    print_section("tests (tokens are discarded):", columns, results, where, styles)
    for text in dict.fromkeys(test.manifest for _, test in tried if test.manifest):
        print_text(text, where)
    if not done:
        where.print("Nothing to do.")
    rows = [(outcome.ending, outcome.about, outcome.why, outcome.do) for outcome in done]
    print_section("", ("", "about", "why", "what to do"), rows, where, [COLORS[outcome.ending] for outcome in done])
    if dry:
        would = any(outcome.ending is ChangeResult.WOULD_CHANGE for outcome in done)
        where.print(f"No changes were made{'; --yes makes them' if would else ''}.")
    elif any(outcome.ending is ChangeResult.CHANGED for outcome in done):
        where.print("Make the same changes in your manifests, or the next apply of them reverts these.")


def manifests(steps: Sequence[IdentityStep]) -> str:
    """Return the AzureIdentities and bindings for other namespaces, for `kubectl apply -f`."""
    head = "# kubectl apply -f this file: AzureIdentities for pods of other namespaces."
    return commented([head], [copy for step in steps for copy in step.copies])
