"""Fuzz targets for objects that tenants write: from the API server's bytes to the programs' decisions.

An input is a list of lines. The first byte of a line is the kind of the object (upper case: the object was deleted),
the rest is the object's JSON. No exception may escape, and a bystander pod that no object names keeps its identity.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from prometheus_client import CollectorRegistry

from _native.index import Index
from mic.azure.identities import USER, HostIdentities, applied
from mic.azure.identities import Change as HostChange
from mic.decisions import completion, preparation
from mic.decisions.assignments import ExistingAssignment
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.decide import DecisionPolicy, Grant, decide
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.tokens.secrets import SECRETS
from podidentity.kube.decoding import Malformed, decode_event, decode_meta, decode_object, split_list
from podidentity.kube.lock_records import LEADER_ANNOTATION, AnnotationFormat, LeaseFormat, LockFormat
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    NODES,
    PODS,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentityBinding,
    Kind,
    Node,
    Pod,
    Resource,
)
from tests.support import nmi_objects
from tests.support.filled_view import FilledView
from tests.support.objects import assigned, binding, identity, identity_id, node, pod, vm_id

KINDS: Final[dict[bytes, Kind[Any]]] = {
    b"p": PODS,
    b"n": NODES,
    b"i": IDENTITIES,
    b"b": BINDINGS,
    b"a": ASSIGNED_IDENTITIES,
    b"e": EXCEPTIONS,
    b"s": SECRETS,
}
Known = dict[tuple[str, tuple[str, str]], Resource]
VERSIONS: Final = itertools.count(3)
LINES_MOST: Final = 12
BYSTANDER: Final = "bystander"
BYSTANDERS: Final = (
    pod("web", namespace=BYSTANDER, node=BYSTANDER, label="own"),
    identity("own", namespace=BYSTANDER),
    binding("own", namespace=BYSTANDER, identity="own", selector="own"),
)
ADDRESS: Final = "10.9.9.9"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Change:
    """One line of an input, read with every reader that a program uses."""

    kind: Kind[Any]
    thing: Resource
    gone: bool

    def pass_on(self, handler: Any, thing: Resource, cached: Known) -> None:
        """Pass *thing*, the changed object, to *handler* as an informer does, which has the objects *cached*."""
        at = (self.kind.plural, self.thing.key)
        before = cached.pop(at, None)
        if self.gone:
            handler.deleted(thing if before is None else before)
        else:
            handler.upserted(before, thing)
            cached[at] = thing


def changes(data: bytes) -> Iterator[Change]:
    """Return the objects of the readable lines. Every reader must refuse the others as Malformed."""
    for line in data.split(b"\n")[:LINES_MOST]:
        kind, text = KINDS.get(line[:1].lower()), line[1:]
        if kind is None:
            continue
        decode_meta(text)
        with suppress(Malformed):
            split_list(b'{"metadata":{"resourceVersion":"1"},"items":[%s]}' % text)
        with suppress(Malformed):
            for item in split_list(b'{"metadata":{},"items":[%s]}' % text).items:
                decode_object(kind, item)
        for event in (b'{"type":"MODIFIED","object":%s}' % text, text, b'{"type":"ERROR","object":%s}' % text):
            with suppress(Malformed):
                decode_event(kind, event)
        with suppress(Malformed):
            yield Change(kind, cast("Resource", decode_object(kind, text)), gone=line[:1].isupper())


class MicObjects:
    """MIC's view and plan while objects change, and the result of its passes, on a cluster where a bystander has its
    identity."""

    def __call__(self, data: bytes) -> None:
        filled, stored = FilledView(), assigned(*BYSTANDERS)
        filled.add(node(BYSTANDER), *BYSTANDERS)
        view = filled.view
        view.assigned.upserted(None, stored)
        handlers: dict[str, Any] = {
            "pods": view.pods,
            "nodes": view.nodes,
            "azureidentities": view.identities,
            "azureidentitybindings": view.bindings,
            "azureassignedidentities": view.assigned,
        }
        cached: Known = {}
        for change in changes(data):
            if change.kind.plural in handlers and not self._is_about_bystander(change.thing, stored.key):
                change.pass_on(handlers[change.kind.plural], _as_stored(change.thing), cached)
        azure = {vm_id(BYSTANDER).lower(): applied(HostIdentities(), HostChange((identity_id("own"),), (), USER))}
        for host in [*view.host_states()]:
            preparation.prepare(host, azure.get(host.key), Policy())
            completion.finish(host, azure.get(host.key), Policy())
        view.state()
        things = [*filled.stored(), stored, *cached.values()]
        kinds = (
            ("pods", Pod),
            ("nodes", Node),
            ("identities", AzureIdentity),
            ("bindings", AzureIdentityBinding),
            ("assigned", AzureAssignedIdentity),
        )
        snapshot: dict[str, Any] = {
            name: tuple(thing for thing in things if isinstance(thing, kind)) for name, kind in kinds
        }
        dry_run = DryRun(Snapshot(**snapshot), Policy())
        dry_run.run(azure)
        for after in (view, dry_run.view):
            existing = after.existing(stored.key)
            assert existing is not None, "the bystander has lost its assigned identity"
            assert (existing.object.status.status, existing.terminating) == ("Assigned", False)
        for (plural, _), thing in cached.items():
            handlers[plural].deleted(thing)
        assert {name for host in view.host_states() for name in host.nodes} <= {BYSTANDER}

    def _is_about_bystander(self, thing: Resource, own: tuple[str, str]) -> bool:
        """Return whether *thing* may legitimately remove the bystander's identity; the target skips such objects."""
        claim = ExistingAssignment(thing).assignment_key if isinstance(thing, AzureAssignedIdentity) else None
        return (
            thing.metadata.namespace == BYSTANDER
            or thing.key in {own, ("", BYSTANDER)}
            or (claim is not None and claim.pod_namespace == BYSTANDER)
        )


