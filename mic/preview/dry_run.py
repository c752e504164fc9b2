"""Dry run of MIC's reconcile passes on an in-memory state instead of the API server and Azure. Pure.

The same functions as in MIC plan each pass, and the patches that MIC would send change the objects in memory. Passes
continue until none finds work, so that the whole result of a write (created, attached, Assigned) is visible. Azure's
refusals cannot be predicted: each change is assumed to succeed.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mic.azure.identities import Change, HostIdentities, applied
from mic.cluster.host_state import HostState
from mic.cluster.view import ClusterView
from mic.decisions import completion, documents, host_change, preparation, steps
from mic.decisions.assignments import ExistingAssignment, Key
from mic.decisions.policy import Policy
from mic.decisions.steps import Step
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

PASSES_MOST: Final = 1000
"""Each pass of a host attaches up to 150 identities; a host's limit is far below a thousand times that."""


class DryRunError(Exception):
    """The passes did not end, which is a bug. The message names the hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Objects of the API server, one list per kind."""

    pods: tuple[Pod, ...] = ()
    nodes: tuple[Node, ...] = ()
    identities: tuple[AzureIdentity, ...] = ()
    bindings: tuple[AzureIdentityBinding, ...] = ()
    assigned: tuple[AzureAssignedIdentity, ...] = ()


@dataclass(slots=True)
class HostActions:
    """Steps and changes for one host, in order."""

    steps: list[Step] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    left_on: dict[str, bool] = field(default_factory=dict)
    """Identities that stay although no pod needs them, as `host_change.left_on` returns them."""


class DryRun:
    """In-memory cluster and the passes on it. Used once: `run` changes the state."""

    def __init__(self, snapshot: Snapshot, policy: Policy, *, force_namespaced: bool = False) -> None:
        self.force_namespaced = force_namespaced
        self.policy = policy
        """The operator's settings."""
        self._touched: set[str] = set()
        self._writes = itertools.count(1)
        self.view = ClusterView(force_namespaced=force_namespaced, on_dirty=self._touched.add)
        self.azure: dict[str, HostIdentities] = {}
        """Identities of each host, by its key, after the finished passes."""
        self.actions: dict[str, HostActions] = {}
        """The actions for each host, by its key. Hosts without actions are omitted."""
        self._take_in(self.view.nodes, snapshot.nodes)
        self._take_in(self.view.identities, snapshot.identities)
        self._take_in(self.view.bindings, snapshot.bindings)
        self._take_in(self.view.assigned, snapshot.assigned)
        self._take_in(self.view.pods, snapshot.pods)

    def hosts(self) -> list[Host]:
        """Return the VMs and scale sets that MIC reads from Azure."""
        hosts = [
            host_state.host
            for host_state in self.view.host_states()
            if host_state.host is not None and host_state.usages and self.policy.allows(host_state.host)
        ]
        return sorted(hosts, key=lambda host: host.key)

    def run(self, azure: Mapping[str, HostIdentities]) -> None:
        """Run passes until nothing is left to do. A host that is not in *azure* has not responded. Raise DryRunError.

        Hosts are processed in the order of their keys, so that the same cluster gives the same result. Hosts that Azure
        does not know come last, because MIC waits before it accepts that.
        """
        self.azure = dict(azure)
        for identities in azure.values():
            self.policy = self.policy.informed(identities)
        lost = {key for key, identities in azure.items() if identities.gone}
        waiting = {host_state.key for host_state in self.view.host_states()}
        for _ in range(PASSES_MOST):
            self._touched.clear()
            waiting = {
                key for key in sorted(waiting, key=lambda key: (key in lost, key)) if self._reconcile(key)
            } | self._touched
            if not waiting:
                return
        raise DryRunError(f"the reconcile passes for {', '.join(sorted(waiting)[:3])} do not end; report this as a bug")

    def _take_in(self, changes: Any, objects: Iterable[Any]) -> None:
        for resource in objects:
            changes.upserted(None, resource)

    def _reconcile(self, key: str) -> bool:
        """Run one pass as `HostReconciler` does. Return whether it did anything."""
        host_state, identities = self.view.host_state(key), self.azure.get(key)
        host_actions = self.actions.get(key) or HostActions()
        before = preparation.prepare(host_state, identities, self.policy)
        for step in before:
            self._apply(step)
        change = (
            host_change.azure_change(self.view.host_state(key), identities, self.policy)
            if identities is not None
            else None
        )
        if change is not None and identities is not None:
            self.azure[key] = identities = applied(identities, change)
            host_actions.changes.append(change)
        host_state = self.view.host_state(key)
        if identities is not None and not identities.gone and host_state.host is not None:
            host_actions.left_on |= host_change.left_on(host_state, identities, self.policy)
        after = completion.finish(host_state, identities, self.policy, _reasons(host_state, identities))
        for finish_step in after:
            self._apply(finish_step)
        host_actions.steps += [*before, *after]
        if host_actions.steps or host_actions.changes or host_actions.left_on:
            self.actions[key] = host_actions
        return bool(before or change or after)

    def _apply(self, step: Step) -> None:
        match step:
            case steps.Create(desired, name, status, attached_by):
                self._wrote(
                    documents.new_document(desired, name, status, attached_by), uid=f"rehearsed-{next(self._writes)}"
                )
            case steps.Update(existing, desired, status, attached_by, pending_detaches):
                self._patch(
                    existing, documents.update_operations(existing, desired, status, attached_by, pending_detaches)
                )
            case steps.SetAttachedBy(existing, attached_by):
                self._patch(existing, documents.annotation_operations(existing, {ATTACHED_BY_ANNOTATION: attached_by}))
            case steps.Revoke(existing):
                # Without a finalizer the API server deletes the object immediately.
                if existing.object.metadata.finalizers:
                    self.view.revoked(existing)
                else:
                    self.view.gone(existing)
            case steps.Confirm(existing):
                self._patch(existing, documents.status_operations(existing, ASSIGNED, {MESSAGE_ANNOTATION: None}))
            case steps.Explain(existing, message):
                self._patch(existing, documents.explain_operations(existing, message))
            case steps.CompleteDetaches(existing):
                self._patch(existing, documents.pending_detach_operations(existing, step.remaining))
            case steps.Release(existing):
                if existing.object.metadata.finalizers == [FINALIZER]:
                    self.view.gone(existing)
                else:
                    self._patch(existing, documents.release_operations(existing, UNASSIGNED))

    def _patch(self, existing: ExistingAssignment, operations: documents.Operations) -> None:
        present = self.view.existing(existing.key) or existing
        document = msgspec.to_builtins(present.object)
        for operation in operations:
            _patched(document, operation)
        self._wrote(document, uid=present.object.metadata.uid)

    def _wrote(self, document: documents.Document, uid: str) -> None:
        # A new version: an unchanged one would count as an older event of an object revoked since.
        document["metadata"] |= {"uid": uid, "resourceVersion": f"rehearsed-{next(self._writes)}"}
        self.view.wrote(msgspec.convert(document, AzureAssignedIdentity))


def key_of(step: Step) -> Key:
    """Return namespace and name of the step's object."""
    return (step.desired.namespace, step.name) if isinstance(step, steps.Create) else step.existing.key


def _reasons(host_state: HostState, identities: HostIdentities | None) -> dict[str, str]:
    if identities is None or not identities.gone or host_state.host is None:
        return {}
    return dict.fromkeys(host_state.usages, f"Azure has no {host_state.host.text}")


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
