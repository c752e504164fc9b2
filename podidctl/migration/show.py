"""The reports of both migrations, for people and for programs."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape

from mic.preview.text import printable
from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.workload_identity import USE_LABEL, WorkloadIdentityPlan
from podidctl.printing import Output, print_document, print_table

COLORS: Final = {DifferenceLevel.FIX: "red", DifferenceLevel.REVIEW: "yellow", DifferenceLevel.NO_ACTION: "dim"}
TITLES: Final = {
    DifferenceLevel.FIX: "to be mended",
    DifferenceLevel.REVIEW: "to be looked at",
    DifferenceLevel.NO_ACTION: "changes by itself, or stays as it is",
}


def report(found: Sequence[Difference], output: Output, where: Console) -> None:
    """What is different, by what it asks of the reader."""
    if output is not Output.TABLE:
        print_document({"findings": found}, output, where)
        return
    if not found:
        where.print("Nothing is different here for what was looked at.")
    for level in DifferenceLevel:
        listed = [each for each in found if each.level is level]
        if not listed:
            continue
        where.print(f"{TITLES[level]}:")
        rows = [(f"[{COLORS[level]}]{_plain(one.about)}[/]", printable(one.what), printable(one.do)) for one in listed]
        print_table(("about", "what", "what to do"), rows, where)


def workload_identity(made: WorkloadIdentityPlan, issuer: str, audience: str, where: Console) -> None:
    """What would be made, what is there already, and what somebody has to do by hand."""
    where.print("What workload identity needs in place of what is bound now; nothing has been done.")
    for title, columns, rows in (
        (
            "service accounts:",
            ("ServiceAccount", "client id", "tenant id", ""),
            [
                (f"{each.namespace}/{each.name}", each.client_id, each.tenant_id, "new" if each.is_new else "is there")
                for each in made.accounts
            ],
        ),
        (
            f"workloads to be changed (the label {USE_LABEL}, and the service account):",
            ("workload", "ServiceAccount"),
            [(f"{each.kind} {each.namespace}/{each.name}", each.service_account) for each in made.patches],
        ),
        (
            f"federated credentials (issuer {issuer or 'not known: give --issuer'}, audience {audience}):",
            ("AzureIdentity", "in Azure", "subject"),
            [
                (each.identity, each.identity_name or f"application {each.client_id}", each.subject)
                for each in made.credentials
            ],
        ),
        ("by hand:", ("about", "why", "what to do"), [(each.about, each.why, each.do) for each in made.by_hand]),
    ):
        if not rows:
            continue
        where.print(_plain(title), soft_wrap=True)
        print_table(columns, [(_plain(first), *map(printable, others)) for first, *others in rows], where)
    if made.done:
        where.print(f"as it has to be: {_plain(', '.join(made.done))}", soft_wrap=True)
    where.print(
        "Applications need an SDK that knows workload identity (DefaultAzureCredential does), or the webhook's proxy: "
        "docs/migration.md.",
        soft_wrap=True,
    )


def _plain(text: str) -> str:
    """The same, so that it does not style what is printed either."""
    return escape(printable(text))
