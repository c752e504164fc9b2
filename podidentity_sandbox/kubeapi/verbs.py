"""Create, update and delete as the API server does them: preconditions, generations, finalizers, grace periods.

Everything here is synchronous, and only the thread of the event loop may call it: a verb is completed, or refused with
StatusError without a write. The two controllers that clients require are here too: a namespace gets its default service
account and root certificate, and is removed after its content; the kinds of a definition are served while it exists.
"""

import datetime
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from podidentity_sandbox.kubeapi import admission, field_types, schemas
from podidentity_sandbox.kubeapi.history import History, Item, Key
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS, Registry, ResourceType, defined_kinds
from podidentity_sandbox.kubeapi.statuses import (
    Document,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    modified,
    not_found,
)

GENERATED: Final = "bcdfghjklmnpqrstvwxz2456789"
"""Characters of a generated name's five: no vowels, so that no words come out, and no digits that look like letters."""
PERMANENT: Final = frozenset({"default", "kube-system", "kube-public"})
NAMESPACES: Final = "namespaces"
_SYSTEM_METADATA: Final = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "namespace",
    "resourceVersion",
    "uid",
)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """The options of a DELETE. A grace period of None is the kind's default."""

    uid: str = ""
    resource_version: str = ""
    grace_seconds: int | None = None


