"""Expected state, computed from all stored objects independently of MIC's code, and slowly. Checks of each single write
for forbidden actions, the true owner of each identity, and the comparison at the end.

Each actor records its actions here: an identity that others attached is `foreign` until others detach it. If others
attached an identity that MIC needs or has just needed, the owner is ambiguous and both results are correct: `either`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.kubeapi.history import Change
from podidentity_sandbox.kubeapi.store import Store
from podidentity_sandbox.machines import SYSTEM, Machine
from tests.support.mic.emulated_cloud import ASSIGNED, BINDINGS, IDENTITIES

Document = dict[str, Any]
ClaimName = tuple[str, str, str, str]
"""Namespace and name of the pod, namespace and name of the identity."""

PREFIX: Final = "aadpodidentity.k8s.io"
ASSIGNED_STATUS: Final = "Assigned"
FINALIZER: Final = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"
_RESOURCE: Final = re.compile(
    r"/subscriptions/[^/]+/resourcegroups/[^/]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+",
    re.IGNORECASE,
)
_SET: Final = re.compile(r"(?i)(?P<set>.*/virtualMachineScaleSets/[^/]+)/virtualMachines/[^/]+")


@dataclass(frozen=True)
class Need:
    """One pod needs one identity."""

    claim: ClaimName
    pod_uid: str
    node: str
    host: str
    """Lower-case id of the VM or scale set."""
    namespace: str
    """The namespace of its AzureAssignedIdentity."""
    identity: Document
    bindings: tuple[Document, ...]
    """The bindings that give the identity; the object may name any of them."""
    resource: str
    """Lower-case id of the identity that the host needs; empty if none."""

    @property
    def client(self) -> str:
        """Lower-case client id that the identity names."""
        return str(self.identity["spec"].get("clientID", "")).strip().lower()


def needs(store: Store) -> dict[ClaimName, Need]:
    """Return the needs of each scheduled pod that has not ended."""
    hosts = {node["metadata"]["name"]: host_of(node) for node in store.list("nodes")}
    by_claim: dict[ClaimName, Need] = {}
    for pod in store.list("pods"):
        meta, node = pod["metadata"], pod["spec"].get("nodeName", "")
        label = meta.get("labels", {}).get("aadpodidbinding", "")
        if not label or node not in hosts or pod["status"].get("phase") in {"Succeeded", "Failed"}:
            continue
        for identity, bindings in _led_to(store, label):
            namespaced = _namespaced(identity)
            if namespaced and identity["metadata"]["namespace"] != meta["namespace"]:
                continue
            claim = (meta["namespace"], meta["name"], identity["metadata"]["namespace"], identity["metadata"]["name"])
            by_claim[claim] = Need(
                claim,
                meta["uid"],
                node,
                hosts[node],
                identity["metadata"]["namespace"] if namespaced else "default",
                identity,
                bindings,
                resource_of(identity),
            )
    return by_claim


def host_of(node: Document) -> str:
    bare = str(node["spec"]["providerID"]).removeprefix("azure://")
    instance = _SET.fullmatch(bare)
    return (instance["set"] if instance else bare).lower()


def resource_of(identity: Document) -> str:
    spec = identity["spec"]
    return str(spec.get("resourceID", "")).lower() if spec.get("type", 0) == 0 else ""


def assignment_key_of(assigned: Document) -> ClaimName:
    """Return the pod and the identity of an AzureAssignedIdentity."""
    spec = assigned["spec"]
    identity = spec["azureIdentityRef"]["metadata"]
    return spec["podNamespace"], spec["pod"], identity["namespace"], identity["name"]


def dying(assigned: Document) -> bool:
    return "deletionTimestamp" in assigned["metadata"]


def annotation(document: Document, name: str) -> str:
    return str(document["metadata"].get("annotations", {}).get(f"{PREFIX}/{name}", ""))


def wrong_object(need: Need, assigned: Document) -> str:
    """Return the fields of *assigned*, without its status, that differ from *need*; empty if there are none."""
    meta, spec = assigned["metadata"], assigned["spec"]
    name = f"{need.claim[1]}-{need.claim[0]}-{need.claim[3]}"
    right = {
        "namespace": meta["namespace"] == need.namespace,
        "name": meta["name"] == name or re.fullmatch(re.escape(name) + "-[0-9a-f]{10}", meta["name"]) is not None,
        "node": spec["nodename"] == need.node and meta["labels"]["nodename"] == need.node,
        "pod's uid": annotation(assigned, "pod-uid") == need.pod_uid,
        "finalizer": FINALIZER in meta.get("finalizers", []),
        "identity": _message(need.identity, spec["azureIdentityRef"]),
        "identity's mode": annotation(need.identity, "Behavior") == annotation(spec["azureIdentityRef"], "Behavior"),
        "binding": any(_message(binding, spec["azureBindingRef"]) for binding in need.bindings),
        "pending detaches": annotation(assigned, "detach-pending") == "",
    }
    return ", ".join(part for part, is_right in right.items() if not is_right)


def _led_to(store: Store, label: str) -> Iterator[tuple[Document, tuple[Document, ...]]]:
    """The usable identities that bindings with this selector name, each with those bindings."""
    by_identity: dict[tuple[str, str], list[Document]] = {}
    for binding in store.list(BINDINGS):
        if binding["spec"].get("selector") == label:
            key = (binding["metadata"]["namespace"], binding["spec"]["azureIdentity"])
            by_identity.setdefault(key, []).append(binding)
    for (namespace, name), bindings in by_identity.items():
        identity = store.find(IDENTITIES, name, namespace)
        if identity is not None and (identity["spec"].get("type", 0) != 0 or _RESOURCE.fullmatch(_id(identity))):
            yield identity, tuple(bindings)


def _id(identity: Document) -> str:
    return str(identity["spec"].get("resourceID", ""))


def _namespaced(identity: Document) -> bool:
    return annotation(identity, "Behavior").lower() == "namespaced" or identity["spec"].get("type") == 3


def _message(stored: Document, embedded: Document) -> bool:
    same_meta = all(stored["metadata"].get(part) == embedded["metadata"].get(part) for part in ("name", "uid"))
    spec = {name: value for name, value in embedded["spec"].items() if value not in ("", 0, None)}
    return same_meta and spec == {name: value for name, value in stored["spec"].items() if value not in ("", 0, None)}


On = tuple[str, str]
"""Host and identity, both lower-case ids."""


@dataclass
class Watcher:
    """Observer of every update of Azure and every write of an AzureAssignedIdentity; `wrong` lists the violations."""

    write_line: Callable[[str], None]
    host_of_node: Callable[[str], str]
    """Lower-case id of the host that a node is or was on; empty if it never was on any."""
    machine: Callable[[str], Machine | None]
    immutable: frozenset[str] = frozenset()
    """Lower-case ids of the identities that must stay where they are."""
    adopting: bool = False
    """Whether MIC adopts identities that others attached once a pod needs them."""
    wrong: list[str] = field(default_factory=list)
    foreign: set[On] = field(default_factory=set)
    either: set[On] = field(default_factory=set)
    taken_by_others: set[On] = field(default_factory=set)
    recent: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By host, the identities that pods have needed there since the last time without operations."""
    store: Store | None = None

    def follow(self, store: Store) -> None:
        self.store = store
        store.subscribe(ASSIGNED, self._written)

    def report(self, what: str) -> None:
        self.wrong.append(what)
        self.write_line(f"WRONG: {what}")

    # Actions of other clients

    def attached_by_others(self, on: On) -> None:
        """Record that another client attached the identity where it was not attached."""
        # Where a record or a recent need names the identity, MIC may attach it too, and then either may be its owner.
        (self.either if self._touched(on) else self.foreign).add(on)
        self.taken_by_others.discard(on)

    def detached_by_others(self, on: On) -> None:
        self.foreign.discard(on)
        self.either.discard(on)
        self.taken_by_others.add(on)

    def forgotten(self, host: str) -> None:
        """Record that the cluster or Azure did not show the host for some time: identities of MIC may stay there
        forever."""
        machine = self.machine(host)
        ours = {on for on in self._named() if on[0] == host} | {(host, key) for key in self.recent[host]}
        there = {(host, key) for key in machine.user_assigned} if machine is not None else set()
        self.either |= (ours | there) - self.foreign

    def note_needs(self) -> None:
        """Called after each change of the cluster."""
        assert self.store is not None
        for need in needs(self.store).values():
            if need.resource:
                self.recent[need.host].add(need.resource)
                if self.adopting and (need.host, need.resource) in self.foreign:
                    self.foreign.discard((need.host, need.resource))
                    self.either.add((need.host, need.resource))  # MIC may not reach it before the pod is deleted

    def settle(self) -> None:
        """Decide the owner of each doubtful identity, when no operation is running."""
        assert self.store is not None
        records = self._named()
        for on in sorted(self.either):
            machine = self.machine(on[0])
            if machine is None or on[1] not in machine.user_assigned:
                self.either.discard(on)
            elif on in records:
                self.either.discard(on)
                if "mic" not in records[on]:
                    self.foreign.add(on)
            else:
                # Without a record MIC cannot know that it attached the identity, so it must never detach it.
                self.either.discard(on)
                self.foreign.add(on)
        self.recent.clear()
        self.note_needs()

    def _touched(self, on: On) -> bool:
        return on in self._named() or on[1] in self.recent[on[0]]

    def _named(self) -> dict[On, set[str]]:
        """Return the identities of all AzureAssignedIdentities and pending detaches, with their recorded owners."""
        assert self.store is not None
        attached_by: dict[On, set[str]] = defaultdict(set)
        for document in self.store.list(ASSIGNED):
            if on := self._represents(document):
                attached_by[on].add(annotation(document, "attached-by"))
            for host, identity in json.loads(annotation(document, "detach-pending") or "[]"):
                attached_by[host.lower(), identity.lower()].add("mic")
        return attached_by

    def _represents(self, assigned: Document) -> On | None:
        resource = resource_of(assigned["spec"]["azureIdentityRef"])
        host = self.host_of_node(assigned["spec"]["nodename"])
        return (host, resource) if resource and host else None

    # What MIC does

    def check_update(self, host: str, body: Document) -> None:
        """Check an update on its arrival, before its outcome is known."""
        assert self.store is not None
        self.write_line(f"  asked: {body}")
        recorded = {
            self._represents(document)
            for document in self.store.list(ASSIGNED)
            if not dying(document) and annotation(document, "attached-by") == "mic"
        }
        for key, value in (body["identity"].get("userAssignedIdentities") or {}).items():
            on = (host.lower(), key.lower())
            if value is not None and on not in recorded:
                self.report(f"attached an identity that no AzureAssignedIdentity records as MIC's: {on}")

    def updated(self, machine: Machine, before: Mapping[str, ManagedIdentity], types: frozenset[str]) -> None:
        """Check an accepted update, given the machine's earlier identities."""
        assert self.store is not None
        host = machine.resource_id.lower()
        living = [document for document in self.store.list(ASSIGNED) if not dying(document)]
        for key in before.keys() - machine.user_assigned.keys():
            on = (host, key)
            if on in self.foreign:
                self.report(f"detached another client's identity: {on}")
            if key in self.immutable:
                self.report(f"detached an immutable identity: {on}")
            for document in living:
                if self._represents(document) == on:
                    self.report(f"detached the identity of {document['metadata']['name']} before revoking it: {on}")
        for key in machine.user_assigned.keys() - before.keys():
            self.taken_by_others.discard((host, key))
        if (SYSTEM in types) != (SYSTEM in machine.types):
            self.report(f"changed the system-assigned identity of {host}")

    def _written(self, change: Change) -> None:
        after = change.item.document
        self.write_line(f"  {change.type} {_brief(after)}")
        if change.type == "DELETED" or dying(after) or after["status"]["status"] != "Assigned":
            return
        on = self._represents(after)
        if on is None or on in self.taken_by_others:
            return
        machine = self.machine(on[0])
        if machine is None:
            return  # another client deleted the whole host
        # A machine applies an operation whose time is over only when it is read; no request may have read it since.
        machine.complete_operation()
        if (there := machine.user_assigned.get(on[1])) is not None and (named := _client(after)):
            before = change.before.document if change.before is not None else {}
            already_assigned = before.get("status", {}).get("status") == "Assigned" and _client(before) == named
            if named != there.client_id.lower() and not already_assigned:
                self.report(f"{after['metadata']['name']} is Assigned with client id {named}, {on} has another")
        if on[1] not in machine.user_assigned or on[1] not in machine.attached_at:
            before = change.before.document if change.before is not None else {}
            if before.get("status", {}).get("status") == "Assigned" and self._represents(before) == on:
                return  # it was so before, and another part of the object was written
            self.report(f"{after['metadata']['name']} is Assigned, and {on} is not attached (yet)")


