"""From a pod's state to the links between the pod and its token, and NMI's predicted response. Pure.

NMI's own `decide` and NMI's checks before a request to Azure decide whether an assigned identity is served. The links
add whether an NMI on the node responds and whether Azure has a token.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from nmi.refusal import Refusal
from nmi.server.responses import refused
from podidctl.checks.hosts import missing_on_azure
from podidctl.checks.pod import no_pod
from podidctl.checks.rules import pod_findings
from podidctl.evaluation.daemons import unavailable_reason, unsupported_node
from podidctl.evaluation.federated import manifest_for, pod_token_source
from podidctl.evaluation.pod import (
    ANY_IDENTITY,
    UNTIL_A_CHANGE,
    PodCase,
    PredictedDecision,
    configuration_for,
    missing_pod,
)
from podidctl.evaluation.refusals import recent_refusal
from podidctl.facts.model import Facts, ReadFailure, readable
from podidctl.report.documents import (
    Answer,
    Cause,
    EventReport,
    Explanation,
    Link,
    LinkState,
    LoggedDecision,
    Outcome,
    PodsExplanation,
    RoleAssignment,
    Served,
    link_of,
)
from podidctl.report.finding import Finding, Level
from podidctl.report.text import grouped, timeless
from podidentity.report import counted, plain
from podidentity.resources import BINDING_LABEL

DECISIONS_SHOWN: Final = 3
LINKS_MAX: Final = 50
"""Links of each of several pods. Any tenant can create bindings that select the pods of others."""


def explain(facts: Facts) -> Explanation:
    """Return every link, in order, and NMI's predicted response."""
    return _explained(facts)[0]


def _explained(facts: Facts, links_max: int | None = None) -> tuple[Explanation, Link | None]:
    """Return the explanation with its first links, and the first broken link, which may be a later one."""
    namespace, name = facts.scope
    case = PodCase(facts, facts.pod) if facts.pod is not None else None
    findings = [no_pod(namespace, name)] if case is None else list(pod_findings(case))
    links = [link_of(finding) for finding in findings[:links_max]]
    answer = _unseen(missing_pod(facts)) if case is None else _pod_answer(case, findings)
    broken = next((link_of(finding) for finding in findings if finding.level is Level.PROBLEM), None)
    explanation = Explanation(
        pod=f"{namespace}/{name}",
        summary=_summary(answer) if broken is None else f"broken: {broken.link}: {broken.text}",
        answer=answer,
        next="" if broken is None else broken.next,
        links=links,
        events=[
            EventReport(
                at=event.at,
                by=plain(event.component),
                type=plain(event.type),
                reason=plain(event.reason),
                message=plain(event.message),
                count=event.times,
            )
            for event in readable(facts.events)
        ],
        events_unread=plain(facts.events.reason) if isinstance(facts.events, ReadFailure) else "",
        decided=[_plain_decision(decision) for decision in readable(facts.decisions)[:DECISIONS_SHOWN]],
        decided_unread=plain(facts.decisions.reason) if isinstance(facts.decisions, ReadFailure) else "",
        rules=plain(configuration_for(facts).source),
        manifest="" if case is None else manifest_for(case, case.federated),
        roles=[
            RoleAssignment(role=plain(assignment.role), scope=plain(assignment.scope))
            for assignment in (facts.roles.assignments if facts.roles is not None else ())
        ],
    )
    return explanation, broken


def explain_pods(
    several: Iterable[Facts],
    findings: Iterable[Finding] = (),
    omitted: int = 0,
    selector: str = BINDING_LABEL,
    where: str = "",
) -> PodsExplanation:
    """Return the explanations of several pods with their causes. *findings*: about the object that concerns them.
    *selector*: of the pods' labels. *where*: the node and the namespace, with a space before each.
    """
    links = [link_of(finding) for finding in findings]
    pods: list[Explanation] = []
    faults: list[tuple[str, Link]] = []
    served: list[tuple[tuple[Outcome, str], str]] = []
    for explanation, first in (_explained(facts, LINKS_MAX) for facts in several):
        pods.append(explanation)
        if first is None:
            served.append(((explanation.answer.outcome, explanation.answer.identity), explanation.pod))
        else:
            faults.append((explanation.pod, first))
    causes = causes_of(faults)
    outcomes = Counter(outcome for (outcome, _), _ in served)
    counts = "; ".join(f"{outcome}: {counted(number, 'pod')}" for outcome, number in outcomes.items())
    counts = f"broken: {len(faults)} of {counted(len(pods), 'pod')}" if faults else counts
    counts = counts or f"none: no running pod{where} matches the selector {plain(selector)}"
    counts += f"; {omitted} more not explained" if omitted else ""
    broken = next((link for link in links if link.state is LinkState.BROKEN), None)
    return PodsExplanation(
        summary=counts if broken is None else f"broken: {broken.link}: {broken.text}",
        counts=counts,
        next=next((link.next for link in (broken, *(cause.link for cause in causes)) if link is not None), ""),
        links=links,
        causes=causes,
        served=[Served(outcome=key[0], identity=key[1], pods=names) for key, names in grouped(served).items()],
        pods=pods,
        omitted=omitted,
    )