class Verbs:
    """The writing verbs over one history. *now* is the wall clock of every timestamp, also in responses."""

    def __init__(
        self, history: History, registry: Registry, *, root_certificate: str, now: Callable[[], datetime.datetime]
    ) -> None:
        self.history = history
        self.registry = registry
        self._root_certificate = root_certificate
        self.now = now
        self._random = random.Random()  # noqa: S311 - names, not secrets

    def timestamp(self) -> str:
        """Return the current time in documents' format: seconds, UTC."""
        return format_time(self.now())

    def get(self, resource: ResourceType, key: Key) -> Item:
        """Raise StatusError 404."""
        item = self.history.get(resource.name, key)
        if item is None:
            raise not_found(resource.plural, resource.group, key[1])
        return item

    def create(
        self, resource: ResourceType, namespace: str, document: Document, *, dry_run: bool = False, strict: bool = False
    ) -> Item:
        """Store a new object. Takes ownership of *document*."""
        document = self._typed(resource, document)
        metadata = document["metadata"]
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if metadata.get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(self._random.choices(GENERATED, k=5))
        name = metadata.get("name", "")
        if resource.namespaced:
            self._admit_into(resource, namespace, name)
            metadata["namespace"] = namespace
        admission.decode_check(resource, document)
        admission.check(resource, document)
        if resource.custom:
            schemas.check(resource, document, strict=strict)
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields", "selfLink"):
            metadata.pop(field, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.timestamp()}
        if resource.generation:
            metadata["generation"] = 1
        admission.complete_new(resource, document, self.timestamp())
        self._admit_pod(resource, document)
        key = (metadata.get("namespace", ""), name)
        existing = self.history.get(resource.name, key)
        if existing is not None:
            ending = "deletionTimestamp" in existing.document["metadata"]
            raise already_exists(resource.plural, resource.group, name, ending=ending)
        if dry_run:
            return Item(document, self.history.revision)
        item = self.history.write(resource.name, key, document)
        self._created(resource, item)
        return item

    def update(
        self,
        resource: ResourceType,
        key: Key,
        change: Callable[[Document], Document],
        *,
        subresource: str = "",
        conditional: bool = False,
        dry_run: bool = False,
        strict: bool = False,
    ) -> Item:
        """Store the result of *change* for the present object, which *change* must not modify.

        With *conditional* (a PUT) the new document has to carry a resourceVersion where the kind demands one. A change
        that changes nothing writes nothing.
        """
        item = self.get(resource, key)
        old = item.document
        new = self._typed(resource, change(old), patched=not conditional)
        admission.decode_check(resource, new, patched=not conditional)
        self._check_identity(resource, key, old, new, conditional=conditional)
        new = _joined(resource, old, new, subresource)
        admission.check(resource, new)
        if resource.custom:
            schemas.check(resource, new, strict=strict)
        admission.complete(resource, new)
        if subresource not in {"binding", "status"}:
            admission.check_change(resource, old, new)
        if new == old:
            return item
        if resource.generation and subresource != "binding" and _counted(resource, old) != _counted(resource, new):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if dry_run:
            return Item(new, item.revision)
        if _finished(new):
            self._remove(resource, key, new)
            return Item(new, item.revision)
        written = self.history.write(resource.name, key, new)
        if resource.name == DEFINITIONS:
            self._serve(written.document)
        return written

    def delete(
        self, resource: ResourceType, key: Key, options: DeleteOptions, *, dry_run: bool = False
    ) -> tuple[Item, bool]:
        """Begin or complete a deletion. Return the object's state and whether the deletion is complete."""
        item = self.get(resource, key)
        metadata = item.document["metadata"]
        self._check_preconditions(resource, item, options)
        if resource.name == NAMESPACES and key[1] in PERMANENT:
            raise forbidden(resource.plural, resource.group, key[1], "this namespace may not be deleted")
        grace = _grace_seconds(resource, item.document, options)
        waits = bool(metadata.get("finalizers")) or grace > 0 or resource.name == NAMESPACES
        deleting = metadata.get("deletionTimestamp") is not None
        if dry_run or (deleting and waits and grace >= metadata.get("deletionGracePeriodSeconds", 0)):
            return item, not waits
        marked = self._marked(item.document, grace)
        if resource.generation and not deleting:
            marked["metadata"]["generation"] = metadata.get("generation", 0) + 1
        if resource.name == NAMESPACES:
            marked["metadata"].pop("deletionGracePeriodSeconds")
            marked["status"] = {**marked["status"], "phase": "Terminating"}
        if not waits:
            return self._remove(resource, key, item.document if resource.name != "pods" else marked), True
        item = self.history.write(resource.name, key, marked)
        if resource.name == NAMESPACES:
            self._empty(key[1])
        return item, False

    def _typed(self, resource: ResourceType, document: Document, *, patched: bool = False) -> Document:
        kind, version = document.get("kind") or "", document.get("apiVersion") or ""
        if resource.custom and not kind:
            text = msgspec.json.encode(document).decode()[:100]
            raise bad_request(
                f"the object provided is unrecognized (must be of type {resource.kind}): "
                f"Object 'Kind' is missing in '{text}'"
            )
        if (kind and kind != resource.kind) or (version and version != resource.api_version):
            raise bad_request(
                f'{kind or resource.kind} in version "{version or resource.api_version}" cannot be handled as a '
                f'{resource.kind}: no kind "{kind}" is registered for version "{version}" at this path'
            )
        field_types.check(resource, document, patched=patched)
        # Metadata is copied too: the caller's document may share it with one that is stored.
        kept = {name: value for name, value in (document.get("metadata") or {}).items() if value is not None}
        kept.pop("managedFields", None)
        rest = {name: value for name, value in document.items() if name not in {"kind", "apiVersion", "metadata"}}
        return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": kept, **rest}

    def _check_identity(
        self, resource: ResourceType, key: Key, old: Document, new: Document, *, conditional: bool
    ) -> None:
        metadata = new["metadata"]
        if metadata.setdefault("name", key[1]) != key[1]:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({key[1]})"
            )
        if metadata.get("namespace", key[0]) != key[0]:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        uid = metadata.get("uid", "")
        if uid and uid != old["metadata"]["uid"]:
            reason = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise conflict(resource.plural, resource.group, key[1], reason)
        version = metadata.get("resourceVersion", "")
        if version and version != old["metadata"]["resourceVersion"]:
            raise modified(resource.plural, resource.group, key[1])
        if conditional and not version and not resource.unconditional_update:
            cause = (
                "FieldValueInvalid",
                "Invalid value: 0: must be specified for an update",
                "metadata.resourceVersion",
            )
            raise invalid(resource.plural, resource.group, key[1], [cause])

    def _check_preconditions(self, resource: ResourceType, item: Item, options: DeleteOptions) -> None:
        metadata = item.document["metadata"]
        for field, given, recorded, change in (
            ("UID", options.uid, metadata["uid"], "deleted and then recreated"),
            ("ResourceVersion", options.resource_version, metadata["resourceVersion"], "modified"),
        ):
            if given and given != recorded:
                reason = (
                    f"the {field} in the precondition ({given}) does not match the {field} in record ({recorded}). "
                    f"The object might have been {change}"
                )
                raise conflict(resource.kind, resource.group, metadata["name"], reason)

    def _admit_into(self, resource: ResourceType, namespace: str, name: str) -> None:
        item = self.history.get(NAMESPACES, ("", namespace))
        if item is None:
            raise not_found(NAMESPACES, "", namespace)
        if item.document["metadata"].get("deletionTimestamp"):
            reason = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(resource.plural, resource.group, name, reason)

    def _admit_pod(self, resource: ResourceType, pod: Document) -> None:
        if resource.name != "pods":
            return
        namespace, account = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        if self.history.get("serviceaccounts", (namespace, account)) is None:
            reason = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise forbidden("pods", "", pod["metadata"]["name"], reason)

    def _created(self, resource: ResourceType, item: Item) -> None:
        if resource.name == NAMESPACES:
            namespace = item.document["metadata"]["name"]
            self.create(self.registry.named("serviceaccounts"), namespace, {"metadata": {"name": "default"}})
            root = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self._root_certificate}}
            self.create(self.registry.named("configmaps"), namespace, root)
        elif resource.name == DEFINITIONS:
            self._serve(item.document)

    def _serve(self, definition: Document) -> None:
        self.registry.remove(definition["metadata"]["name"])
        for kind in defined_kinds(definition):
            self.registry.add(kind)

    def _marked(self, document: Document, grace: int) -> Document:
        moment = self.now() + datetime.timedelta(seconds=grace)
        metadata = document["metadata"] | {
            "deletionTimestamp": format_time(moment),
            "deletionGracePeriodSeconds": grace,
        }
        return document | {"metadata": metadata}

    def _remove(self, resource: ResourceType, key: Key, last: Document) -> Item:
        if resource.name == DEFINITIONS:
            kind = self.registry.find(key[1])
            for gone, _ in self.history.items(key[1]) if kind is not None else ():
                self.history.remove(key[1], gone)
            self.registry.remove(key[1])
        item = self.history.remove(resource.name, key, last)
        if resource.namespaced:
            self._end_namespace(key[0])
        return item

    def _empty(self, namespace: str) -> None:
        for resource in self.registry.all():
            if not resource.namespaced:
                continue
            for key, item in self.history.items(resource.name):
                if key[0] == namespace and not item.document["metadata"].get("deletionTimestamp"):
                    self.delete(resource, key, DeleteOptions())
        self._end_namespace(namespace)

    def _end_namespace(self, namespace: str) -> None:
        item = self.history.get(NAMESPACES, ("", namespace))
        if item is None or not item.document["metadata"].get("deletionTimestamp"):
            return
        for resource in self.registry.all():
            if resource.namespaced and any(key[0] == namespace for key, _ in self.history.items(resource.name)):
                return
        self.history.remove(NAMESPACES, ("", namespace))


