"""A plan for workload identity as what people apply: YAML for kubectl, commands for az. Pure.

Whoever wrote the objects in the cluster chose the texts in it: they are quoted for the shell, and kept out of comments
unless they are one line of printable characters.
"""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from podidctl.migration.shapes import CRON_JOBS
from podidctl.migration.workload_identity import (
    CLIENT_ID,
    TENANT_ID,
    USE_LABEL,
    Account,
    ByHand,
    Credential,
    Patch,
    Plan,
)


def manifests(made: Plan) -> str:
    """ServiceAccounts, and what changes in workloads: for `kubectl apply --server-side --force-conflicts -f`.

    Of a workload only the fields that change stand there; a server-side apply leaves all others as they are.
    """
    head = "# kubectl apply --server-side --force-conflicts -f this; of workloads only what changes stands here.\n"
    documents = [*map(_account, made.accounts), *map(_patch, made.patches)]
    body = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True) if documents else ""
    return f"{head}{''.join(_remarks(made.by_hand))}{body}"


def commands(made: Plan, issuer: str, audience: str) -> str:
    """A shell script that makes the federated credentials, a command for each; it ends at the first that fails."""
    lines = ["#!/bin/sh", "# Sign in to the tenant of the identities before: az login --tenant …", "set -eu"]
    lines += [line.rstrip("\n") for line in _remarks(made.by_hand)]
    for credential in made.credentials:
        lines += ["", f"# {_printable(credential.identity)}", command(credential, issuer, audience)]
    return "\n".join(lines) + "\n"


def command(credential: Credential, issuer: str, audience: str) -> str:
    """The command that makes one federated credential."""
    if credential.identity_name:
        words = ["az", "identity", "federated-credential", "create"]
        words += ["--subscription", credential.subscription, "--resource-group", credential.resource_group]
        words += ["--identity-name", credential.identity_name, "--name", credential.name]
        words += ["--issuer", issuer, "--subject", credential.subject, "--audiences", audience]
    else:
        words = ["az", "ad", "app", "federated-credential", "create", "--id", credential.client_id, "--parameters"]
        words.append(json.dumps(parameters(credential, issuer, audience)))
    return shlex.join(words)


def parameters(credential: Credential, issuer: str, audience: str) -> dict[str, Any]:
    """A federated credential as Azure's own interfaces take it."""
    return {"name": credential.name, "issuer": issuer, "subject": credential.subject, "audiences": [audience]}


def everything(made: Plan, issuer: str, audience: str) -> dict[str, Any]:
    """The plan and the documents in it, for programs."""
    document: dict[str, Any] = msgspec.to_builtins(made)
    document["issuer"] = issuer
    document["manifests"] = [*map(_account, made.accounts), *map(_patch, made.patches)]
    document["credentials"] = [
        {**msgspec.to_builtins(each), "parameters": parameters(each, issuer, audience)} for each in made.credentials
    ]
    return document


def _account(account: Account) -> dict[str, Any]:
    annotations = {CLIENT_ID: account.client_id} | ({TENANT_ID: account.tenant_id} if account.tenant_id else {})
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": account.name, "namespace": account.namespace, "annotations": annotations},
    }
    if account.image_pull_secrets:
        document["imagePullSecrets"] = account.image_pull_secrets
    if account.automount_service_account_token is not None:
        document["automountServiceAccountToken"] = account.automount_service_account_token
    return document


def _patch(patch: Patch) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "template": {
            "metadata": {"labels": {USE_LABEL: "true"}},
            "spec": {"serviceAccountName": patch.service_account},
        }
    }
    return {
        "apiVersion": patch.api_version,
        "kind": patch.kind,
        "metadata": {"name": patch.name, "namespace": patch.namespace},
        "spec": {"jobTemplate": {"spec": spec}} if patch.kind == CRON_JOBS.name else spec,
    }


def _remarks(by_hand: list[ByHand]) -> Iterator[str]:
    if by_hand:
        yield "# By hand:\n"
    for each in by_hand:
        yield f"#   {_printable(each.about)}: {_printable(each.why)}; {_printable(each.do)}\n"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
