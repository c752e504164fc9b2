"""The command `podidctl token`: NMI's response to a pod's token request, without a token fetch.

The checks are in NMI's order: the request's parameters, the pod and its assigned identities, then the checks before a
request to Azure.
"""

import asyncio
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlencode

import msgspec
import typer
from rich.console import Console

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import token_request
from nmi.server.responses import refused
from nmi.tokens.source import PolicyError
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext
from podidctl.commands.explain import OUTCOMES, nmi_configuration_from, read_input
from podidctl.commands.options import (
    Kubeconfig,
    KubeContext,
    NmiFlags,
    OutputFormat,
    RequestTimeout,
    examples,
    print_report,
)
from podidctl.evaluation.daemons import unavailable_reason
from podidctl.evaluation.federated import manifest_for, permissions_of, pod_token_source, subject
from podidctl.evaluation.pod import (
    MANAGEMENT_RESOURCE,
    UNTIL_A_CHANGE,
    PodCase,
    PredictedDecision,
    configuration_for,
    missing_pod,
)
from podidctl.evaluation.refusals import recent_refusal
from podidctl.evaluation.tokens import TYPE_NAMES, exchange_of, unknown_cloud_note
from podidctl.facts.model import Facts
from podidctl.report.documents import Outcome, TokenPrediction
from podidctl.report.text import Output, print_line, print_text
from podidentity.report import SOMETHING_TO_DO, plain
from podidentity.resources import AzureIdentity, IdentityType
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""
    names = ClusterNames(context)

    @app.command(
        "token",
        epilog=examples(
            "podidctl token NAMESPACE/POD", "podidctl token NAMESPACE/POD --resource https://vault.azure.net"
        ),
    )
    def _token(
        name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or NAME.", autocompletion=names.pods)],
        *,
        namespace: Annotated[
            str, typer.Option("-n", "--namespace", help="The pod's namespace.", autocompletion=names.namespaces)
        ] = "",
        resource: Annotated[str, typer.Option(help="Audience of the token.")] = MANAGEMENT_RESOURCE,
        client_id: Annotated[str, typer.Option(help="Client id of the identity that the request names.")] = "",
        resource_id: Annotated[str, typer.Option(help="Resource id of the identity that the request names.")] = "",
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
        nmi_flags: NmiFlags = "",
        output: OutputFormat = Output.TABLE,
    ) -> None:
        """Show the identity whose token a pod would get, or NMI's refusal. No token is fetched.

        The exit code is 0 if the pod is served, 3 if it is not, and 1 if the state could not be read.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        data = asyncio.run(read_input(settings, name, namespace, nmi_configuration_from(nmi_flags)))
        report = predict(data, resource, client_id=client_id, resource_id=resource_id)
        print_report(report, output, show)
        raise typer.Exit(0 if report.outcome in {Outcome.GRANTED, Outcome.EXEMPT} else SOMETHING_TO_DO)


def show(report: TokenPrediction, to: Console) -> None:
    """Print the prediction, one line per field."""
    color = OUTCOMES.get(report.outcome, "red")
    print_line(to, (f"pod {report.pod}", "bold"), ": ", (report.outcome, color))
    lines = [(name, text) for name, text in _lines(report) if text]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print_line(to, f"  {name:<{width}}  {text}")
    if report.manifest:
        print_text(report.manifest, to)
    print_line(to, (f"decided by {report.rules}; no request was sent to Azure, which may still refuse", "dim"))


def _lines(report: TokenPrediction) -> Iterator[tuple[str, str]]:
    yield "identity", report.identity
    yield "type", report.type
    yield "client id", report.client_id
    yield "resource id", report.resource_id
    yield "audience", report.audience
    yield "asked", report.asked
    yield "subject", report.subject
    yield "exchange", report.exchange
    yield "held", f"until {report.held_seconds:g} s after the first request, then:" if report.held_seconds else ""
    body = f"{report.error}: {report.description}" if report.error else "(in NMI's log)"
    yield "answer", f"{report.status} {body}" if report.status is not None else ""
    yield "repeats", UNTIL_A_CHANGE if report.immediate_repeats else ""
    yield "why", report.why
    yield "but", report.note


class _Body(msgspec.Struct):
    error: str
    error_description: str


def predict(facts: Facts, resource: str, *, client_id: str = "", resource_id: str = "") -> TokenPrediction:
    """Return the predicted response to a request for *resource* that names this identity, or none."""
    case = PodCase(facts, facts.pod) if facts.pod is not None else None
    named = {"resource": resource, "client_id": client_id, "msi_res_id": resource_id}
    request = token_request(urlencode({name: value for name, value in named.items() if value}))
    if isinstance(request, Refusal):
        prediction = _refused(facts, resource, request)
    elif case is None:
        prediction = _prediction(facts, resource, Outcome.UNSEEN, why=missing_pod(facts).reason)
    else:
        prediction = _predict(case, request)
    if case is None or not (reason := unavailable_reason(case, prediction.outcome)):
        return prediction
    then = f"podidctl explain pod {prediction.pod} states the next action"
    note = "; ".join(filter(None, (f"no working NMI was found on its node: {reason}", then, prediction.note)))
    return msgspec.structs.replace(prediction, outcome=Outcome.UNANSWERED, note=plain(note))


def _predict(case: PodCase, request: TokenRequest) -> TokenPrediction:
    decision = case.decide(request)
    match decision:
        case PredictedDecision(outcome=Outcome.GRANTED, assigned=assigned) if assigned is not None:
            return _granted(case, request, assigned.identity)
        case PredictedDecision(refusal=Refusal() as refusal):
            prediction = _refused(case.facts, request.resource, refusal, decision.seconds, decision.outcome)
            return msgspec.structs.replace(prediction, immediate_repeats=decision.repeats_immediately)
        case _:
            whom = "IMDS itself, for the node's own identities" if decision.outcome is Outcome.EXEMPT else ""
            return _prediction(case.facts, request.resource, decision.outcome, asked=whom, why=decision.reason)


def _granted(case: PodCase, request: TokenRequest, identity: AzureIdentity) -> TokenPrediction:
    shown = _identity_fields(identity)
    if identity.spec.type == IdentityType.FEDERATED:
        shown |= {"subject": plain(subject(case.pod))} | _exchange_field(case, identity)
    whom = pod_token_source(case, identity, request.resource)
    manifest = manifest_for(case, [identity])
    if isinstance(whom, Refusal):
        prediction = _refused(case.facts, request.resource, whom)
        # Further endpoints in NMI's cloud file could change no other refusal.
        by_policy = whom.reason is Reason.POLICY
        note = plain(unknown_cloud_note(case.configuration, identity)) if by_policy else ""
        return msgspec.structs.replace(prediction, note=note, manifest=manifest, **shown)
    note = _permission_note(case, identity)
    granted = _prediction(case.facts, request.resource, Outcome.GRANTED, asked=whom, note=note, **shown)
    granted = msgspec.structs.replace(granted, manifest=manifest)
    recent = recent_refusal(case, identity="/".join(identity.key), resource=request.resource)
    if recent is None:
        return granted
    return msgspec.structs.replace(
        granted,
        outcome=Outcome.WAITS if recent.unanswered else Outcome.REFUSED,
        status=recent.status,
        why=plain(recent.text),
        note=plain("; ".join(filter(None, (f"{recent.description}; NMI has granted none since", note)))),
    )


def _permission_note(case: PodCase, identity: AzureIdentity) -> str:
    """Return a note if it is unknown whether the pod's service account may use *identity* at the token proxy."""
    unknown = [
        permission.unread.reason for permission in permissions_of(case, [identity]) if permission.unread is not None
    ]
    return f"it is not known whether its service account may use the identity: {unknown[0]}" if unknown else ""