def _client(assigned: Document) -> str:
    return str(assigned["spec"]["azureIdentityRef"]["spec"].get("clientID", "")).strip().lower()


def _brief(assigned: Document) -> str:
    meta, spec = assigned["metadata"], assigned["spec"]
    notes = {key.partition("/")[2]: value for key, value in meta.get("annotations", {}).items()}
    return (
        f"{meta['namespace']}/{meta['name']} {assigned['status']['status']} on {spec['nodename']}"
        f" of {spec['azureIdentityRef']['spec'].get('resourceID', '')[-12:]}"
        f" {'dying ' if dying(assigned) else ''}{notes}"
    )


FindMachine = Callable[[str], Machine | None]


def violations(store: Store, find: FindMachine, hosts: Iterable[str], truth: Watcher, refused: Collection[str]) -> str:
    """Return the first difference from the expected state; empty if there is none. *refused*: lower-case ids that Azure
    refuses."""
    wanted = needs(store)
    by_claim: dict[ClaimName, Document] = {}
    for document in store.list(ASSIGNED):
        if dying(document):
            return f"{document['metadata']['name']} is still going"
        claim = assignment_key_of(document)
        if claim not in wanted or claim in by_claim:
            return f"{document['metadata']['name']} is not needed, or is a duplicate"
        by_claim[claim] = document
    for claim, need in wanted.items():
        if problem := _unmet(need, by_claim.get(claim), find(need.host), refused):
            return f"{claim} on {need.node}: {problem}"
    return next(filter(None, (_misplaced(host.lower(), find(host), wanted, truth) for host in hosts)), "")


