"""Checks of the AzureAssignedIdentities: whether MIC has written them, and NMI serves pods by them. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from mic.azure.identities import HostIdentities
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, user_assigned_id
from nmi.identity.assigned_identity import AssignedIdentity, project
from nmi.refusal import Refusal
from podidctl.checks.hosts import host_link
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.needs import live_pods
from podidctl.evaluation.pod import ANY_IDENTITY, PodCase
from podidctl.evaluation.refusals import assignment_failure
from podidctl.evaluation.tokens import describe_token_source, unknown_cloud_note
from podidctl.facts.model import Facts, ObjectReference, ReadFailure, readable
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import by_turns, grouped, listed, namespace_of
from podidentity.report import counted
from podidentity.resources import (
    ASSIGNED,
    ASSIGNED_IDENTITIES,
    BINDINGS,
    CREATED,
    IDENTITIES,
    MESSAGE_ANNOTATION,
    POD_UID_ANNOTATION,
    PODS,
    AzureAssignedIdentity,
    AzureIdentity,
    IdentityType,
    Pod,
)

CHECK_MIC: Final = "check that MIC runs and leads (podidctl doctor), its planned changes (podidctl plan) and its log"
LIVE_STATUSES = frozenset({"", ASSIGNED, CREATED})
GRACE_SECONDS: Final = 120.0
"""Azure takes up to a minute for an update of a VM or scale set, and an update in progress must end first."""
# Strict, because others may be able to write the message: no part is more than an id for the shell.
_ROLE_COMMAND: Final = re.compile(
    r"az role assignment create --role '[\w ]+' --assignee-object-id [\w-]+ "
    r"--assignee-principal-type ServicePrincipal --scope (?:'[\w/.()-]+'|[\w/.-]+)"
)
WAIT: Final = f"MIC and Azure take up to {GRACE_SECONDS:g} s"
IN_PROGRESS: Final = f"{WAIT}; {CHECK_MIC}"


def assignment_link(case: PodCase, identity: AzureIdentity) -> Finding:
    """Return the link for the AzureAssignedIdentity of the pod and *identity*; if there are several, for the served
    one.
    """
    links = [_existing_assignment_link(case, assigned) for assigned in case.assigned.get(identity.key, ())]
    if links:
        return next((link for link in links if link.level is Level.OK), links[0])
    about = f"for {'/'.join(identity.key)}"
    # Identities of other types are attached to no host.
    if identity.spec.type == IdentityType.USER_ASSIGNED and (host := host_link(case)).level is Level.PROBLEM:
        return problem("assigned identity", f"MIC creates none: {host.message}", host.next, about=about)
    bindings = ["/".join(binding.key) for binding in case.bindings_of.get(identity.key, ())]
    failure = assignment_failure(readable(case.facts.events), case.facts.server_time, bindings)
    message = "MIC has not created one for this pod and identity"
    then = _confirmation(case.settings.mic_namespace) if failure else CHECK_MIC
    if (seconds := case.bound_seconds(identity)) is not None:
        message = f"bound for at most {seconds:.0f} s; MIC has not written its AzureAssignedIdentity yet"
    if seconds is not None and seconds < GRACE_SECONDS:
        then = f"{WAIT}; {then}"
    # The cause first: a terminal shows two lines of a link.
    return problem("assigned identity", "; ".join(filter(None, (failure, message))), then, about=about)


def _confirmation(namespace: str) -> str:
    """Return the next action for what an Event states. *namespace*: MIC's."""
    log = f"kubectl logs -n {namespace} -l app.kubernetes.io/component=mic --tail=50 --prefix"
    return f"confirm it in MIC's log, because others than MIC can write such an Event: {log}"


def unbound_assignment_link(case: PodCase, assigned: AzureAssignedIdentity) -> Finding:
    """Return the link for an AzureAssignedIdentity that no binding requires. It is correct that NMI does not
    serve it.
    """
    link = _existing_assignment_link(case, assigned)
    message = f"{link.message}; no binding requires it for the pod any more, so MIC has to delete it"
    if not case.watches(assigned) or not case.serves(project(assigned)):
        return ok(link.check, message, about=link.about)
    if link.level is Level.PROBLEM:
        return problem(link.check, message, link.next, about=link.about)
    return unknown(link.check, message, "check that MIC runs and leads (podidctl doctor)", about=link.about)


def _existing_assignment_link(case: PodCase, assigned: AzureAssignedIdentity) -> Finding:
    about, node = "/".join(assigned.key), case.pod.spec.node_name
    if not case.watches(assigned):
        message = f"it is for node {assigned.spec.nodename or '(none)'}, but its label nodename must be {node}"
        then = f"MIC updates it in its next reconcile pass; if it does not, {CHECK_MIC}"
        return problem("assigned identity", message, then, about=about)
    return served_link(case, about, project(assigned), well=f"Assigned, on node {node}", note=_note(assigned, case.pod))


