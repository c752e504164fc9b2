"""Definition of the command `podidctl access`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mic.azure.reading import read_hosts
from mic.startup.azure_reader import azure_reader
from podidctl.access.differences import DOCUMENT_MAX, Differences, DocumentError, compare, read_document
from podidctl.access.gather import ACCESS
from podidctl.access.outputs import AccessOutput, render
from podidctl.access.policy import FILE_MAX, PolicyError, RuleLine, evaluate, parse_policy
from podidctl.access.policy_output import PolicyOutput, render_policy
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, Scope
from podidctl.access.scope import KINDS
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import (
    NAME_PATTERN,
    REQUEST_TIMEOUT,
    CliContext,
    ClusterSettings,
    connect,
    parse_pod_name,
)
from podidctl.commands.options import Cloudconfig, Kubeconfig, KubeContext, RequestTimeout, examples, print_report
from podidctl.evaluation.needs import distinct_hosts
from podidctl.facts.model import AzureState, Facts
from podidctl.reading.reader import read
from podidctl.report.text import Output, console, print_line, print_text
from podidentity.exits import StartError
from podidentity.report import SOMETHING_TO_DO, counted, plain
from podidentity.telemetry.logs import LogFormat, configure

WHAT = {"identity": "an identity name", "pod": "a pod name"}
"""Kinds with a namespace."""
SIGN_COLORS = {"+": "green", "-": "red"}


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""
    names = ClusterNames(context)

    @app.command(
        "access",
        epilog=examples(
            "podidctl access", "podidctl access pod NAMESPACE/POD", "podidctl access -o json > before.json"
        ),
    )
    def _access(
        kind: Annotated[
            str,
            typer.Argument(
                help="identity, pod, node or namespace. Default: the cluster.", autocompletion=_complete_kinds
            ),
        ] = "",
        name: Annotated[
            str,
            typer.Argument(
                help="Its name; of a pod or an identity NAMESPACE/NAME, or NAME.", autocompletion=names.of_kind
            ),
        ] = "",
        *,
        namespace: Annotated[
            str,
            typer.Option(
                "-n",
                "--namespace",
                help="The namespace of the pod or the identity.",
                autocompletion=names.namespaces,
            ),
        ] = "",
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        cloudconfig: Cloudconfig = "",
        output: Annotated[AccessOutput, typer.Option("-o", "--output", help="Output format.")] = AccessOutput.TABLE,
        policy: Annotated[str, typer.Option(help="Test the cluster against the rules in this file.")] = "",
        policy_output: Annotated[PolicyOutput, typer.Option(help="Output format with --policy.")] = PolicyOutput.TEXT,
        diff: Annotated[str, typer.Option(help="Show the changes since this review (a file of -o json).")] = "",
        stored: Annotated[
            str, typer.Option("--review", help="Use this review (a file of -o json) instead of the cluster.")
        ] = "",
    ) -> None:
        """Show which pod can use which Azure identity, and how far one taken-over pod or node reaches. Only reads.

        The exit code is 0, or 1 if a part could not be read. With --policy it is 3 if a rule is violated, and with
        --diff if there is a change; both also accept a stored review: --diff BEFORE.json AFTER.json.
        """
        configure(LogFormat.TEXT, 0)
        # In --diff BEFORE.json AFTER.json the second file is in the place of KIND.
        if diff and kind and kind not in KINDS and not name and not stored:
            kind, stored = "", kind
        _check_options(output, kind, policy, diff, stored)
        parse_scope(kind, name, namespace, "default")  # reports a wrong command line before the cluster is read
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig, cloudconfig=cloudconfig)

        def find_review() -> AccessReview:
            if stored:
                return _read_review(stored)
            objects, usual = asyncio.run(_read(settings, ask_azure=bool(cloudconfig)))
            return review(objects, parse_scope(kind, name, namespace, usual))

        to = console()
        if policy:
            code = _test_policy(find_review, stored, policy, policy_output, to)
        elif diff:
            code = _show_differences(find_review, diff, Output(output))
        else:
            access_review = find_review()
            render(access_review, output, to)
            code = int(bool(access_review.unknown))
        raise typer.Exit(code)


def _complete_kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def _check_options(output: AccessOutput, kind: str, policy: str, diff: str, stored: str) -> None:
    """Raise typer.BadParameter for options that exclude each other."""
    if policy and diff:
        raise typer.BadParameter("--policy and --diff exclude each other")
    if policy and (kind or output is not AccessOutput.TABLE):
        raise typer.BadParameter("a policy tests the whole cluster, and --policy-output sets its format")
    if diff and output in {AccessOutput.WIDE, AccessOutput.DOT, AccessOutput.HTML}:
        raise typer.BadParameter(f"--diff has no output {output}; use table, json or yaml")
    if stored and kind:
        raise typer.BadParameter("a stored review cannot be restricted; store one with the same arguments")


def parse_scope(kind: str, name: str, namespace: str, usual: str) -> Scope:
    """Return the scope on the command line; *usual*: the default namespace. Raises typer.BadParameter."""
    if kind in WHAT:
        return Scope(kind=kind, name="/".join(parse_pod_name(name, namespace, usual, WHAT[kind])))
    if namespace:
        raise typer.BadParameter("-n is the namespace of a pod or an identity; write: podidctl access namespace NAME")
    if kind and kind not in KINDS:
        raise typer.BadParameter(f"{kind!a} is not one of {', '.join(KINDS)}")
    if kind and not NAME_PATTERN.fullmatch(name):
        raise typer.BadParameter(f"{name!a} is not the name of a {kind}; write: podidctl access {kind} NAME")
    return Scope(kind=kind, name=name) if kind else Scope()


def _test_policy(
    find_review: Callable[[], AccessReview], stored: str, file: str, output: PolicyOutput, to: Console
) -> int:
    rules, access_review = _read_policy(file), find_review()
    if access_review.scope.kind:
        raise StartError(
            f"{stored} is a review of {access_review.scope.kind} {access_review.scope.name} only, and a policy tests "
            "the whole cluster: store one without arguments, podidctl access -o json"
        )
    result = evaluate(access_review, rules, file)
    print_text(render_policy(result, output), to)
    return SOMETHING_TO_DO if result.is_violated else int(result.is_undecided)


def _read_policy(file: str) -> list[RuleLine]:
    try:
        return parse_policy(_read_file(file, FILE_MAX))
    except PolicyError as error:
        raise StartError(f"{file} is not a policy: {error}") from error


def _show_differences(find_review: Callable[[], AccessReview], file: str, output: Output) -> int:
    before = _read_review(file)
    try:
        differences = compare(before, find_review())
    except DocumentError as error:
        raise StartError(f"{file}: {error}") from error
    print_report(differences, output, _print_differences)
    return SOMETHING_TO_DO if differences.differences else int(bool(differences.unknown))


def _print_differences(changes: Differences, to: Console) -> None:
    print_line(to, f"{counted(len(changes.differences), 'change')} from {changes.before} to {changes.after}")
    for difference in changes.differences:
        line = plain(f"{difference.subject}: {difference.says}")
        print_line(to, (difference.sign, SIGN_COLORS[difference.sign]), f" {line}")
    for part in changes.unknown:
        print_line(to, (f"unknown: {plain(part)}: changes of it may be missing", "magenta"))


async def _read(settings: ClusterSettings, *, ask_azure: bool) -> tuple[Facts, str]:
    """Return the objects, and the namespace of the kubeconfig. Raises StartError."""
    async with connect(settings) as client:
        objects, usual = await read(client, Facts(), ACCESS), client.access.namespace or "default"
    if not ask_azure:
        return objects, usual
    async with azure_reader(settings) as (own, azure):
        responses = await read_hosts(azure, distinct_hosts(objects.nodes))
        return replace(objects, azure=AzureState(responses, own)), usual


def _read_review(file: str) -> AccessReview:
    try:
        return read_document(_read_file(file, DOCUMENT_MAX))
    except DocumentError as error:
        raise StartError(f"{file}: {error}") from error


def _read_file(file: str, most: int) -> bytes:
    """Return the content, and one byte more than *most* of a larger file. Raises StartError."""
    try:
        with Path(file).open("rb") as content:
            return content.read(most + 1)
    except (OSError, ValueError) as error:
        raise StartError(f"cannot read {file}: {error}; check the path") from error
