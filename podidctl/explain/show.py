"""Printer of an explanation for the terminal."""

from rich.console import Console
from rich.markup import escape

from podidctl.diagnosis.decision import Outcome
from podidctl.explain.schema import Explanation, LinkState
from podidctl.printing import print_table, print_text

COLORS = {LinkState.OK: "green", LinkState.BROKEN: "red", LinkState.UNKNOWN: "yellow"}
OUTCOMES = {Outcome.GRANTED: "green", Outcome.EXEMPT: "cyan"}


def show(explanation: Explanation, console: Console) -> None:
    """Print the answer, the links, recent log lines and Events of NMI and MIC, and the next action."""
    answer = explanation.answer
    color = OUTCOMES.get(answer.outcome, "red")
    console.print(
        f"[bold]pod {escape(explanation.pod)}[/]: [{color}]{answer.outcome}[/]: {escape(answer.says)}", soft_wrap=True
    )
    print_table(
        ("", "link", "about", ""),
        ((f"[{COLORS[each.state]}]{each.state}[/]", each.link, each.about, each.says) for each in explanation.links),
        console,
    )
    if explanation.decided:
        print_table(
            ("NMI's log, UTC", "", "identity", "for", "why", "repeats"),
            (
                (
                    escape(each.at),
                    f"{each.status} {each.outcome}" if each.status is not None else each.outcome,
                    each.identity,
                    each.resource,
                    each.error,
                    str(each.repeats or ""),
                )
                for each in explanation.decided
            ),
            console,
        )
    if explanation.decided_unread:
        console.print(f"NMI's log could not be read: {escape(explanation.decided_unread)}", soft_wrap=True)
    if explanation.events:
        print_table(
            ("last seen", "by", "reason", "message"),
            ((escape(each.at), each.by, each.reason, each.message) for each in explanation.events),
            console,
        )
    if explanation.events_unread:
        console.print(f"Events could not be read: {escape(explanation.events_unread)}", soft_wrap=True)
    if explanation.next:
        console.print(f"[bold]next:[/] {escape(explanation.next)}", soft_wrap=True)
    for each in explanation.links:
        if each.state is LinkState.UNKNOWN and each.next:
            console.print(f"[yellow]unknown:[/] {escape(f'{each.link} {each.about}: {each.next}')}", soft_wrap=True)
    if explanation.manifest:
        print_text(explanation.manifest, console)
    console.print(f"[dim]decided by {escape(explanation.rules)}[/]", soft_wrap=True)