def served_link(case: PodCase, about: str, assigned: AssignedIdentity, *, well: str, note: str = "") -> Finding:
    """Return whether NMI serves the pod by *assigned*: first by `decide`, then by NMI's checks before a request to
    Azure.
    """
    link = "assigned identity" if not case.managed else "served"
    if not case.serves(assigned):
        message, then = _refusal_of(case, assigned, note)
        return problem(link, message, then, about=about)
    account = f"{case.pod.metadata.namespace}/{case.pod.spec.service_account_name}"
    whom = describe_token_source(case.settings, assigned.identity, ANY_IDENTITY.resource, account=account)
    if isinstance(whom, Refusal):
        then = "; ".join(filter(None, (whom.detail, unknown_cloud_note(case.configuration, assigned.identity))))
        return problem(link, f"{well}, but NMI requests no token: {whom.sentence}", then, about=about)
    if assigned.identity.spec.type == IdentityType.FEDERATED:
        return ok(link, f"{well}; NMI asks {whom}", about=about)
    return ok(link, well, about=about)


def _refusal_of(case: PodCase, assigned: AssignedIdentity, note: str) -> tuple[str, str]:
    pod = case.pod
    log = "see MIC's log and kubectl describe of this object"
    if assigned.deleting:
        return "it is being deleted and is not served any more", log
    if assigned.pod_uid not in {"", pod.metadata.uid}:
        return "it was created for an earlier pod of this name, and the new pod does not inherit its access", (
            f"MIC renews it in its next reconcile pass; if it does not, {CHECK_MIC}"
        )
    if assigned.selector != pod.binding_label:
        return f"its binding selects {assigned.selector!r}, which is not the pod's label", (
            f"MIC renews or deletes it; if it does not, {CHECK_MIC}"
        )
    if assigned.status == CREATED:
        return (f"Created: {note}", action_in(note)) if note else _incomplete(case, assigned.identity)
    if not assigned.usable:
        return f"its status is {assigned.status!r}{note and ': ' + note}", action_in(note) or log
    return _in_another_namespace(pod, assigned)


def action_in(note: str) -> str:
    """Return the command in a message of MIC, which an operator can run as it stands; without one the message."""
    command = _ROLE_COMMAND.search(note)
    return note if command is None else command[0]


def _incomplete(case: PodCase, identity: AzureIdentity) -> tuple[str, str]:
    """Return the state of a Created object without a message of MIC, and the next action."""
    attached, there = user_assigned_id(identity), case.azure
    if attached is None or (isinstance(there, HostIdentities) and there.certain(attached.key)):
        message = "MIC has not set it to Assigned yet"
    else:
        message = "the identity is not attached to the VM or scale set yet"
    if (seconds := case.bound_seconds(identity)) is not None:
        message = f"bound for at most {seconds:.0f} s; {message}"
    return f"Created: {message}", CHECK_MIC if seconds is not None and seconds >= GRACE_SECONDS else IN_PROGRESS


def _in_another_namespace(pod: Pod, assigned: AssignedIdentity) -> tuple[str, str]:
    namespace = pod.metadata.namespace
    if assigned.identity.spec.type == IdentityType.FEDERATED and assigned.identity.metadata.namespace == namespace:
        message = (
            f"it or its binding is not in namespace {namespace}, but a federated identity serves only its own namespace"
        )
        return message, "MIC creates it there: check that MIC runs, leads and has this version (podidctl doctor)"
    return "the identity serves only its own namespace", "move the AzureIdentity and its binding, or the pod"


def _note(assigned: AzureAssignedIdentity, pod: Pod) -> str:
    """Return MIC's message on the object if it is about this pod."""
    uid = assigned.metadata.annotation(POD_UID_ANNOTATION)
    return assigned.metadata.annotation(MESSAGE_ANNOTATION) if uid in {"", pod.metadata.uid} else ""


def check_assignments(case: ClusterCase) -> Iterator[Finding]:
    """Report identities that pods need and that are not assigned, and assigned ones that are not attached to their
    hosts. In managed mode there are none.
    """
    objects, now = case.objects, case.now
    if case.managed:
        return
    check = "assignments"
    missing: defaultdict[str, list[str]] = defaultdict(list)
    refused: defaultdict[str, list[str]] = defaultdict(list)
    fresh: list[str] = []
    for reason, desired in _missing_assignments(case):
        name = f"{'/'.join(desired.pod.key)} ({'/'.join(desired.identity.key)})"
        if _is_recent(objects, now, _required_objects(desired)):
            fresh.append(name)
        elif failure := _event_reason(objects, desired):
            refused[failure].append(name)
        else:
            missing[reason].append(name)
    created, waiting = _created_not_assigned(objects, now)
    fresh += waiting
    confirm = _confirmation(next((mic.metadata.namespace for mic in case.mic), case.usual.settings.mic_namespace))
    for failure, whose in by_turns(sorted(refused.items()), lambda item: namespace_of(item[1][0])):
        yield problem(check, f"{_not_assigned(whose)}; {failure}", confirm)
    for reason, whose in sorted(missing.items()):
        then = "this is overdue: check that MIC runs and leads, podidctl plan, and MIC's log"
        yield problem(check, _not_assigned(whose, reason), then, cause=check)
    # The cause of most of them first.
    for note, keys in sorted(created.items(), key=lambda item: -len(item[1])):
        message = f"{counted(len(keys), 'identity is', 'identities are')} Created and not Assigned: {listed(keys)}"
        if note:
            yield problem(check, f"{message}: {note}", action_in(note))
        else:
            yield warning(check, message, "this is overdue: see MIC's log and podidctl plan", cause=check)
    if fresh:
        message = f"{counted(len(fresh), 'identity is', 'identities are')} still in progress: {listed(fresh)}"
        then = (
            f"run this command again: an identity whose pod, binding and identity exist for {GRACE_SECONDS:g} s should "
            "be Assigned"
        )
        yield ok(check, message, then)
    if not created and not missing and not refused:
        active = [assigned for assigned in objects.assigned if not assigned.metadata.deletion_timestamp]
        yield ok(check, f"{sum(assigned.status.status != CREATED for assigned in active)} assigned")


