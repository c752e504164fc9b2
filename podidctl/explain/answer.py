"""Summary of the result of a pod's request in one sentence that is consistent with the links. Pure.

`predict_decision` returns NMI's decision. The links add whether an NMI on the node responds and whether Azure has a
token.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.refusal import Refusal
from nmi.server.responses import refused
from podidctl.diagnosis.decision import ANY_IDENTITY, UNTIL_A_CHANGE, Outcome, PredictedDecision
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.diagnosis.nmi_availability import unavailable_reason, unsupported_node
from podidctl.diagnosis.recent_refusals import recent_refusal
from podidctl.diagnosis.service_accounts import pod_token_source
from podidctl.explain.hosts import missing_on_azure
from podidctl.explain.schema import Answer, Link, LinkState
from podidentity.report import plain


def make_answer(data: DiagnosisInput, decision: PredictedDecision, links: Sequence[Link]) -> Answer:
    """Return the summary of *decision*, including faults in *links* that prevent it."""
    if (missing := unsupported_node(data)) is not None:
        says = f"NMI serves no pod on this node: {missing.why}, so {missing.effect}"
        return Answer(outcome=Outcome.UNANSWERED, says=plain(says))
    if decision.outcome is Outcome.UNSEEN:
        return Answer(outcome=decision.outcome, says=plain(f"NMI does not know the pod: {decision.why}"))
    if why := unavailable_reason(data, decision.outcome):
        return _unanswered(data, decision, why)
    if decision.assigned is not None and (why := missing_on_azure(data, decision.assigned.identity)):
        return _without_azure(decision.assigned, why)
    answer = _answer(data, decision)
    others = [each for each in links if each.state is LinkState.BROKEN]
    if answer.outcome not in {Outcome.GRANTED, Outcome.EXEMPT} or not others:
        return answer
    names = ", ".join(f"{each.link} {each.about}" for each in others)
    return replace(answer, says=plain(f"{answer.says}; but something is broken: {names}"))


def _answer(data: DiagnosisInput, decision: PredictedDecision) -> Answer:
    if decision.assigned is not None:
        identity = decision.assigned.identity
        refusal = pod_token_source(data, identity, ANY_IDENTITY.resource)
        name = plain("/".join(identity.key))
        if isinstance(refusal, Refusal):
            return _refusal(data, refusal, Outcome.REFUSED, name)
        if (recent := recent_refusal(data, identity="/".join(identity.key))) is not None:
            says = plain(f"{recent.description}: {recent.text}")
            return Answer(outcome=Outcome.REFUSED, says=says, identity=name, status=recent.status)
        return Answer(
            outcome=decision.outcome, says=plain(f"NMI asks Azure for a token of AzureIdentity {name}"), identity=name
        )
    if decision.refusal is not None:
        answer = _refusal(data, decision.refusal, decision.outcome, seconds=decision.seconds)
        if not decision.repeats_immediately:
            return answer
        return replace(answer, says=f"{answer.says.rstrip('.')}; later requests get {UNTIL_A_CHANGE}")
    return Answer(
        outcome=decision.outcome, says=plain(f"IMDS responds with the node's own identities ({decision.why})")
    )


def _refusal(
    data: DiagnosisInput, refusal: Refusal, outcome: Outcome, identity: str = "", *, seconds: float = 0.0
) -> Answer:
    response = refused(refusal, set_retry_after=data.configuration.settings.set_retry_after_header)
    held = f"held until {seconds:g} s after the first request, then " if outcome is Outcome.WAITS else ""
    says = plain(f"{held}{response.status}: {refusal.sentence}")
    return Answer(outcome=outcome, says=says, identity=identity, status=response.status)


def _unanswered(data: DiagnosisInput, decision: PredictedDecision, why: str) -> Answer:
    """Return the response that NMI would send if it were available."""
    would = _answer(data, decision)
    match would.outcome:
        case Outcome.GRANTED:
            says = f"NMI would ask Azure for a token of AzureIdentity {would.identity}"
        case Outcome.EXEMPT:
            says = f"NMI would forward the request to IMDS, for the node's own identities ({decision.why})"
        case _:
            says = f"NMI would respond: {would.says.rstrip('.')}"
    return Answer(
        outcome=Outcome.UNANSWERED,
        says=plain(f"{says}; but no working NMI was found on its node: {why}"),
        identity=would.identity,
    )


def _without_azure(assigned: AssignedIdentity, why: str) -> Answer:
    name = plain("/".join(assigned.identity.key))
    says = f"NMI asks Azure for a token of AzureIdentity {name}, but Azure has none: {why}"
    return Answer(outcome=Outcome.REFUSED, says=plain(says), identity=name)