def _as_stored(thing: Resource) -> Resource:
    """Return an assigned identity as an API server stores it: with a uid, and a higher version than the one before."""
    if not isinstance(thing, AzureAssignedIdentity):
        return thing
    uid = thing.metadata.uid or str(thing.key)
    meta = msgspec.structs.replace(thing.metadata, uid=uid, resource_version=str(next(VERSIONS)))
    return msgspec.structs.replace(thing, metadata=meta)


WATCHES: Final = {
    "pods": "pods",
    "azureassignedidentities": "assigned_identities",
    "azurepodidentityexceptions": "exceptions",
    "azureidentities": "identities",
    "azureidentitybindings": "bindings",
}
REQUESTS: Final = (
    TokenRequest("r"),
    TokenRequest("r", SelectorKind.CLIENT_ID, nmi_objects.CLIENT_ID),
    TokenRequest("r", SelectorKind.RESOURCE_ID, nmi_objects.resource_id("id")),
    TokenRequest("r", SelectorKind.OBJECT_ID, nmi_objects.OBJECT_ID),
)


class NmiObjects:
    """NMI in both modes: the handlers of its watches, and the decision for every known pod."""

    def __call__(self, data: bytes) -> None:
        several = [*changes(data)]
        for managed in (False, True):
            self._run(several, managed=managed)

    def _run(self, several: list[Change], *, managed: bool) -> None:
        cluster_cache = ClusterCache(
            cast("Any", None), Index(), IdentityMetrics(CollectorRegistry()), node="n", managed=managed
        )
        handlers = {name: watch.objects.handler for name, watch in cluster_cache.watches.by_name.items()}
        handlers["pods"].upserted(None, nmi_objects.pod("web", namespace=BYSTANDER, addresses=(ADDRESS,)))
        if managed:
            handlers["identities"].upserted(None, nmi_objects.identity(namespace=BYSTANDER))
            handlers["bindings"].upserted(None, nmi_objects.binding(namespace=BYSTANDER))
        else:
            own = nmi_objects.assigned_identity(namespace=BYSTANDER, pod_namespace=BYSTANDER, nodename="n")
            handlers["assigned_identities"].upserted(None, own)
        cached: Known = {}
        for change in several:
            name = WATCHES.get(change.kind.plural, "")
            if name in handlers and not self._is_about_bystander(change.thing):
                change.pass_on(handlers[name], change.thing, cached)
                self._decide(cluster_cache, managed=managed)

    def _decide(self, cluster_cache: ClusterCache, *, managed: bool) -> None:
        for policy in (DecisionPolicy(), DecisionPolicy(force_namespaced=True)):
            for entry in cluster_cache.pods:
                for request in REQUESTS:
                    decide(entry.facts, entry.assigned, request, policy, {})
        own = cluster_cache.pods.get(BYSTANDER, "web")
        assert own is not None
        assert own.addresses == (ADDRESS,)
        decision = decide(own.facts, own.assigned, REQUESTS[0], DecisionPolicy(force_namespaced=managed), {})
        assert isinstance(decision, Grant), decision
        assert decision.assigned.identity.metadata.namespace == BYSTANDER

    def _is_about_bystander(self, thing: Resource) -> bool:
        if isinstance(thing, AzureAssignedIdentity) and thing.spec.pod_namespace == BYSTANDER:
            return True
        return thing.metadata.namespace == BYSTANDER or ADDRESS.encode() in msgspec.json.encode(thing)


class LockRecords:
    """Leader lock with any text: a candidate reads it without an exception and can read its own text again."""

    def __call__(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        self._check(AnnotationFormat(), {"metadata": {"annotations": {LEADER_ANNOTATION: text}}})
        try:
            spec: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if isinstance(spec, dict):
            self._check(LeaseFormat(), {"metadata": {}, "spec": spec})

    def _check(self, form: LockFormat, document: dict[str, Any]) -> None:
        record = form.read(document)
        assert record.duration_seconds is None or record.duration_seconds > 0
        for acquire in (True, False):
            written = form.written(document, record, "mic", 15, NOW, acquire=acquire)
            again = form.read(json.loads(msgspec.json.encode(written)))
            assert (again.holder, again.duration_seconds) == ("mic", 15)