def _not_assigned(whose: Sequence[str], reason: str = "") -> str:
    several = counted(len(whose), "identity that a pod needs is", "identities that pods need are")
    return f"{several} not assigned{f' ({reason})' if reason else ''}: {listed(whose)}"


def _event_reason(objects: Facts, desired: DesiredAssignment) -> str:
    """Return what an Event on the pod states about why MIC has not assigned it; empty if none does."""
    about = desired.pod.metadata
    events = {} if isinstance(objects.unassigned, ReadFailure) else objects.unassigned
    ours = events.get((f"{about.namespace}/{about.name}", about.uid), ())
    return assignment_failure(ours, objects.server_time, ["/".join(desired.binding.key)])


def _created_not_assigned(objects: Facts, now: datetime) -> tuple[dict[str, list[str]], list[str]]:
    """Return the overdue Created objects by MIC's message, and the ones that are recent and have no message."""
    late: defaultdict[str, list[str]] = defaultdict(list)
    fresh: list[str] = []
    for assigned in objects.assigned:
        if assigned.status.status != CREATED or assigned.metadata.deletion_timestamp:
            continue
        note, spec = assigned.metadata.annotation(MESSAGE_ANNOTATION), assigned.spec
        parts = [
            ObjectReference(ASSIGNED_IDENTITIES.plural, *assigned.key),
            ObjectReference(PODS.plural, spec.pod_namespace, spec.pod),
            ObjectReference(BINDINGS.plural, *spec.azure_binding_ref.key),
            ObjectReference(IDENTITIES.plural, *spec.azure_identity_ref.key),
        ]
        (fresh if not note and _is_recent(objects, now, parts) else late[note]).append("/".join(assigned.key))
    return late, fresh


def _required_objects(desired: DesiredAssignment) -> list[ObjectReference]:
    """Return the objects that must exist before MIC can act."""
    return [
        ObjectReference(PODS.plural, *desired.pod.key),
        ObjectReference(BINDINGS.plural, *desired.binding.key),
        ObjectReference(IDENTITIES.plural, *desired.identity.key),
    ]


def _is_recent(objects: Facts, now: datetime, parts: Iterable[ObjectReference]) -> bool:
    ages = ((now - objects.created_at[part]).total_seconds() for part in parts if part in objects.created_at)
    return any(abs(age) < GRACE_SECONDS for age in ages)  # clocks may differ, but not by years


def _missing_assignments(case: ClusterCase) -> Iterator[tuple[str, DesiredAssignment]]:
    """Yield the assignments that pods need and do not have, each with the reason."""
    hosts = case.host_of_node
    active = grouped((existing.assignment_key, existing) for existing in case.existing_assignments)
    for pod in live_pods(case.objects):
        # Other checks report pods that NMI does not serve and nodes without a known host.
        if pod.spec.host_network or pod.ending or pod.spec.node_name not in hosts or case.exempt(pod):
            continue
        for assignment_key, desired in case.binding_index.all_desired(pod).items():
            if desired.identity_id is not None and hosts[pod.spec.node_name] is None:
                continue
            if reason := _missing_reason(desired, active.get(assignment_key, ())):
                yield reason, desired


def _missing_reason(desired: DesiredAssignment, active: Sequence[ExistingAssignment]) -> str:
    """Return why none of the existing objects for *desired* is the pod's. Created objects are reported separately."""
    faults = [_fault(desired, assignment) for assignment in active]
    return "" if "" in faults else next(iter(faults), "there is no AzureAssignedIdentity")


def _fault(desired: DesiredAssignment, existing: ExistingAssignment) -> str:
    if existing.object.status.status not in LIVE_STATUSES:
        return f"its AzureAssignedIdentity has status {existing.object.status.status}"
    if existing.object.metadata.annotation(POD_UID_ANNOTATION) not in {"", desired.pod.metadata.uid}:
        return "its AzureAssignedIdentity is for an earlier pod of this name"
    return "" if existing.node in {"", desired.node} else "its AzureAssignedIdentity is for another node"


CHECKS: Final = (check_assignments,)
