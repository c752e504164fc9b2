"""Report values from Azure's responses and the dry run. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mic.azure.identities import HostIdentities
from mic.cluster.host_state import HostState
from mic.cluster.hosts import NODE_PREFIX
from mic.decisions import client_ids, steps
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, Key, in_sync
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, HostActions, Snapshot, key_of
from mic.preview.left_out import bound, left_out
from mic.preview.schema import VERBS, HostPreview, Kept, ObjectChange, Preview, Summary, Waiting, verb_of
from podidentity.azure.errors import AzureError, Refused, Throttled
from podidentity.azure.resource_ids import id_key
from podidentity.report import cut
from podidentity.resources import FINALIZER, MESSAGE_ANNOTATION, POD_UID_ANNOTATION, BareMeta

STEP_NAMES: Final[Mapping[type, str]] = {
    steps.Create: "create",
    steps.Update: "update",
    steps.SetAttachedBy: "record",
    steps.Revoke: "revoke",
    steps.Confirm: "assign",
    steps.Explain: "explain",
    steps.CompleteDetaches: "settle",
    steps.Release: "release",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureReads:
    """Reads of the hosts from Azure, and their results."""

    responses: Mapping[str, HostIdentities | AzureError] | None
    """Azure's response for each host, by its key; None if Azure was not read."""
    own_identity: str = ""
    """The cluster's own identity, by client id or resource id, which MIC never detaches."""

    def identities(self, key: str) -> HostIdentities | None:
        """Return the identities of the host, if Azure responded."""
        response = (self.responses or {}).get(key)
        return response if isinstance(response, HostIdentities) else None

    def problem(self, key: str) -> str:
        """Return why the read failed; empty if it succeeded or was not made."""
        response = (self.responses or {}).get(key)
        if not isinstance(response, AzureError):
            return ""
        status = response.status_and_code
        match response:
            case Refused():
                advice = "check MIC's credentials in the cloud config, and its role there"
            case Throttled():
                advice = "try again later"
            case _:
                advice = ""
        return cut(": ".join(filter(None, (advice, status, response.message))))


def preview(snapshot: Snapshot, dry_run: DryRun, reads: AzureReads, settings: Mapping[str, str]) -> Preview:
    """Run *dry_run*, a new one of *snapshot*, and return the report. Raise DryRunError."""
    view = dry_run.view
    stored = {stored_object.key: ExistingAssignment(stored_object) for stored_object in snapshot.assigned}
    standing = {key: view.host_key_of(existing) for key, existing in stored.items()}
    host_states = {host_state.key: _HostBefore(host_state) for host_state in view.host_states()}
    dry_run.run({key: identities for key in host_states if (identities := reads.identities(key)) is not None})
    touched = {key_of(step) for host_actions in dry_run.actions.values() for step in host_actions.steps}
    fine = {key for key, existing in stored.items() if key not in touched and _is_in_sync(dry_run, existing)}
    fine_at = Counter(standing[key] for key in fine)
    hosts = []
    for key, before in sorted(host_states.items()):
        host_actions = dry_run.actions.get(key, HostActions())
        after = dry_run.azure.get(key)
        now = reads.identities(key) or HostIdentities()
        hosts.append(
            HostPreview(
                host=before.name,
                nodes=before.nodes,
                problem=reads.problem(key),
                add=sorted(
                    identity.text for lower, identity in (after or now).attached.items() if lower not in now.attached
                ),
                remove=sorted(
                    identity.text for lower, identity in now.attached.items() if after and lower not in after.attached
                ),
                type=now.type,
                new_type=(after or now).type,
                updates=len(host_actions.changes),
                objects=_objects(host_actions.steps, dry_run, stored),
                kept=sorted(_kept(host_actions, before, now, reads), key=lambda kept: kept.identity),
                waiting=sorted(
                    _waiting(view.host_state(key), after, dry_run.policy),
                    key=lambda waiting: (waiting.pod, waiting.identity),
                ),
                as_it_should_be=fine_at[key],
            )
        )
    return Preview(
        settings=dict(settings),
        asked_azure=reads.responses is not None,
        summary=_summary(
            hosts,
            snapshot,
            {(stored[key].assignment_key.pod_namespace, stored[key].assignment_key.pod) for key in fine},
        ),
        hosts=[host for host in hosts if host.notable or host.as_it_should_be],
        left_out=left_out(snapshot, dry_run.policy, force_namespaced=dry_run.force_namespaced),
    )


class _HostBefore:
    """State of a host before the dry run changes it."""

    def __init__(self, host_state: HostState) -> None:
        self.name = host_state.host.text if host_state.host is not None else host_state.key
        self.nodes = sorted(host_state.nodes)
        self.client_ids = {key: set(usage.client_ids) for key, usage in host_state.usages.items()}


def _is_in_sync(dry_run: DryRun, existing: ExistingAssignment) -> bool:
    assignment = dry_run.view.assignment(existing.assignment_key)
    return assignment is not None and assignment.desired is not None and in_sync(assignment.desired, assignment.active)


