"""Writes of AzureAssignedIdentities: one request per step, within the operator's limits.

Each response of the API server updates the view immediately. A failed step does not fail the pass: MIC reads an object
that had changed again, and the next pass plans from the new state.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mic.cluster.view import ClusterView
from mic.decisions import documents, steps
from mic.decisions.assignments import ExistingAssignment, Key
from mic.metrics import MicMetrics
from mic.reconciliation.events import APPLIED, REMOVED, record_not_applied
from mic.reconciliation.write_limiter import Urgency, WriteLimiter
from podidentity.kube.client import Client
from podidentity.kube.errors import REFUSED_WRITES, AlreadyExists, ApiError, Conflict, Invalid, NotFound
from podidentity.kube.events import EventRecorder
from podidentity.resources import (
    ASSIGNED,
    ASSIGNED_IDENTITIES,
    ATTACHED_BY_ANNOTATION,
    BINDINGS,
    MESSAGE_ANNOTATION,
    UNASSIGNED,
    AzureAssignedIdentity,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """Result of the steps."""

    stale: bool = False
    """An object had changed. MIC has read it again, so that planning again makes sense immediately."""
    error: ApiError | None = None
    """A temporary failure, if any."""
    refused: bool = False
    """The API server refuses an object (a quota, an admission rule, its size). Other objects are not affected."""


class Writer:
    """The only writer of AzureAssignedIdentities.

    At most *batch* requests are in flight for all hosts together, and *per_second* start per second on average. Up to
    *burst* requests that an idle time left unused may start immediately.
    """

    def __init__(
        self,
        client: Client,
        view: ClusterView,
        recorder: EventRecorder,
        metrics: MicMetrics,
        *,
        batch: int,
        per_second: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._view = view
        self._recorder = recorder
        self._metrics = metrics
        self._limiter = WriteLimiter(in_flight=batch, per_second=per_second, burst=burst, clock=clock)
        self._under_way: dict[tuple[object, ...], asyncio.Task[Written]] = {}
        self._clock = clock

    async def carry_out(self, planned: Iterable[steps.Step]) -> Written:
        """Run all *planned* steps, in no particular order except by urgency. Failures are in the result.

        A pod's assignment of another namespace's identity follows those of its own namespace, and is left out if one of
        them fails.
        """
        running: list[asyncio.Task[Written]] = []
        own: defaultdict[Key, list[asyncio.Task[Written]]] = defaultdict(list)
        later: list[steps.Create | steps.Update] = []
        async with asyncio.TaskGroup() as tasks:
            for step in planned:
                if not isinstance(step, steps.Create | steps.Update):
                    running.append(self._begun(tasks, step))
                elif step.desired.crosses_namespaces:
                    later.append(step)
                else:
                    running.append(self._begun(tasks, step))
                    own[step.desired.pod.key].append(running[-1])
            running.extend(self._begun(tasks, step, own.get(step.desired.pod.key, ())) for step in later)
        if running:
            await asyncio.wait(running)  # for those that another pass has started
        # A task is cancelled only if the other pass failed. The write is planned again and sent.
        outcomes = [Written(stale=True) if task.cancelled() else task.result() for task in running]
        return Written(
            stale=any(outcome.stale for outcome in outcomes),
            error=next((outcome.error for outcome in outcomes if outcome.error is not None), None),
            refused=any(outcome.refused for outcome in outcomes),
        )

    def _begun(
        self, tasks: asyncio.TaskGroup, step: steps.Step, after: Sequence[asyncio.Task[Written]] = ()
    ) -> asyncio.Task[Written]:
        """Return the step's task. A pass and a parallel worker may plan the same write, which is sent once."""
        shared = _shared(step)
        if shared in self._under_way:
            return self._under_way[shared]
        task = tasks.create_task(self._after(after, step), name=f"write {type(step).__name__}")
        if shared:
            self._under_way[shared] = task
            task.add_done_callback(lambda _task: self._under_way.pop(shared))
        return task

    async def _after(self, others: Sequence[asyncio.Task[Written]], step: steps.Step) -> Written:
        """Run *step* if all *others* succeed. Their failures are results of their own."""
        if others:
            await asyncio.wait(others)
            if any(task.cancelled() or task.result() != Written() for task in others):
                return Written()
        return await self._write(step)

    async def _write(self, step: steps.Step) -> Written:
        async with self._limiter.permit(_URGENCIES.get(type(step), Urgency.ASSIGN), self._host_key_of(step)):
            operation, began = _OPERATIONS[type(step)], self._clock()
            try:
                await self._request(step)
            except ApiError as error:
                self._metrics.failed(operation)
                return await self._failed(step, error)
            except Exception:
                # An exception would cancel the other writes of the host, and thus those of other pods.
                self._metrics.faulted("write")
                log.exception(
                    "a write failed unexpectedly and is left out for now; report this as a bug", extra=_about(step)
                )
                return Written(refused=True)
            self._metrics.wrote(operation, self._clock() - began)
        return Written()

    def _host_key_of(self, step: steps.Step) -> str:
        return self._view.host_key_of_node(step.desired.node if isinstance(step, steps.Create) else step.existing.node)

    async def _request(self, step: steps.Step) -> None:
        match step:
            case steps.Create(desired, name, status, attached_by):
                document = documents.new_document(desired, name, status, attached_by)
                self._view.wrote(await self._client.create(ASSIGNED_IDENTITIES, desired.namespace, document))
                log.info("assigned identity created", extra=_about(step) | {"status": status})
                if status == ASSIGNED:
                    self._record_applied(desired.pod.spec.node_name, self._view.existing((desired.namespace, name)))
            case steps.Update(existing, desired, status, attached_by, pending_detaches):
                await self._patch(
                    existing, documents.update_operations(existing, desired, status, attached_by, pending_detaches)
                )
                log.info("assigned identity updated in place", extra=_about(step) | {"status": status})
            case steps.SetAttachedBy(existing, attached_by):
                await self._patch(
                    existing, documents.annotation_operations(existing, {ATTACHED_BY_ANNOTATION: attached_by})
                )
            case steps.Revoke(existing):
                # By uid, so that a newer object of this name stays.
                await self._client.delete(ASSIGNED_IDENTITIES, *existing.key, uid=existing.object.metadata.uid)
                self._view.revoked(existing)
                log.info("assigned identity revoked", extra=_about(step))
            case steps.Confirm(existing):
                await self._patch(existing, documents.status_operations(existing, ASSIGNED, {MESSAGE_ANNOTATION: None}))
                log.info("identity assigned", extra=_about(step) | {"status": ASSIGNED})
                self._record_applied(existing.node, existing)
            case steps.Explain(existing, message):
                await self._patch(existing, documents.explain_operations(existing, message))
            case steps.CompleteDetaches(existing):
                await self._patch(existing, documents.pending_detach_operations(existing, step.remaining))
            case steps.Release(existing):
                await self._release(existing)
                log.info("assigned identity removed", extra=_about(step))

    async def _release(self, existing: ExistingAssignment) -> None:
        operations = documents.release_operations(existing, UNASSIGNED)
        left = await self._client.patch_json(ASSIGNED_IDENTITIES, *existing.key, operations)
        if left.metadata.finalizers:
            self._view.wrote(left)  # another client's finalizer keeps the object
        else:
            self._view.gone(existing)
        spec = existing.object.spec
        message = (
            f"Binding {'/'.join(spec.azure_binding_ref.key)} removed from node {existing.node} for pod {_pod(existing)}"
        )
        self._recorder.record(spec.azure_binding_ref, BINDINGS, "Normal", REMOVED, message)

    async def _patch(self, existing: ExistingAssignment, operations: documents.Operations) -> None:
        self._view.wrote(await self._client.patch_json(ASSIGNED_IDENTITIES, *existing.key, operations))

    async def _failed(self, step: steps.Step, error: ApiError) -> Written:
        existing = None if isinstance(step, steps.Create) else step.existing
        key = (step.desired.namespace, step.name) if isinstance(step, steps.Create) else step.existing.key
        match error:
            case NotFound() if existing is not None:
                self._view.gone(existing)
                return Written(stale=True)
            # Invalid may be a failed `test` operation of the JSON patch: then the object has changed.
            case Conflict() | Invalid() if await self._read_again(key, existing):
                return Written(stale=True)
            # AlreadyExists: the existing object could not be read.
            case _ if error.status in REFUSED_WRITES or isinstance(error, AlreadyExists):
                log.warning(
                    "the API server refuses an assigned identity; check its namespace's policies and MIC's role",
                    extra=_about(step) | {"error": error},
                )
                self._record_refused(step, error)
                return Written(refused=True)
            case _:
                log.warning("cannot write an assigned identity; trying again", extra=_about(step) | {"error": error})
                return Written(error=error)

    async def _read_again(self, key: tuple[str, str], expected: ExistingAssignment | None) -> bool:
        """Read the object again. Return whether it differs from its earlier state, or from *expected*."""
        before = expected or self._view.existing(key)
        try:
            stored: AzureAssignedIdentity = await self._client.get(ASSIGNED_IDENTITIES, *key)
        except NotFound:
            if before is not None:
                self._view.gone(before)
            return before is not None
        except ApiError:
            # The error of the write is then the result.
            return False
        self._view.wrote(stored)
        # An equal object would get the same write, and the same refusal, without end.
        return before is None or before.object != stored

    def _record_refused(self, step: steps.Step, error: ApiError) -> None:
        if isinstance(step, steps.Create | steps.Update):
            desired = step.desired
            reason = f"the API server refuses its AzureAssignedIdentity: {error.message}"
            record_not_applied(self._recorder, desired.binding, desired.pod, desired.node, reason)

    def _record_applied(self, node: str, existing: ExistingAssignment | None) -> None:
        if existing is not None:
            binding = existing.object.spec.azure_binding_ref
            message = f"Binding {'/'.join(binding.key)} applied on node {node} for pod {_pod(existing)}"
            self._recorder.record(binding, BINDINGS, "Normal", APPLIED, message)


