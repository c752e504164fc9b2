"""Prediction of NMI's response to a pod's token request, without a token fetch. Pure.

The checks are in NMI's order: the request's parameters, the pod and its assigned identities, then the checks before a
request to Azure.
"""

from urllib.parse import urlencode

import msgspec

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import token_request
from nmi.server.responses import refused
from nmi.tokens.source import PolicyError
from podidctl.diagnosis.decision import Outcome, PredictedDecision, predict_decision
from podidctl.diagnosis.exchanges import exchange_of
from podidctl.diagnosis.identity_permissions import manifest_for, permissions_of
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.diagnosis.nmi_availability import unavailable_reason
from podidctl.diagnosis.recent_refusals import recent_refusal
from podidctl.diagnosis.service_accounts import pod_token_source, subject
from podidctl.diagnosis.token_source import TYPE_NAMES, unknown_cloud_note
from podidentity.report import ReportModel, plain
from podidentity.resources import AzureIdentity, IdentityType
from podidentity.telemetry.logs import redacted


class TokenPrediction(ReportModel, frozen=True):
    """NMI's predicted response. Client ids are shortened to a recognizable prefix."""

    pod: str
    outcome: Outcome
    audience: str
    rules: str
    """Origin of the NMI settings that were used."""
    identity: str = ""
    """Namespace and name of the AzureIdentity, also if its token is refused."""
    type: str = ""
    client_id: str = ""
    resource_id: str = ""
    asked: str = ""
    """The endpoint that NMI would ask for the token."""
    subject: str = ""
    """Subject of the pod's service account token, if the identity is federated."""
    exchange: str = ""
    """`direct` or `identityBindings`, if the identity is federated and NMI accepts its annotation."""
    held_seconds: float = 0.0
    """How long after the pod's first request NMI holds requests before it refuses them."""
    immediate_repeats: bool = False
    """Whether NMI refuses requests immediately after that time, until something changes for the pod."""
    status: int | None = None
    """HTTP status of a refusal; `error` and `description` are its body. Of a refusal in NMI's log only the status is
    known."""
    error: str = ""
    description: str = ""
    why: str = ""
    """The reason in NMI's log, for the operator."""
    note: str = ""
    """A fault that prevents the response, or a setting that is unknown here and may change it."""
    manifest: str = ""
    """YAML for `kubectl apply -f -` with the permission that is missing, or that could not be checked."""


class _Body(msgspec.Struct):
    error: str
    error_description: str


def predict(data: DiagnosisInput, resource: str, *, client_id: str = "", resource_id: str = "") -> TokenPrediction:
    """Return the predicted response to a request for *resource* that names this identity, or none."""
    prediction = _predict(data, resource, client_id=client_id, resource_id=resource_id)
    if not (why := unavailable_reason(data, prediction.outcome)):
        return prediction
    then = f"podidctl explain pod {prediction.pod} states the next action"
    note = "; ".join(filter(None, (f"no working NMI was found on its node: {why}", then, prediction.note)))
    return msgspec.structs.replace(prediction, outcome=Outcome.UNANSWERED, note=plain(note))


def _predict(data: DiagnosisInput, resource: str, *, client_id: str, resource_id: str) -> TokenPrediction:
    named = {"resource": resource, "client_id": client_id, "msi_res_id": resource_id}
    request = token_request(urlencode({name: value for name, value in named.items() if value}))
    if isinstance(request, Refusal):
        return _refused(data, resource, request)
    decision = predict_decision(data, request)
    match decision:
        case PredictedDecision(outcome=Outcome.GRANTED, assigned=assigned) if assigned is not None:
            return _granted(data, request, assigned.identity)
        case PredictedDecision(refusal=Refusal() as refusal):
            prediction = _refused(data, resource, refusal, decision.seconds, decision.outcome)
            return msgspec.structs.replace(prediction, immediate_repeats=decision.repeats_immediately)
        case _:
            whom = "IMDS itself, for the node's own identities" if decision.outcome is Outcome.EXEMPT else ""
            return _prediction(data, resource, decision.outcome, asked=whom, why=decision.why)


def _granted(data: DiagnosisInput, request: TokenRequest, identity: AzureIdentity) -> TokenPrediction:
    shown = _identity_fields(identity)
    if data.pod is not None and identity.spec.type == IdentityType.FEDERATED:
        shown |= {"subject": plain(subject(data.pod))} | _exchange_field(data, identity)
    whom = pod_token_source(data, identity, request.resource)
    manifest = manifest_for(data, [identity])
    if isinstance(whom, Refusal):
        prediction = _refused(data, request.resource, whom)
        by_policy = whom.reason is Reason.POLICY
        note = plain(unknown_cloud_note(data.configuration, identity)) if by_policy else ""
        return msgspec.structs.replace(prediction, note=note, manifest=manifest, **shown)
    note = _permission_note(data, identity)
    granted = _prediction(data, request.resource, Outcome.GRANTED, asked=whom, note=note, **shown)
    granted = msgspec.structs.replace(granted, manifest=manifest)
    recent = recent_refusal(data, identity="/".join(identity.key), resource=request.resource)
    if recent is None:
        return granted
    return msgspec.structs.replace(
        granted,
        outcome=Outcome.REFUSED,
        status=recent.status,
        why=plain(recent.text),
        note=plain("; ".join(filter(None, (f"{recent.description}; NMI has granted none since", note)))),
    )


def _permission_note(data: DiagnosisInput, identity: AzureIdentity) -> str:
    """Return a note if it is unknown whether the pod's service account may use *identity* at the token proxy."""
    unknown = [each.unread.why for each in permissions_of(data, [identity]) if each.unread is not None]
    return f"it is not known whether its service account may use the identity: {unknown[0]}" if unknown else ""


def _exchange_field(data: DiagnosisInput, identity: AzureIdentity) -> dict[str, str]:
    try:
        return {"exchange": exchange_of(data.configuration.settings, identity)}
    except PolicyError:
        return {}


def _identity_fields(identity: AzureIdentity) -> dict[str, str]:
    spec = identity.spec
    return {
        "identity": plain("/".join(identity.key)),
        "type": f"{spec.type} ({TYPE_NAMES.get(spec.type, 'unknown')})",
        "client_id": redacted(spec.client_id.strip()) if spec.client_id.strip() else "",
        "resource_id": plain(spec.resource_id),
    }


def _refused(
    data: DiagnosisInput, resource: str, refusal: Refusal, seconds: float = 0.0, outcome: Outcome = Outcome.REFUSED
) -> TokenPrediction:
    answer = refused(refusal, set_retry_after=data.configuration.settings.set_retry_after_header)
    body = msgspec.json.decode(answer.body, type=_Body)
    return msgspec.structs.replace(
        _prediction(data, resource, outcome, why=refusal.detail),
        held_seconds=seconds,
        status=int(answer.status),
        error=body.error,
        description=plain(body.error_description),
    )


def _prediction(data: DiagnosisInput, resource: str, outcome: Outcome, **more: str) -> TokenPrediction:
    prediction = TokenPrediction(
        pod=f"{data.namespace}/{data.name}",
        outcome=outcome,
        audience=plain(resource),
        rules=plain(data.configuration.source),
    )
    return msgspec.structs.replace(prediction, **{name: plain(value) for name, value in more.items()})
