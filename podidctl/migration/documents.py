"""A plan for workload identity as what people run: YAML of what is new, commands for kubectl and for az. Pure.

What is there already is patched, never applied: an apply of a part of an object takes away what an earlier apply of the
whole has set, whichever kind of apply the two were.

Whoever wrote the objects in the cluster chose the texts in it: they are quoted for the shell, and kept out of commands
and comments unless they are one line of printable characters.
"""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from mic.preview.text import printable
from podidctl.migration.projections import CRON_JOBS
from podidctl.migration.workload_identity import (
    CLIENT_ID,
    TENANT_ID,
    USE_LABEL,
    FederatedCredential,
    ManualStep,
    PlannedAccount,
    WorkloadIdentityPlan,
    WorkloadPatch,
)
from podidctl.printing import printable_json


def manifests(made: WorkloadIdentityPlan) -> str:
    """The ServiceAccounts that are new, for `kubectl apply -f`."""
    head = "# kubectl apply -f this: what is new. What changes in what is there: -o kubectl.\n"
    documents = [_account(each) for each in made.accounts if each.is_new]
    body = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=False) if documents else ""
    return f"{head}{''.join(_remarks(made.by_hand))}{body}"


def changes(made: WorkloadIdentityPlan) -> str:
    """A shell script that changes what is there, for whom kubectl is somebody who may; it ends at the first failure."""
    lines = ["#!/bin/sh", "# What is new comes first: kubectl apply -f what -o yaml prints.", "set -eu"]
    lines += [line.rstrip("\n") for line in _remarks(made.by_hand)]
    lines += map(_shell, patching(made))
    return "\n".join(lines) + "\n"


def patching(made: WorkloadIdentityPlan) -> Iterator[list[str]]:
    """The commands that change what is there, accounts before what is to use them. All else in it stays."""
    for account in made.accounts:
        if not account.is_new:
            words = ["kubectl", "annotate", "serviceaccount", "--namespace", account.namespace, account.name]
            yield [*words, "--overwrite", *(f"{key}={value}" for key, value in _annotations(account).items())]
    for patch in made.patches:
        # With the group: another one's kind may have the same name.
        resource = ".".join((patch.kind.lower(), *reversed(patch.api_version.split("/"))))
        words = ["kubectl", "patch", resource, "--namespace", patch.namespace, patch.name]
        yield [*words, "--type=strategic", "--patch", _line(_change(patch))]


def commands(made: WorkloadIdentityPlan, issuer: str, audience: str) -> str:
    """A shell script that makes the federated credentials, a command for each; it ends at the first that fails."""
    lines = ["#!/bin/sh", "# Sign in to the tenant of the identities before: az login --tenant …", "set -eu"]
    lines += [line.rstrip("\n") for line in _remarks(made.by_hand)]
    for credential in made.credentials:
        lines += ["", f"# {printable(credential.identity)}", command(credential, issuer, audience)]
    return "\n".join(lines) + "\n"


def command(credential: FederatedCredential, issuer: str, audience: str) -> str:
    """The command that makes one federated credential."""
    if credential.identity_name:
        words = ["az", "identity", "federated-credential", "create"]
        words += ["--subscription", credential.subscription, "--resource-group", credential.resource_group]
        words += ["--identity-name", credential.identity_name, "--name", credential.name]
        words += ["--issuer", issuer, "--subject", credential.subject, "--audiences", audience]
    else:
        words = ["az", "ad", "app", "federated-credential", "create", "--id", credential.client_id, "--parameters"]
        words.append(_line(parameters(credential, issuer, audience)))
    return _shell(words)


def parameters(credential: FederatedCredential, issuer: str, audience: str) -> dict[str, Any]:
    """A federated credential as Azure's own interfaces take it."""
    return {"name": credential.name, "issuer": issuer, "subject": credential.subject, "audiences": [audience]}


def everything(made: WorkloadIdentityPlan, issuer: str, audience: str) -> dict[str, Any]:
    """The plan and the documents in it, for programs."""
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
    """A strategic merge patch."""
    spec: dict[str, Any] = {
        "template": {
            "metadata": {"labels": {USE_LABEL: "true"}},
            "spec": {"serviceAccountName": patch.service_account},
        }
    }
    return {"spec": {"jobTemplate": {"spec": spec}} if patch.kind == CRON_JOBS.name else spec}


def _line(document: dict[str, Any]) -> str:
    return printable_json(json.dumps(document))


def _shell(words: list[str]) -> str:
    """The command, or a remark where a word of it could steer a terminal: no name or id of Azure's could."""
    command = shlex.join(words)
    return command if command.isprintable() else f"# left out, since not all of it is printable: {printable(command)}"


def _remarks(by_hand: list[ManualStep]) -> Iterator[str]:
    if by_hand:
        yield "# By hand:\n"
    for each in by_hand:
        yield f"#   {printable(each.about)}: {printable(each.why)}; {printable(each.do)}\n"
