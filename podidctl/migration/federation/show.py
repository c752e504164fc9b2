"""Tables of federation plans and outcomes."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from podidctl.migration.federation.schema import (
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    IdentityState,
    Remark,
    TokenTest,
)
from podidctl.report.text import escaped, print_table, print_text
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.report import counted, printable

COLORS: Final = {
    ChangeResult.CHANGED: "green",
    ChangeResult.UNCHANGED: "dim",
    ChangeResult.WOULD_CHANGE: "cyan",
    ChangeResult.NOT_CHANGED: "yellow",
    ChangeResult.ROLLED_BACK: "red",
    ChangeResult.INCOMPLETE: "red",
}


def plan(made: FederationPlan, where: Console, *, applications: bool) -> None:
    """Print the steps and obstacles of a plan."""
    where.print("Steps that make identities federated. No changes were made.")
    _remarks("cluster:", [("", each) for each in made.remarks], where)
    rows = [
        (
            escaped(step.full_name),
            printable("blocked" if step.blocked and step.state is IdentityState.TO_DO else step.state),
            printable(", ".join(each.full_name for each in step.accounts) or "-"),
            printable(step.tenant or "-"),
            step.exchange,
        )
        for step in made.steps
    ]
    if rows:
        where.print("identities:")
        print_table(("AzureIdentity", "stands", "service accounts", "tenant", "exchange"), rows, where)
    _remarks("remarks:", [(step.full_name, each) for step in made.steps for each in step.remarks], where)
    credentials = [each for step in made.steps for each in step.credentials]
    if credentials:
        where.print(
            f"federated credentials (issuer {escaped(made.issuer or 'unknown')}, audience {escaped(made.audience)}; -o "
            "az has the commands):",
            soft_wrap=True,
        )
        cells = [
            (escaped(each.identity), printable(each.identity_name or f"application {each.client_id}"), each.subject)
            for each in credentials
        ]
        print_table(("AzureIdentity", "in Azure", "subject"), [(a, b, printable(c)) for a, b, c in cells], where)
    if bindings := [step for step in made.steps if step.exchange is Exchange.IDENTITY_BINDINGS and step.accounts]:
        where.print(
            "AKS identity bindings (-o az --cluster RESOURCE-ID has the commands; their service accounts also need the "
            f"permission {BINDING_VERB}, see federated.identityBindings.permissions in the chart's values):",
            soft_wrap=True,
        )
        named = [(escaped(each.full_name), printable(each.resource_id or "no usable resourceID")) for each in bindings]
        print_table(("AzureIdentity", "in Azure"), named, where)
    if any(step.copies for step in made.steps):
        where.print("Objects that other namespaces need: -o manifests.")
    if applications:
        _applications(made, where)
    if made.leftovers:
        where.print("not changed by this command:")
        left = [(escaped(each.identity), printable(each.why), printable(each.do)) for each in made.leftovers]
        print_table(("AzureIdentity", "why", "what to do"), left, where)
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
    if not made.applications:
        return
    where.print("applications, on the way to workload identity:")
    rows = [
        (
            escaped(each.description),
            each.state,
            printable(each.account),
            printable(each.identity),
            printable(each.client_id),
        )
        for each in made.applications
    ]
    print_table(("application", "stands", "ServiceAccount", "AzureIdentity", "client id"), rows, where)
    listed = [
        (each.description, one)
        for each in made.applications
        if each.state is not ApplicationState.DONE
        for one in each.remarks
    ]
    _remarks("remarks:", listed, where)


def _remarks(title: str, remarks: Sequence[tuple[str, Remark]], where: Console) -> None:
    if not remarks:
        return
    where.print(title)
    rows = [
        (
            f"[{'red' if each.blocks else 'yellow'}]{'blocks' if each.blocks else 'note'}[/]",
            printable(about),
            printable(each.why),
            printable(each.do),
        )
        for about, each in remarks
    ]
    print_table(("", "about", "why", "what to do"), rows, where)


def outcomes(done: Sequence[ChangeOutcome], where: Console, *, dry: bool) -> None:
    """Print the outcomes, actual or planned."""
    tried = [(each.about, one) for each in done for one in each.tried]
    if tried:
        where.print("tests (tokens are discarded):")
        rows = [
            (
                f"[{'red' if one.problem else 'green'}]{escaped(one.account)}[/]",
                printable(about),
                printable(one.bound_to or "(bound to no pod)"),
                printable(
                    one.problem or one.note or f"client {one.client_id}, object {one.object_id}, until {one.expires}"
                ),
                printable(one.do),
            )
            for about, one in tried
        ]
        print_table(("ServiceAccount", "for", "pod", "result", "what to do"), rows, where)
        for text in dict.fromkeys(one.manifest for _, one in tried if one.manifest):
            print_text(text, where)
    if done:
        listed = [
            (f"[{COLORS[each.ending]}]{each.ending}[/]", printable(each.about), printable(each.why), printable(each.do))
            for each in done
        ]
        print_table(("", "about", "why", "what to do"), listed, where)
    else:
        where.print("Nothing to do.")
    if dry:
        would = any(each.ending is ChangeResult.WOULD_CHANGE for each in done)
        where.print(f"No changes were made{'; --yes makes them' if would else ''}.")
    elif any(each.ending is ChangeResult.CHANGED for each in done):
        where.print("Make the same changes in your manifests, or the next apply of them reverts these.")


def _token(one: TokenTest) -> str:
    return f"client {one.client_id}, object {one.object_id}, until {one.expires}"