def _unmet(need: Need, assigned: Document | None, machine: Machine | None, refused: Collection[str]) -> str:
    if need.resource and machine is None:
        return ""  # without a host nothing is assigned, so any state is correct
    if assigned is None:
        return "has no AzureAssignedIdentity"
    if wrong := wrong_object(need, assigned):
        return f"its object is wrong in {wrong}"
    there = not need.resource or (machine is not None and need.resource in machine.user_assigned)
    reported = machine.user_assigned[need.resource].client_id if need.resource and there and machine else ""
    differs = bool(reported and need.client and reported.lower() != need.client)
    fit = there and not differs
    message = annotation(assigned, "message")
    problems = {
        "is not on its host": not there and need.resource not in refused,
        f"is {assigned['status']['status']}, on the host: {there}, names another client id: {differs}": fit
        != (assigned["status"]["status"] == ASSIGNED_STATUS),
        "it is still Created without a reason": not fit and not message,
        f"names another client id, and the message does not name both: {message}": differs
        and not (need.client in message.lower() and reported in message),
        f"is attached, and still has the message: {message}": fit and bool(message),
    }
    return next((problem for problem, holds in problems.items() if holds), "")


def _misplaced(host: str, machine: Machine | None, wanted: Mapping[ClaimName, Need], truth: Watcher) -> str:
    if machine is None:
        return ""
    if machine.updating:
        return f"{host} is being changed"
    foreign = {identity for where, identity in truth.foreign if where == host}
    optional = {identity for where, identity in truth.either if where == host} | truth.immutable
    needed = {need.resource for need in wanted.values() if need.host == host and need.resource}
    there = set(machine.user_assigned)
    if lost := foreign - there:
        return f"{host} has lost {lost}"
    if extra := there - foreign - needed - optional:
        return f"{host} still has {extra}"
    return ""