def _joined(resource: ResourceType, old: Document, new: Document, subresource: str) -> Document:
    """Return *new* with everything that this path may not change taken from *old*."""
    if subresource == "status":
        joined = old | {"metadata": old["metadata"] if resource.custom else new["metadata"]}
        joined.pop("status", None)
        if "status" in new:
            joined["status"] = new["status"]
    else:
        joined = new
        if resource.has_status and subresource != "binding":
            joined.pop("status", None)
            if "status" in old:
                joined["status"] = old["status"]
    kept = {name: old["metadata"][name] for name in _SYSTEM_METADATA if name in old["metadata"]}
    metadata = {name: value for name, value in joined["metadata"].items() if name not in _SYSTEM_METADATA}
    metadata = {name: value for name, value in metadata.items() if value or name not in {"finalizers", "labels"}}
    return joined | {"metadata": metadata | kept}


def _counted(resource: ResourceType, document: Document) -> Document:
    left_out = {"metadata", "status"} if resource.has_status else {"metadata"}
    return {name: value for name, value in document.items() if name not in left_out}


def _finished(document: Document) -> bool:
    metadata = document["metadata"]
    return (
        metadata.get("deletionTimestamp") is not None
        and not metadata.get("finalizers")
        and metadata.get("deletionGracePeriodSeconds") == 0
    )


def _grace_seconds(resource: ResourceType, document: Document, options: DeleteOptions) -> int:
    """Return the grace period of an object: only pods on a node have one."""
    if resource.name != "pods":
        return 0
    spec, status = document.get("spec") or {}, document.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in {"Failed", "Succeeded"}:
        return 0
    grace = options.grace_seconds
    return max(0, spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace)


def format_time(moment: datetime.datetime) -> str:
    """Return the time in documents' format: seconds, UTC."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
