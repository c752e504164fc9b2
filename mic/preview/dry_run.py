"""What MIC's rounds come to, carried out on a picture of its own instead of the API server and Azure. Pure.

Each round is planned by the very functions that plan a real one, and the patches that would be sent change the objects
of the picture. Rounds go on until none of them finds anything to do, so that what one write leads to (created, put on
the VM, Assigned) shows as a whole. What Azure would refuse cannot be told beforehand: each change is taken to succeed.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from mic.azure.identities import Change, HostIdentities, applied
from mic.cluster.host_state import Place
from mic.cluster.view import View
from mic.decisions import documents, plan
from mic.decisions.assignments import Held, Key
from mic.decisions.plan import Policy
from podidentity.azure.resource_ids import Host
from podidentity.resources import (
    ASSIGNED,
    ATTACHED_BY_ANNOTATION,
    FINALIZER,
    MESSAGE_ANNOTATION,
    UNASSIGNED,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    Node,
    Pod,
)

Step: TypeAlias = plan.Before | plan.After

ROUNDS_MOST: Final = 1000
"""Each round of a host takes at most 150 identities; a host's own limit is far below a thousand times that."""


class NoRestError(Exception):
    """The rounds did not come to an end: a defect of ours, and the message names the places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the API server had, one list of each kind."""

    pods: tuple[Pod, ...] = ()
    nodes: tuple[Node, ...] = ()
    identities: tuple[AzureIdentity, ...] = ()
    bindings: tuple[AzureIdentityBinding, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()


@dataclass(slots=True)
class Course:
    """What was done for one place, in order."""

    steps: list[Step] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    left_on: dict[str, bool] = field(default_factory=dict)
    """Identities that stay though nobody needs them, as `plan.left_on` tells."""


class Rehearsal:
    """A picture of the cluster, and the rounds on it. Used once: `run` changes the picture for good."""

    def __init__(self, snapshot: Snapshot, policy: Policy, *, force_namespaced: bool = False) -> None:
        self.force_namespaced = force_namespaced
        self._policy = policy
        self._touched: set[str] = set()
        self._writes = itertools.count(1)
        self.view = View(force_namespaced=force_namespaced, on_dirty=self._touched.add)
        self.azure: dict[str, HostIdentities] = {}
        """What is on each host, by its key, after the rounds so far."""
        self.courses: dict[str, Course] = {}
        """By the place's key; places where nothing was done or to be told have none."""
        self._take_in(self.view.nodes, snapshot.nodes)
        self._take_in(self.view.identities, snapshot.identities)
        self._take_in(self.view.bindings, snapshot.bindings)
        self._take_in(self.view.assigned, snapshot.assigned)
        self._take_in(self.view.pods, snapshot.pods)

    def hosts(self) -> list[Host]:
        """The VMs and scale sets of which MIC asks Azure what is on them."""
        found = [place.host for place in self.view.places() if place.host is not None and place.stakes]
        return sorted(found, key=lambda host: host.key)

    def run(self, azure: Mapping[str, HostIdentities]) -> None:
        """Give rounds until nothing is left to do. A host that is not in *azure* has not answered. Raises NoRestError.

        Places are worked on in the order of their keys, so that the same cluster has the same course; hosts that Azure
        does not know come last, as MIC waits a while before it believes that.
        """
        self.azure = dict(azure)
        lost = {key for key, known in azure.items() if known.gone}
        waiting = {place.key for place in self.view.places()}
        for _ in range(ROUNDS_MOST):
            self._touched.clear()
            waiting = {
                key for key in sorted(waiting, key=lambda key: (key in lost, key)) if self._round(key)
            } | self._touched
            if not waiting:
                return
        raise NoRestError(f"the rounds for {', '.join(sorted(waiting)[:3])} do not end; report this as a bug")

    def _take_in(self, changes: Any, objects: Iterable[Any]) -> None:
        for each in objects:
            changes.upserted(None, each)

    def _round(self, key: str) -> bool:
        """One round as `mic.reconciliation.host_reconciler` gives it; whether it did anything."""
        place, known = self.view.place(key), self.azure.get(key)
        course = self.courses.get(key) or Course()
        before = plan.prepare(place, known, self._policy)
        for step in before:
            self._do(step)
        change = plan.azure_change(self.view.place(key), known, self._policy) if known is not None else None
        if change is not None and known is not None:
            self.azure[key] = known = applied(known, change)
            course.changes.append(change)
        place = self.view.place(key)
        if known is not None and not known.gone and place.host is not None:
            course.left_on |= plan.left_on(place, known, self._policy)
        after = plan.settle(place, known, self._policy, _reasons(place, known))
        for late in after:
            self._do(late)
        course.steps += [*before, *after]
        if course.steps or course.changes or course.left_on:
            self.courses[key] = course
        return bool(before or change or after)

    def _do(self, step: Step) -> None:
        match step:
            case plan.Create(want, name, status, record):
                self._wrote(documents.new_document(want, name, status, record), uid=f"rehearsed-{next(self._writes)}")
            case plan.Update(held, want, status, record, debts):
                self._patch(held, documents.update_operations(held, want, status, record, debts))
            case plan.Mark(held, record):
                self._patch(held, documents.annotation_operations(held, {ATTACHED_BY_ANNOTATION: record}))
            case plan.Revoke(held):
                if held.object.metadata.finalizers:
                    self.view.revoked(held)
                else:
                    self.view.gone(held)
            case plan.Confirm(held):
                self._patch(held, documents.status_operations(held, ASSIGNED, {MESSAGE_ANNOTATION: None}))
            case plan.Explain(held, message):
                self._patch(held, documents.explain_operations(held, message))
            case plan.Settle(held):
                self._patch(held, documents.debt_operations(held, step.left))
            case plan.Release(held):
                if held.object.metadata.finalizers == [FINALIZER]:
                    self.view.gone(held)
                else:
                    self._patch(held, documents.release_operations(held, UNASSIGNED))

    def _patch(self, held: Held, operations: documents.Operations) -> None:
        present = self.view.held(held.key) or held
        document = msgspec.to_builtins(present.object)
        for operation in operations:
            _patched(document, operation)
        self._wrote(document, uid=present.object.metadata.uid)

    def _wrote(self, document: documents.Document, uid: str) -> None:
        # A version of our own making: one that is as it was would be taken for old news of what was revoked since.
        document["metadata"] |= {"uid": uid, "resourceVersion": f"rehearsed-{next(self._writes)}"}
        self.view.wrote(msgspec.convert(document, AzureAssignedIdentity))


def key_of(step: Step) -> Key:
    """Namespace and name of the object that the step is about."""
    return (step.want.namespace, step.name) if isinstance(step, plan.Create) else step.held.key


def _reasons(place: Place, known: HostIdentities | None) -> dict[str, str]:
    if known is None or not known.gone or place.host is None:
        return {}
    return dict.fromkeys(place.stakes, f"Azure knows no {place.host.text}")


def _patched(document: documents.Document, operation: Mapping[str, Any]) -> None:
    """Carry out one operation of a JSON patch (RFC 6902) as `mic.decisions.documents` makes them. `test` operations
    always hold, because no other client changes this state."""
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    target = document
    for part in path:
        target = target[part]
    match operation["op"]:
        case "add" | "replace":
            target[last] = operation["value"]
        case "remove":
            target.pop(last, None)
