"""The reports of the way to federated identities, for people."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape

from mic.preview.text import counted, printable
from podidctl.migration.federation.schema import (
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    IdentityState,
    Remark,
)
from podidctl.printing import print_table

COLORS: Final = {
    ChangeResult.CHANGED: "green",
    ChangeResult.UNCHANGED: "dim",
    ChangeResult.WOULD_CHANGE: "cyan",
    ChangeResult.NOT_CHANGED: "yellow",
    ChangeResult.ROLLED_BACK: "red",
    ChangeResult.INCOMPLETE: "red",
}


def plan(made: FederationPlan, where: Console, *, applications: bool) -> None:
    """What is to be done, and what stands in the way; nothing has been done."""
    where.print("What makes identities federated; nothing has been done.")
    _remarks("of the cluster:", [("", each) for each in made.remarks], where)
    rows = [
        (
            _plain(step.identity),
            printable("blocked" if step.blocked and step.state is IdentityState.TO_DO else step.state),
            printable(", ".join(each.description for each in step.accounts) or "-"),
            printable(step.tenant or "-"),
        )
        for step in made.steps
    ]
    if rows:
        where.print("identities:")
        print_table(("AzureIdentity", "stands", "service accounts", "tenant"), rows, where)
    _remarks("to be seen to:", [(step.identity, each) for step in made.steps for each in step.remarks], where)
    credentials = [each for step in made.steps for each in step.credentials]
    if credentials:
        where.print(
            f"federated credentials (issuer {_plain(made.issuer or 'not known')}, audience {_plain(made.audience)}; "
            f"-o az has the commands):",
            soft_wrap=True,
        )
        cells = [
            (_plain(each.identity), printable(each.identity_name or f"application {each.client_id}"), each.subject)
            for each in credentials
        ]
        print_table(("AzureIdentity", "in Azure", "subject"), [(a, b, printable(c)) for a, b, c in cells], where)
    if any(step.copies for step in made.steps):
        where.print("What other namespaces need of their own: -o manifests.")
    if applications:
        _applications(made, where)
    if made.leftovers:
        where.print("left alone here:")
        left = [(_plain(each.identity), printable(each.why), printable(each.do)) for each in made.leftovers]
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
    where.print("applications, towards workload identity:")
    rows = [
        (
            _plain(each.description),
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
    _remarks("to be seen to:", listed, where)


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
    """What was done, or would be."""
    tried = [(each.about, one) for each in done for one in each.tried]
    if tried:
        where.print("tokens that were tried, and thrown away:")
        rows = [
            (
                f"[{'red' if one.problem else 'green'}]{_plain(one.account)}[/]",
                printable(about),
                printable(one.bound_to or "(bound to no pod)"),
                printable(one.problem or f"client {one.client_id}, object {one.object_id}, until {one.expires}"),
                printable(one.do),
            )
            for about, one in tried
        ]
        print_table(("ServiceAccount", "for", "pod", "what came", "what to do"), rows, where)
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
        where.print(f"Nothing has been changed{': --yes does it' if would else ''}.")
    elif any(each.ending is ChangeResult.CHANGED for each in done):
        where.print("Put the same into your manifests, or the next apply of them takes it back.")


def _plain(text: str) -> str:
    """The same, so that it does not style what is printed either."""
    return escape(printable(text))