_OPERATIONS: Final[dict[type, str]] = {
    steps.Create: "assigned_identity_addition",
    steps.Update: "assigned_identity_update",
    steps.SetAttachedBy: "assigned_identity_update",
    steps.Revoke: "assigned_identity_deletion",
    steps.Confirm: "update_azure_assigned_identity_status",
    steps.Explain: "update_azure_assigned_identity_status",
    steps.CompleteDetaches: "assigned_identity_update",
    steps.Release: "update_azure_assigned_identity_status",
}


_URGENCIES: Final[dict[type, Urgency]] = {
    steps.Revoke: Urgency.REVOKE,
    steps.CompleteDetaches: Urgency.TIDY,
    steps.Release: Urgency.TIDY,
}


def _shared(step: steps.Step) -> tuple[object, ...]:
    """Return the key by which equal writes are merged; empty for steps that only passes plan, each for its own host.

    If the two differ in content, the second one is planned again from the response to the first.
    """
    match step:
        case steps.Create(desired, name):
            return "create", desired.namespace, name, desired.assignment_key
        case steps.Update(existing):
            return "update", existing.object.metadata.uid
        case steps.Revoke(existing):
            return "revoke", existing.object.metadata.uid
        case _:
            return ()


def _pod(existing: ExistingAssignment) -> str:
    return f"{existing.assignment_key.pod_namespace}/{existing.assignment_key.pod}"


def _about(step: steps.Step) -> dict[str, object]:
    """Return the log fields that identify the object of a step."""
    if isinstance(step, steps.Create):
        pod, node, identity, binding = (
            "/".join(step.desired.pod.key),
            step.desired.node,
            step.desired.identity.metadata.name,
            step.desired.binding.metadata.name,
        )
    else:
        pod, node, identity = _pod(step.existing), step.existing.node, step.existing.assignment_key.identity
        binding = step.existing.object.spec.azure_binding_ref.metadata.name
    return {"pod": pod, "node": node, "identity": identity, "binding": binding}
