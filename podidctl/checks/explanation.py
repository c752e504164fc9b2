"""From a pod's state to the links between the pod and its token, and NMI's predicted response. Pure.

NMI's own `decide` and NMI's checks before a request to Azure decide whether an assigned identity is served. The links
add whether an NMI on the node responds and whether Azure has a token.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.decide import MIRROR_POD
from nmi.refusal import Refusal
from nmi.server.responses import refused
from podidctl.checks.bindings import binding_links
from podidctl.checks.credentials import secret_links, token_links
from podidctl.checks.daemons import nmi_links
from podidctl.checks.federated import permission_links, service_account_links
from podidctl.checks.hosts import azure_links, missing_on_azure
from podidctl.checks.pod import address_link, choice_links, exception_link, label_link, pod_link
from podidctl.evaluation.daemons import unavailable_reason, unsupported_node
from podidctl.evaluation.federated import federated_identities, manifest_for, pod_token_source
from podidctl.evaluation.pod import ANY_IDENTITY, UNTIL_A_CHANGE, PredictedDecision, pod_facts, predict_decision
from podidctl.evaluation.refusals import recent_refusal
from podidctl.facts.model import DiagnosisInput, ReadFailure, readable
from podidctl.report.documents import Answer, EventReport, Explanation, LinkState, LoggedDecision, Outcome, link_of
from podidctl.report.finding import Finding, Level
from podidentity.report import plain

DECISIONS_SHOWN: Final = 3


def explain(data: DiagnosisInput) -> Explanation:
    """Return every link, in order, and NMI's predicted response."""
    findings = list(_links(data))
    links = [link_of(each) for each in findings]
    events = data.events
    decisions = readable(data.decisions)
    return Explanation(
        pod=f"{data.namespace}/{data.name}",
        answer=make_answer(data, predict_decision(data), findings),
        next=next((each.next for each in links if each.state is LinkState.BROKEN), ""),
        links=links,
        events=[
            EventReport(
                at=each.at,
                by=plain(each.component),
                type=plain(each.type),
                reason=plain(each.reason),
                message=plain(each.message),
                count=each.times,
            )
            for each in readable(events)
        ],
        events_unread=plain(events.why) if isinstance(events, ReadFailure) else "",
        decided=[_plain_decision(each) for each in decisions[:DECISIONS_SHOWN]],
        decided_unread=plain(data.decisions.why) if isinstance(data.decisions, ReadFailure) else "",
        rules=plain(data.configuration.source),
        manifest=manifest_for(data, federated_identities(data, data.pod)) if data.pod is not None else "",
    )


def _plain_decision(each: LoggedDecision) -> LoggedDecision:
    return msgspec.structs.replace(
        each,
        outcome=plain(each.outcome),
        identity=plain(each.identity),
        resource=plain(each.resource),
        error=plain(each.error),
    )


def _links(data: DiagnosisInput) -> Iterator[Finding]:
    pod = data.pod
    yield pod_link(data, pod)
    if pod is None or pod.finished or not pod.spec.node_name:
        return
    if unsupported_node(data) is not None:
        yield from nmi_links(data, pod)  # the other links are NMI's, and change nothing
        return
    yield address_link(data, pod)
    if pod.mirror:
        yield Finding("mirror pod", Level.PROBLEM, "NMI and MIC ignore it", MIRROR_POD.detail, about="/".join(pod.key))
        yield from nmi_links(data, pod)
        return
    exempt = pod_facts(data, pod).exempt
    yield exception_link(data, pod, exempt)
    if not exempt:
        yield label_link(pod)
        yield from binding_links(data, pod)
        yield from choice_links(data, pod)
        yield from secret_links(data, pod)
        yield from service_account_links(data, pod)
        yield from permission_links(data, pod)
        yield from azure_links(data, pod)
    yield from nmi_links(data, pod)
    yield from token_links(data)


def make_answer(data: DiagnosisInput, decision: PredictedDecision, findings: Sequence[Finding]) -> Answer:
    """Return the summary of *decision*, including the *findings* that prevent it."""
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
    others = [each for each in findings if each.level is Level.PROBLEM]
    if answer.outcome not in {Outcome.GRANTED, Outcome.EXEMPT} or not others:
        return answer
    names = ", ".join(f"{each.check} {each.about}" for each in others)
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
