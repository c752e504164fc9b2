"""Output of both migrations: tables of differences, and the plan for workload identity as a table, YAML of new objects,
commands for kubectl and for az, or JSON.

Existing objects are patched, never applied: an apply of a part of an object removes what an earlier apply of the whole
object has set, for client-side and server-side apply.

Names from the cluster are untrusted. They are quoted for the shell, and omitted from commands and comments unless they
are one line of printable characters.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec
import yaml
from rich.console import Console

from podidctl.evaluation.federated_credentials import application_creation, creation, parameters_of
from podidctl.facts.workloads import CRON_JOBS
from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.workload_identity import (
    CLIENT_ID,
    TENANT_ID,
    USE_LABEL,
    PlannedAccount,
    PlannedCredential,
    WorkloadIdentityPlan,
    WorkloadPatch,
)
from podidctl.report.text import Output, Part, grouped, print_document, print_line, print_table, printable_json
from podidentity.report import printable

TITLES: Final = {
    DifferenceLevel.FIX: ("correction required:", "red"),
    DifferenceLevel.REVIEW: ("review required:", "yellow"),
    DifferenceLevel.NO_ACTION: ("no action required:", "dim"),
}
"""The title of the differences of each level, and their color."""


def print_differences(differences: Sequence[Difference], output: Output, where: Console) -> None:
    """Print the differences, grouped by the required action."""
    if output is not Output.TABLE:
        print_document({"findings": differences}, output, where)
        return
    if not differences:
        where.print("No differences were found.")
    rows = grouped((row.level, (row.about, row.what, row.do)) for row in differences)
    for level, (title, color) in TITLES.items():
        print_section(title, ("about", "what", "what to do"), rows[level], where, repeat(color))


def print_workload_identity(made: WorkloadIdentityPlan, issuer: str, audience: str, where: Console) -> None:
    """Print the planned and existing objects and the manual steps."""
    where.print("Resources that workload identity needs for the current bindings. No changes were made.")
    accounts = [
        (
            f"{account.namespace}/{account.name}",
            account.client_id,
            account.tenant_id,
            "new" if account.is_new else "is there",
        )
        for account in made.accounts
    ]
    print_section("service accounts:", ("ServiceAccount", "client id", "tenant id", ""), accounts, where)
    patches = [(f"{patch.kind} {patch.namespace}/{patch.name}", patch.service_account) for patch in made.patches]
    title = f"workloads to change (the label {USE_LABEL}, and the service account):"
    print_section(title, ("workload", "ServiceAccount"), patches, where)
    print_credentials(f"issuer {issuer or 'unknown: pass --issuer'}, audience {audience}", made.credentials, where)
    steps = [(step.about, step.why, step.do) for step in made.by_hand]
    print_section("manual steps:", ("about", "why", "what to do"), steps, where)
    if made.done:
        print_line(where, f"no change needed: {', '.join(made.done)}")
    where.print(
        "Applications need an SDK with workload identity support (such as DefaultAzureCredential), or the webhook's "
        "proxy: docs/migration.md.",
        soft_wrap=True,
    )


def print_section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    where: Console,
    styles: Iterable[str] = repeat("none"),
) -> None:
    """Print *title*, if there is one, and a table of *rows*, whose texts may be untrusted; nothing without rows.
    *styles* are those of the rows' first cells.
    """
    if rows and title:
        print_line(where, title)
    if rows:
        cells: list[Sequence[Part]] = [
            ((first, style), *others) for style, (first, *others) in zip(styles, rows, strict=False)
        ]
        print_table(columns, cells, where)


def print_credentials(condition: str, credentials: Sequence[PlannedCredential], where: Console) -> None:
    """Print the federated credentials; *condition* states what they have in common."""
    rows = [
        (credential.identity, credential.identity_name or f"application {credential.client_id}", credential.subject)
        for credential in credentials
    ]
    print_section(f"federated credentials ({condition}):", ("AzureIdentity", "in Azure", "subject"), rows, where)


def new_accounts(made: WorkloadIdentityPlan) -> str:
    """Return the new ServiceAccounts, for `kubectl apply -f`."""
    head = "# kubectl apply -f this file: the new objects. Changes of existing objects: -o kubectl."
    return commented(
        [head, *_remarks(step.line for step in made.by_hand)],
        [_account(account) for account in made.accounts if account.is_new],
    )


def commented(comments: Iterable[str], documents: Sequence[Any]) -> str:
    """Return *documents* as YAML after the lines *comments*, for `kubectl apply -f`."""
    body = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=False) if documents else ""
    return "".join(f"{line}\n" for line in comments) + body


def change_script(made: WorkloadIdentityPlan) -> str:
    """Return a shell script that changes existing objects and stops at the first failure. kubectl must have the
    permissions.
    """
    lines = ["#!/bin/sh", "# First create the new objects: kubectl apply -f the output of -o yaml.", "set -eu"]
    lines += [*_remarks(step.line for step in made.by_hand), *map(shell, patching(made))]
    return "\n".join(lines) + "\n"


def patching(made: WorkloadIdentityPlan) -> Iterator[list[str]]:
    """Yield the commands that change existing objects, service accounts before the workloads that use them. All other
    content is preserved.
    """
    for account in made.accounts:
        if not account.is_new:
            words = ["kubectl", "annotate", "serviceaccount", "--namespace", account.namespace, account.name]
            yield [*words, "--overwrite", *(f"{key}={value}" for key, value in _annotations(account).items())]
    for patch in made.patches:
        # The group distinguishes kinds of the same name.
        resource = ".".join((patch.kind.lower(), *reversed(patch.api_version.split("/"))))
        words = ["kubectl", "patch", resource, "--namespace", patch.namespace, patch.name]
        yield [*words, "--type=strategic", "--patch", printable_json(json.dumps(_change(patch)))]


def credential_script(
    credentials: Iterable[PlannedCredential], by_hand: Sequence[str], issuer: str, audience: str
) -> str:
    """Return a shell script that creates the federated credentials, one command each, and stops at the first
    failure. *by_hand* are the manual steps.
    """
    lines = ["#!/bin/sh", "# First sign in to the identities' tenant: az login --tenant …", "set -eu"]
    lines += _remarks(by_hand)
    for credential in credentials:
        lines += ["", f"# {printable(credential.identity)}", command(credential, issuer, audience)]
    return "\n".join(lines) + "\n"


def command(credential: PlannedCredential, issuer: str, audience: str) -> str:
    """Return the command that creates one federated credential."""
    if credential.identity_name:
        owner = (credential.subscription, credential.resource_group, credential.identity_name)
        return printable_command(creation(owner, credential.name, issuer, credential.subject, audience))
    parameters = parameters_of(credential.name, issuer, credential.subject, audience)
    return printable_command(application_creation(credential.client_id, parameters))


def plan_document(made: WorkloadIdentityPlan, issuer: str, audience: str) -> dict[str, Any]:
    """Return the plan with its documents, for programs."""
    document: dict[str, Any] = msgspec.to_builtins(made)
    document["issuer"] = issuer
    document["manifests"] = [_account(account) for account in made.accounts if account.is_new]
    document["commands"] = list(patching(made))
    document["credentials"] = [
        {
            **msgspec.to_builtins(credential),
            "parameters": parameters_of(credential.name, issuer, credential.subject, audience),
        }
        for credential in made.credentials
    ]
    return document


def _annotations(account: PlannedAccount) -> dict[str, str]:
    return {CLIENT_ID: account.client_id} | ({TENANT_ID: account.tenant_id} if account.tenant_id else {})


def _account(account: PlannedAccount) -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": account.name, "namespace": account.namespace, "annotations": _annotations(account)},
    }
    if account.image_pull_secrets:
        document["imagePullSecrets"] = account.image_pull_secrets
    if account.automount_service_account_token is not None:
        document["automountServiceAccountToken"] = account.automount_service_account_token
    return document


def _change(patch: WorkloadPatch) -> dict[str, Any]:
    """Return a strategic merge patch."""
    spec: dict[str, Any] = {
        "template": {
            "metadata": {"labels": {USE_LABEL: "true"}},
            "spec": {"serviceAccountName": patch.service_account},
        }
    }
    return {"spec": {"jobTemplate": {"spec": spec}} if patch.kind == CRON_JOBS.name else spec}


def shell(words: list[str]) -> str:
    """Return the command, or a comment if a word has terminal control characters. Names and ids on Azure never do."""
    return printable_command(shlex.join(words))


def printable_command(command: str) -> str:
    """Return *command*, or a comment if it has terminal control characters."""
    return command if command.isprintable() else f"# omitted because of non-printable characters: {printable(command)}"


def _remarks(by_hand: Iterable[str]) -> list[str]:
    lines = [f"#   {printable(step)}" for step in by_hand]
    return ["# Manual steps:", *lines] if lines else []
