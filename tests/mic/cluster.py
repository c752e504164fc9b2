"""In-memory cluster for tests of MIC's pure modules: objects with short names, and a fake of the reconcile pass.

It implements the part of the API server that AzureAssignedIdentities need: names, versions, finalizers, JSON patches.
Tests of `mic.reconciliation` against a server cover the real order of writes, their limits and failures.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from mic.azure.identities import Attached, Change, HostIdentities
from mic.cluster.view import ClusterView
from mic.decisions import completion, documents, host_change, preparation, steps
from mic.decisions.assignments import ExistingAssignment, Key
from mic.decisions.policy import Policy, Restraint
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    BINDING_LABEL,
    MESSAGE_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    AzureIdentityBindingSpec,
    AzureIdentitySpec,
    Meta,
    Node,
    NodeSpec,
    Pod,
    PodMarks,
    PodMeta,
    PodSpec,
    PodStatus,
)

Thing: TypeAlias = Pod | Node | AzureIdentity | AzureIdentityBinding

GROUP = "/subscriptions/sub/resourceGroups/rg/providers"


def vm_id(name: str = "vm") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachines/{name}"


def set_id(name: str = "pool") -> str:
    return f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/{name}"


def identity_id(name: str) -> str:
    return f"/subscriptions/sub/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"


def pod(
    name: str = "web",
    *,
    namespace: str = "default",
    node: str = "n0",
    label: str = "demo",
    phase: str = "Running",
    uid: str = "",
    mirror: bool = False,
) -> Pod:
    labels = {BINDING_LABEL: label} if label else {}
    return Pod(
        metadata=PodMeta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            labels=labels,
            marks=PodMarks(mirror="hash") if mirror else None,
        ),
        spec=PodSpec(node_name=node),
        status=PodStatus(phase=phase),
    )


def node(name: str = "n0", provider_id: str = "") -> Node:
    return Node(metadata=Meta(name=name), spec=NodeSpec(provider_id=provider_id or f"azure://{vm_id(name)}"))


def set_node(name: str, instance: int, pool: str = "pool") -> Node:
    return node(name, f"azure://{set_id(pool)}/virtualMachines/{instance}")


def identity(
    name: str = "demo",
    *,
    namespace: str = "default",
    type_: int = 0,
    resource_id: str | None = None,
    namespaced: bool = False,
    client_id: str = "",
    tenant_id: str = "",
    uid: str = "",
) -> AzureIdentity:
    return AzureIdentity(
        metadata=Meta(
            name=name,
            namespace=namespace,
            uid=uid or f"uid-{namespace}-{name}",
            annotations={BEHAVIOR_ANNOTATION: "namespaced"} if namespaced else None,
        ),
        spec=AzureIdentitySpec(
            type=type_,
            resource_id=identity_id(name) if resource_id is None else resource_id,
            client_id=client_id or f"client-{name}",
            tenant_id=tenant_id,
        ),
    )


def binding(
    name: str = "demo-binding", *, namespace: str = "default", identity: str = "demo", selector: str = "demo"
) -> AzureIdentityBinding:
    return AzureIdentityBinding(
        metadata=Meta(name=name, namespace=namespace, uid=f"uid-{namespace}-{name}"),
        spec=AzureIdentityBindingSpec(azure_identity=identity, selector=selector),
    )


class Cluster:
    """A ClusterView, the AzureAssignedIdentities in it, and Azure's hosts. `reconcile` runs one pass of a host."""

    def __init__(self, *, force_namespaced: bool = False, policy: Policy | None = None) -> None:
        self.dirty: list[str] = []
        self.view = ClusterView(force_namespaced=force_namespaced, on_dirty=self.dirty.append)
        self.policy = policy or Policy()
        self.objects: dict[Key, AzureAssignedIdentity] = {}
        self.azure: dict[str, HostIdentities] = {}
        self.changes: list[Change] = []
        self.writes = 0
        self.reports_new_clients = True
        """Whether Azure returns the client id of an identity immediately after it was attached."""
        self._versions = itertools.count(1)
        self._known: dict[tuple[str, Key], Any] = {}

    def add(self, *objects: Thing) -> None:
        for each in objects:
            old = self._known.get((type(each).__name__, each.key))
            self._known[type(each).__name__, each.key] = each
            self._changes_of(each).upserted(old, each)

    def remove(self, *objects: Thing) -> None:
        for each in objects:
            self._changes_of(each).deleted(self._known.pop((type(each).__name__, each.key)))

    def host(self, host_id: str, *attached: str, type_: str = "", client_id: str = "", **more: Any) -> None:
        """Let Azure have this VM or scale set, with these identities (names) on it already, all of one *client_id*
        where that is given."""
        ids = [identity_id(name) for name in attached]
        self.azure[host_id.lower()] = HostIdentities(
            type=type_ or ("UserAssigned" if ids else "None"),
            attached={each.lower(): Attached(each, client_id or f"client-{each.rpartition('/')[2]}") for each in ids},
            **more,
        )

    def on(self, host_id: str) -> set[str]:
        """The names of the identities that are attached to the host."""
        return {attached.text.rpartition("/")[2] for attached in self.azure[host_id.lower()].attached.values()}

    def known(self, kind: str, key: Key) -> Thing:
        """The object of this kind (its class's name) as it was added last."""
        thing: Thing = self._known[kind, key]
        return thing

    def replay(self) -> None:
        """Deliver all stored objects to the view again, as restarted watches would."""
        for each in [*self._known.values()]:
            self._changes_of(each).upserted(None, each)
        for stored in [*self.objects.values()]:
            self.view.assigned.upserted(None, stored)

    def delete(self, existing: ExistingAssignment) -> None:
        """Store the effect of a DELETE: the deletionTimestamp, while finalizers keep the object."""
        document = msgspec.to_builtins(self.objects[existing.key])
        document["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.view.wrote(self._store(document, uid=existing.object.metadata.uid))

    def write(self, document: Mapping[str, Any]) -> AzureAssignedIdentity:
        """Write an object as another client would, and deliver its watch event."""
        written = self._store(document, uid=f"uid-{next(self._versions)}")
        self.view.assigned.upserted(None, written)
        return written

    def reconcile(
        self, host_key: str, *, refused: Mapping[str, str] | None = None, warm: Collection[str] = (), look: bool = True
    ) -> list[str]:
        """Run one pass of the host and return the names of the steps. Azure refuses the *refused* identities (keys);
        *warm* ones are within their grace period."""
        key = host_key.lower()
        known = self.azure.get(key) if look else None
        names = [self._before(step) for step in preparation.prepare(self.view.host_state(key), known, self.policy)]
        restraint = Restraint(quarantined=refused or (), warm=warm)
        change = host_change.azure_change(self.view.host_state(key), known, self.policy, restraint) if known else None
        if change is not None:
            self.changes.append(change)
            self.azure[key] = known = _after(self.azure[key], change, reports=self.reports_new_clients)
            names.append("change")
        names += [
            self._after(step) for step in completion.finish(self.view.host_state(key), known, self.policy, refused)
        ]
        return names

    def reconcile_until_in_sync(self, *host_states: str) -> None:
        """Run passes of the hosts until nothing is left to do."""
        for _ in range(6):
            if not sum(len(self.reconcile(host_key)) for host_key in host_states):
                return
        raise AssertionError("six rounds did not settle it")

    def statuses(self) -> dict[str, str]:
        """Object name -> status."""
        return {each.metadata.name: each.status.status for each in self.objects.values()}

    def _changes_of(self, each: object) -> Any:
        match each:
            case Pod():
                return self.view.pods
            case Node():
                return self.view.nodes
            case AzureIdentity():
                return self.view.identities
            case _:
                return self.view.bindings

    def _before(self, step: steps.PrepareStep) -> str:
        self.writes += 1
        match step:
            case steps.Create(desired, name, status, attached_by):
                self.write(documents.new_document(desired, name, status, attached_by))
            case steps.Update(existing, desired, status, attached_by, pending_detaches):
                self._patch(
                    existing, documents.update_operations(existing, desired, status, attached_by, pending_detaches)
                )
            case steps.SetAttachedBy(existing, attached_by):
                self._patch(
                    existing,
                    documents.annotation_operations(existing, {"aadpodidentity.k8s.io/attached-by": attached_by}),
                )
            case steps.Revoke(existing):
                self.view.revoked(existing)
                self.delete(existing)
        return type(step).__name__.lower()

    def _after(self, step: steps.FinishStep) -> str:
        self.writes += 1
        match step:
            case steps.Confirm(existing):
                self._patch(existing, documents.status_operations(existing, "Assigned", {MESSAGE_ANNOTATION: None}))
            case steps.Explain(existing, message):
                self._patch(existing, documents.explain_operations(existing, message))
            case steps.Release(existing):
                del self.objects[existing.key]
                self.view.gone(existing)
            case steps.CompleteDetaches(existing):
                self._patch(existing, documents.pending_detach_operations(existing, step.remaining))
        return type(step).__name__.lower()

    def _patch(self, existing: ExistingAssignment, operations: Sequence[Mapping[str, Any]]) -> None:
        document = msgspec.to_builtins(self.objects[existing.key])
        for operation in operations:
            *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
            target = document
            for part in path:
                target = target[part]
            match operation["op"]:
                case "test":
                    assert target.get(last) == operation["value"], operation
                case "remove":
                    del target[last]
                case "replace":
                    assert last in target, operation
                    target[last] = operation["value"]
                case _:
                    target[last] = operation["value"]
        self.view.wrote(self._store(document, uid=existing.object.metadata.uid))

    def _store(self, document: Mapping[str, Any], uid: str) -> AzureAssignedIdentity:
        version = {"uid": uid, "resourceVersion": str(next(self._versions))}
        metadata = {**document.get("metadata", {}), **version}
        stored = msgspec.convert({**document, "metadata": metadata}, AzureAssignedIdentity)
        self.objects[stored.key] = stored
        return stored


def _after(before: HostIdentities, change: Change, *, reports: bool) -> HostIdentities:
    attached = dict(before.attached)
    for text in change.removes:
        assert text == attached[text.lower()].text, "a removal is not in Azure's spelling"
        del attached[text.lower()]
    attached |= {
        text.lower(): Attached(text, f"client-{text.rpartition('/')[2]}" if reports else "") for text in change.adds
    }
    return HostIdentities(type=change.type, attached=attached, etag=before.etag)
