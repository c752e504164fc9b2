"""Output of both migrations, for people and for programs."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.workload_identity import USE_LABEL, WorkloadIdentityPlan
from podidctl.report.text import Output, escaped, print_document, print_table
from podidentity.report import printable

COLORS: Final = {DifferenceLevel.FIX: "red", DifferenceLevel.REVIEW: "yellow", DifferenceLevel.NO_ACTION: "dim"}
TITLES: Final = {
    DifferenceLevel.FIX: "correction required",
    DifferenceLevel.REVIEW: "review required",
    DifferenceLevel.NO_ACTION: "no action required",
}


def report(found: Sequence[Difference], output: Output, where: Console) -> None:
    """Print the differences, grouped by the required action."""
    if output is not Output.TABLE:
        print_document({"findings": found}, output, where)
        return
    if not found:
        where.print("No differences were found.")
    for level in DifferenceLevel:
        listed = [each for each in found if each.level is level]
        if not listed:
            continue
        where.print(f"{TITLES[level]}:")
        rows = [(f"[{COLORS[level]}]{escaped(one.about)}[/]", printable(one.what), printable(one.do)) for one in listed]
        print_table(("about", "what", "what to do"), rows, where)


def workload_identity(made: WorkloadIdentityPlan, issuer: str, audience: str, where: Console) -> None:
    """Print the planned and existing objects and the manual steps."""
    where.print("Resources that workload identity needs for the current bindings. No changes were made.")
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
            f"workloads to change (the label {USE_LABEL}, and the service account):",
            ("workload", "ServiceAccount"),
            [(f"{each.kind} {each.namespace}/{each.name}", each.service_account) for each in made.patches],
        ),
        (
            f"federated credentials (issuer {issuer or 'unknown: pass --issuer'}, audience {audience}):",
            ("AzureIdentity", "in Azure", "subject"),
            [
                (each.identity, each.identity_name or f"application {each.client_id}", each.subject)
                for each in made.credentials
            ],
        ),
        ("manual steps:", ("about", "why", "what to do"), [(each.about, each.why, each.do) for each in made.by_hand]),
    ):
        if not rows:
            continue
        where.print(escaped(title), soft_wrap=True)
        print_table(columns, [(escaped(first), *map(printable, others)) for first, *others in rows], where)
    if made.done:
        where.print(f"no change needed: {escaped(', '.join(made.done))}", soft_wrap=True)
    where.print(
        "Applications need an SDK with workload identity support (such as DefaultAzureCredential), or the webhook's "
        "proxy: docs/migration.md.",
        soft_wrap=True,
    )
