"""Documents of a workload identity plan: YAML of new objects, commands for kubectl and for az. Pure.

Existing objects are patched, never applied: an apply of a part of an object removes what an earlier apply of the whole
object has set, for client-side and server-side apply.

Names from the cluster are untrusted. They are quoted for the shell, and omitted from commands and comments unless they
are one line of printable characters.
"""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from podidctl.migration.projections import CRON_JOBS
from podidctl.migration.workload_identity import (
    CLIENT_ID,
    TENANT_ID,
    USE_LABEL,
    ManualStep,
    PlannedAccount,
    PlannedCredential,
    WorkloadIdentityPlan,
    WorkloadPatch,
)
from podidctl.report.text import printable_json
from podidentity.report import printable


def manifests(made: WorkloadIdentityPlan) -> str:
    """Return the new ServiceAccounts, for `kubectl apply -f`."""
    head = "# kubectl apply -f this file: the new objects. Changes of existing objects: -o kubectl.\n"
    documents = [_account(each) for each in made.accounts if each.is_new]
    body = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=False) if documents else ""
    return f"{head}{''.join(_remarks(made.by_hand))}{body}"


def changes(made: WorkloadIdentityPlan) -> str:
    """Return a shell script that changes existing objects and stops at the first failure. kubectl must have the
    permissions.
    """
    lines = ["#!/bin/sh", "# First create the new objects: kubectl apply -f the output of -o yaml.", "set -eu"]
    lines += [line.rstrip("\n") for line in _remarks(made.by_hand)]
    lines += map(shell, patching(made))
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
        yield [*words, "--type=strategic", "--patch", _line(_change(patch))]


def commands(made: WorkloadIdentityPlan, issuer: str, audience: str) -> str:
    """Return a shell script that creates the federated credentials, one command each, and stops at the first
    failure.
    """
    lines = ["#!/bin/sh", "# First sign in to the identities' tenant: az login --tenant …", "set -eu"]
    lines += [line.rstrip("\n") for line in _remarks(made.by_hand)]
    for credential in made.credentials:
        lines += ["", f"# {printable(credential.identity)}", command(credential, issuer, audience)]
    return "\n".join(lines) + "\n"


def command(credential: PlannedCredential, issuer: str, audience: str) -> str:
    """Return the command that creates one federated credential."""
    if credential.identity_name:
        words = ["az", "identity", "federated-credential", "create"]
        words += ["--subscription", credential.subscription, "--resource-group", credential.resource_group]
        words += ["--identity-name", credential.identity_name, "--name", credential.name]
        words += ["--issuer", issuer, "--subject", credential.subject, "--audiences", audience]
    else:
        words = ["az", "ad", "app", "federated-credential", "create", "--id", credential.client_id, "--parameters"]
        words.append(_line(parameters(credential, issuer, audience)))
    return shell(words)


def parameters(credential: PlannedCredential, issuer: str, audience: str) -> dict[str, Any]:
    """Return a federated credential in the format of Azure's APIs."""
    return {"name": credential.name, "issuer": issuer, "subject": credential.subject, "audiences": [audience]}


def everything(made: WorkloadIdentityPlan, issuer: str, audience: str) -> dict[str, Any]:
    """Return the plan with its documents, for programs."""
    document: dict[str, Any] = msgspec.to_builtins(made)
    document["issuer"] = issuer
    document["manifests"] = [_account(each) for each in made.accounts if each.is_new]
    document["commands"] = list(patching(made))
    document["credentials"] = [
        {**msgspec.to_builtins(each), "parameters": parameters(each, issuer, audience)} for each in made.credentials
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


def _line(document: dict[str, Any]) -> str:
    return printable_json(json.dumps(document))


def shell(words: list[str]) -> str:
    """Return the command, or a comment if a word has terminal control characters. Names and ids on Azure never do."""
    command = shlex.join(words)
    return command if command.isprintable() else f"# omitted because of non-printable characters: {printable(command)}"


def _remarks(by_hand: list[ManualStep]) -> Iterator[str]:
    if by_hand:
        yield "# Manual steps:\n"
    for each in by_hand:
        yield f"#   {printable(each.about)}: {printable(each.why)}; {printable(each.do)}\n"
