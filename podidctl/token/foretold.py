"""From the facts about a pod and a request to what NMI would answer, up to Azure's own word. Pure.

In NMI's order: the request's parameters, the pod and what is assigned to it, then what NMI looks at before it asks
Azure for anything.
"""

from urllib.parse import urlencode

import msgspec

from nmi.identity.request import TokenRequest
from nmi.refusal import Refusal
from nmi.server.parameters import token_request
from nmi.server.responses import refused
from podidctl.explain.shapes import Shown
from podidctl.inquiry.accounts import asked_for, subject
from podidctl.inquiry.answering import silent
from podidctl.inquiry.asking import TYPES, may_allow_more
from podidctl.inquiry.facts import Facts
from podidctl.inquiry.verdict import Outcome, Verdict, verdict
from podidctl.printing import plain
from podidentity.resources import AzureIdentity, IdentityType
from podidentity.telemetry.logs import redacted


class Foretold(Shown, frozen=True):
    """What the pod would get. Client ids are cut: enough to recognise one by."""

    pod: str
    outcome: Outcome
    audience: str
    rules: str
    """By whose flags this was decided."""
    identity: str = ""
    """Namespace and name of the AzureIdentity, also where a token of it is refused."""
    type: str = ""
    client_id: str = ""
    resource_id: str = ""
    asked: str = ""
    """Whom NMI would ask for the token, and how."""
    subject: str = ""
    """What the pod proves itself as, where the identity is federated."""
    held_seconds: float = 0.0
    """How long the request is held before it is refused."""
    status: int | None = None
    """Of the refusal, as are `error` and `description`: the answer's body."""
    error: str = ""
    description: str = ""
    why: str = ""
    """For the operator: what NMI's log says."""
    note: str = ""
    """What keeps the pod from it, or what could make it otherwise and is not known here."""


class _Body(msgspec.Struct):
    error: str
    error_description: str


def foretell(facts: Facts, resource: str, *, client_id: str = "", resource_id: str = "") -> Foretold:
    """What a request for *resource* that names this identity, or none, comes to."""
    told = _foretell(facts, resource, client_id=client_id, resource_id=resource_id)
    if not (why := silent(facts, told.outcome)):
        return told
    then = f"podidctl explain pod {told.pod} says what to do"
    note = "; ".join(filter(None, (f"no NMI that works is to be seen on its node: {why}", then, told.note)))
    return msgspec.structs.replace(told, outcome=Outcome.UNANSWERED, note=plain(note))


def _foretell(facts: Facts, resource: str, *, client_id: str, resource_id: str) -> Foretold:
    named = {"resource": resource, "client_id": client_id, "msi_res_id": resource_id}
    request = token_request(urlencode({name: value for name, value in named.items() if value}))
    if isinstance(request, Refusal):
        return _refused(facts, resource, request)
    said = verdict(facts, request)
    match said:
        case Verdict(outcome=Outcome.GRANTED, assigned=assigned) if assigned is not None:
            return _granted(facts, request, assigned.identity)
        case Verdict(refusal=Refusal() as refusal):
            return _refused(facts, resource, refusal, said.seconds, said.outcome)
        case _:
            whom = "IMDS itself, for the node's own identities" if said.outcome is Outcome.EXEMPT else ""
            return _told(facts, resource, said.outcome, asked=whom, why=said.why)


def _granted(facts: Facts, request: TokenRequest, identity: AzureIdentity) -> Foretold:
    shown = _shown(identity)
    if facts.pod is not None and identity.spec.type == IdentityType.FEDERATED:
        shown |= {"subject": plain(subject(facts.pod))}
    whom = asked_for(facts, identity, request.resource)
    if isinstance(whom, Refusal):
        told = _refused(facts, request.resource, whom)
        return msgspec.structs.replace(told, note=plain(may_allow_more(facts.rules, identity)), **shown)
    return _told(facts, request.resource, Outcome.GRANTED, asked=whom, **shown)


def _shown(identity: AzureIdentity) -> dict[str, str]:
    spec = identity.spec
    return {
        "identity": plain("/".join(identity.key)),
        "type": f"{spec.type} ({TYPES.get(spec.type, 'unknown')})",
        "client_id": redacted(spec.client_id.strip()) if spec.client_id.strip() else "",
        "resource_id": plain(spec.resource_id),
    }


def _refused(
    facts: Facts, resource: str, refusal: Refusal, seconds: float = 0.0, outcome: Outcome = Outcome.REFUSED
) -> Foretold:
    answer = refused(refusal, set_retry_after=facts.rules.settings.set_retry_after_header)
    body = msgspec.json.decode(answer.body, type=_Body)
    return msgspec.structs.replace(
        _told(facts, resource, outcome, why=refusal.detail),
        held_seconds=seconds,
        status=int(answer.status),
        error=body.error,
        description=plain(body.error_description),
    )


def _told(facts: Facts, resource: str, outcome: Outcome, **more: str) -> Foretold:
    told = Foretold(
        pod=f"{facts.namespace}/{facts.name}",
        outcome=outcome,
        audience=plain(resource),
        rules=plain(facts.rules.whose),
    )
    return msgspec.structs.replace(told, **{name: plain(value) for name, value in more.items()})