def _objects(
    all_steps: Iterable[steps.Step], dry_run: DryRun, stored: Mapping[Key, ExistingAssignment]
) -> list[ObjectChange]:
    by_object: dict[Key, list[steps.Step]] = {}
    for step in all_steps:
        by_object.setdefault(key_of(step), []).append(step)
    changes = []
    for key, taken in sorted(by_object.items()):
        first, before, after = taken[0], stored.get(key), dry_run.view.existing(key)
        assignment = first.desired.assignment_key if isinstance(first, steps.Create) else first.existing.assignment_key
        desired = next(
            (step.desired for step in reversed(taken) if isinstance(step, steps.Create | steps.Update)), None
        )
        changes.append(
            ObjectChange(
                namespace=key[0],
                name=key[1],
                pod=f"{assignment.pod_namespace}/{assignment.pod}",
                identity=f"{assignment.identity_namespace}/{assignment.identity}",
                node=desired.node if desired else before.node if before else "",
                steps=[STEP_NAMES[type(step)] for step in taken],
                was=before.object.status.status if before else "",
                becomes=after.object.status.status if after else "",
                detail=_detail(taken),
            )
        )
    return changes


def _detail(all_steps: Iterable[steps.Step]) -> str:
    for step in all_steps:
        match step:
            case steps.Update(existing, desired):
                return (
                    "; ".join(_differences(existing, desired))
                    or "its copies of the identity and the binding are renewed"
                )
            case steps.Explain(message=message):
                return cut(message)
            case steps.Confirm(existing) if message := existing.object.metadata.annotation(MESSAGE_ANNOTATION):
                return cut(f"until now: {message}")
    return ""


def _differences(existing: ExistingAssignment, desired: DesiredAssignment) -> Iterator[str]:
    if existing.node != desired.node:
        yield f"node {existing.node} → {desired.node}"
    before, now = existing.identity_id, desired.identity_id
    if before and now and before.key != now.key:
        yield f"identity {before.text} → {now.text}"
    if existing.object.metadata.annotation(POD_UID_ANNOTATION) not in {"", desired.pod.metadata.uid}:
        yield "another pod of that name"
    if existing.object.spec.azure_binding_ref.key != desired.binding.key:
        yield f"binding {existing.object.spec.azure_binding_ref.metadata.name} → {desired.binding.metadata.name}"


def _kept(host_actions: HostActions, before: _HostBefore, now: HostIdentities, reads: AzureReads) -> Iterator[Kept]:
    for key, ours in host_actions.left_on.items():
        attached = now.attached.get(key)
        text = attached.text if attached else key
        if not ours:
            reason = "it was on the host before MIC; with --adopt-existing MIC would detach it"
        else:
            names = before.client_ids.get(key, set()) | ({attached.client_id.lower()} if attached else set())
            own = id_key(reads.own_identity)
            reason = "it is the cluster's own identity" if own in names | {key} else "--immutable-user-msis names it"
        yield Kept(identity=text, why=reason)


def _waiting(host_state: HostState, identities: HostIdentities | None, policy: Policy) -> Iterator[Waiting]:
    """Yield the assignments that are out of sync after the last pass, and why."""
    unknown = "the identities of the host are unknown"
    refusal = policy.refusal(host_state.host)
    for desired, _ in host_state.out_of_sync_assignments():
        if desired is None:
            continue
        if refusal and desired.identity_id is not None:
            reason = cut(refusal)
        elif identities is None and desired.identity_id is not None:
            reason = unknown
        elif fault := client_ids.fault(desired, identities, policy):
            reason = cut(fault)
        elif identities is not None and identities.gone and host_state.host is not None:
            reason = f"Azure has no {host_state.host.text}: check the node's providerID and MIC's rights there"
        else:
            reason = "an object of its name is still there, held by a finalizer that is not MIC's"
        yield _wait(desired.pod.metadata, desired.identity.metadata, reason)
    for existing in host_state.terminating.values():
        if FINALIZER in (existing.object.metadata.finalizers or ()):
            spec = existing.object.spec
            pod = BareMeta(namespace=spec.pod_namespace, name=spec.pod)
            reason = f"revoked, and goes when its identity is off its host, of which {unknown}"
            yield _wait(pod, spec.azure_identity_ref.metadata, reason)


def _wait(pod: BareMeta, identity: BareMeta, reason: str) -> Waiting:
    return Waiting(pod=f"{pod.namespace}/{pod.name}", identity=f"{identity.namespace}/{identity.name}", why=reason)


def _summary(hosts: Iterable[HostPreview], snapshot: Snapshot, fine: set[Key]) -> Summary:
    hosts = list(hosts)
    unfinished = {change.pod for host in hosts for change in host.objects}
    unfinished |= {waiting.pod for host in hosts for waiting in host.waiting}
    kinds = {(change.namespace, change.name, verb_of(change)) for host in hosts for change in host.objects}
    return Summary(
        objects={verb: sum(kind[2] == verb for kind in kinds) for verb in VERBS},
        identities_added=sum(len(host.add) for host in hosts),
        identities_removed=sum(len(host.remove) for host in hosts),
        hosts_changed=sum(host.updates > 0 for host in hosts),
        hosts=sum(not host.host.startswith(NODE_PREFIX) for host in hosts),
        updates=sum(host.updates for host in hosts),
        pods=sum(1 for _ in bound(snapshot)),
        pods_as_they_should_be=sum(f"{namespace}/{name}" not in unfinished for namespace, name in fine),
    )