def _exchange_field(case: PodCase, identity: AzureIdentity) -> dict[str, str]:
    try:
        return {"exchange": exchange_of(case.settings, identity)}
    except PolicyError:
        return {}


def _identity_fields(identity: AzureIdentity) -> dict[str, str]:
    spec = identity.spec
    return {
        "identity": plain("/".join(identity.key)),
        "type": f"{spec.type} ({TYPE_NAMES.get(spec.type, 'unknown')})",
        "client_id": plain(spec.client_id.strip()),
        "resource_id": plain(spec.resource_id),
    }


def _refused(
    facts: Facts, resource: str, refusal: Refusal, seconds: float = 0.0, outcome: Outcome = Outcome.REFUSED
) -> TokenPrediction:
    response = refused(refusal, set_retry_after=configuration_for(facts).settings.set_retry_after_header)
    body = msgspec.json.decode(response.body, type=_Body)
    return msgspec.structs.replace(
        _prediction(facts, resource, outcome, why=refusal.detail),
        held_seconds=seconds,
        status=int(response.status),
        error=body.error,
        description=plain(body.error_description),
    )


def _prediction(facts: Facts, resource: str, outcome: Outcome, **more: str) -> TokenPrediction:
    prediction = TokenPrediction(
        pod="/".join(facts.scope),
        outcome=outcome,
        audience=plain(resource),
        rules=plain(configuration_for(facts).source),
    )
    return msgspec.structs.replace(prediction, **{name: plain(value) for name, value in more.items()})