def causes_of(links: Iterable[tuple[str, Link]]) -> list[Cause]:
    """Return the different *links*, each of which is that of a pod, with their pods: that of most pods first."""
    alike: defaultdict[tuple[str, ...], list[tuple[str, Link]]] = defaultdict(list)
    for pod, its in links:
        link = replace(its, about="none") if its.about == pod else its
        then = link.next.replace(f"-n {pod.replace('/', ' ')}", "")  # the pod itself, as kubectl names it
        # Pods with the same cause wait for different times, which must not make it several causes.
        alike[link.link, link.about, timeless(link.says), timeless(then)].append((pod, link))
    causes = [Cause(link=several[0][1], pods=[pod for pod, _ in several]) for several in alike.values()]
    return sorted(causes, key=lambda cause: len(cause.pods), reverse=True)


def _plain_decision(decision: LoggedDecision) -> LoggedDecision:
    return replace(
        decision,
        outcome=plain(decision.outcome),
        identity=plain(decision.identity),
        resource=plain(decision.resource),
        error=plain(decision.error),
    )


def _summary(answer: Answer) -> str:
    """Return the summary of an explanation without a broken link."""
    return f"{answer.outcome}: {answer.identity or answer.says}"


def _unseen(decision: PredictedDecision) -> Answer:
    return Answer(outcome=decision.outcome, says=plain(f"NMI does not know the pod: {decision.reason}"))


def _pod_answer(case: PodCase, findings: Sequence[Finding]) -> Answer:
    """Return the summary of NMI's decision, including the *findings* that prevent it."""
    decision = case.decision
    # What keeps NMI from responding comes before what it would decide.
    if (missing := unsupported_node(case)) is not None:
        message = f"NMI serves no pod on this node: {missing.reason}, so {missing.effect}"
        return Answer(outcome=Outcome.UNANSWERED, says=plain(message))
    if decision.outcome is Outcome.UNSEEN:
        return _unseen(decision)
    if reason := unavailable_reason(case, decision.outcome):
        return _unanswered(case, reason)
    if decision.assigned is not None and (reason := missing_on_azure(case, decision.assigned.identity)):
        name = "/".join(decision.assigned.identity.key)
        message = f"NMI asks Azure for a token of AzureIdentity {name}, but Azure has none: {reason}"
        return Answer(outcome=Outcome.REFUSED, says=plain(message), identity=plain(name))
    answer = _answer(case)
    others = [finding for finding in findings if finding.level is Level.PROBLEM]
    if answer.outcome not in {Outcome.GRANTED, Outcome.EXEMPT} or not others:
        return answer
    names = ", ".join(f"{finding.check} {finding.about}" for finding in others)
    return replace(answer, says=plain(f"{answer.says}; but something is broken: {names}"))


def _answer(case: PodCase) -> Answer:
    decision = case.decision
    if decision.assigned is not None:
        identity = decision.assigned.identity
        refusal = pod_token_source(case, identity, ANY_IDENTITY.resource)
        name = plain("/".join(identity.key))
        if isinstance(refusal, Refusal):
            return _refusal(case, refusal, Outcome.REFUSED, name)
        if (recent := recent_refusal(case, identity="/".join(identity.key))) is not None:
            message = plain(f"{recent.description}: {recent.text}")
            outcome = Outcome.WAITS if recent.unanswered else Outcome.REFUSED
            return Answer(outcome=outcome, says=message, identity=name, status=recent.status)
        return Answer(
            outcome=decision.outcome, says=plain(f"NMI asks Azure for a token of AzureIdentity {name}"), identity=name
        )
    if decision.refusal is not None:
        answer = _refusal(case, decision.refusal, decision.outcome, seconds=decision.seconds)
        if not decision.repeats_immediately:
            return answer
        return replace(answer, says=f"{answer.says.rstrip('.')}; later requests get {UNTIL_A_CHANGE}")
    return Answer(
        outcome=decision.outcome, says=plain(f"IMDS responds with the node's own identities ({decision.reason})")
    )


def _refusal(case: PodCase, refusal: Refusal, outcome: Outcome, identity: str = "", *, seconds: float = 0.0) -> Answer:
    response = refused(refusal, set_retry_after=case.settings.set_retry_after_header)
    held = f"held until {seconds:g} s after the first request, then " if outcome is Outcome.WAITS else ""
    message = plain(f"{held}{response.status}: {refusal.sentence}")
    return Answer(outcome=outcome, says=message, identity=identity, status=response.status)


def _unanswered(case: PodCase, reason: str) -> Answer:
    """Return the response that NMI would send if it were available."""
    would = _answer(case)
    match would.outcome:
        case Outcome.GRANTED:
            message = f"NMI would ask Azure for a token of AzureIdentity {would.identity}"
        case Outcome.EXEMPT:
            message = f"NMI would forward the request to IMDS, for the node's own identities ({case.decision.reason})"
        case _:
            message = f"NMI would respond: {would.says.rstrip('.')}"
    return Answer(
        outcome=Outcome.UNANSWERED,
        says=plain(f"{message}; but no working NMI was found on its node: {reason}"),
        identity=would.identity,
    )
