"""JSON patches that change objects, record their former state, and undo the change. Pure.

Every patch has its preconditions as `test` operations: the object's uid and resourceVersion, and the spec as it was
read. A rollback does not revert what was changed since.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from mic.startup.object_upgrade import with_current_names
from podidentity.resources import IDENTITIES, IdentityType

FORMER_ANNOTATION: Final = "aadpodidentity.k8s.io/migrated-from"
"""Annotation of an AzureIdentity: the former spec, and the tenant that was set."""
PUT_ANNOTATION: Final = "aadpodidentity.k8s.io/workload-identity"
"""Annotation of service accounts and workloads: the identity, the written values, and the former ones."""
ANNOTATIONS: Final = ("metadata", "annotations")
"""The path of an object's annotations."""

Document = dict[str, Any]
Operations = list[Document]


class UnpatchableError(Exception):
    """The object must not be changed now; the text states the reason and the next action."""


def switch_patch(document: Document, tenant: str) -> Operations:
    """Return the patch that sets the AzureIdentity to type 3. Raises UnpatchableError."""
    spec = _spec(document)
    if with_current_names(IDENTITIES, document) is not None:
        raise UnpatchableError(
            "it has field spellings from before v1.6.0: run MIC, which rewrites them, then run this command again"
        )
    if _type(spec) != IdentityType.USER_ASSIGNED:
        raise UnpatchableError("it is not of type 0 any more: run podidctl migrate plan again")
    after = {**spec, "type": int(IdentityType.FEDERATED), "tenantID": tenant}
    note = json.dumps({"spec": spec, "tenantID": tenant}, sort_keys=True)
    return [*_tests(document), *_replace_spec(spec, after), *_annotate(document, {FORMER_ANNOTATION: note})]


def rollback_patch(document: Document) -> tuple[Operations, tuple[str, ...]]:
    """Return the patch that restores the former state, and the fields that were changed since the switch: they keep
    their current value. Raises UnpatchableError if the record is missing or invalid.
    """
    if FORMER_ANNOTATION not in _annotations(document):
        raise UnpatchableError("it has no record of its former state")
    spec, record = _spec(document), _switch_record(document)
    former = record.spec
    if _type(spec) not in {IdentityType.USER_ASSIGNED, IdentityType.FEDERATED}:
        raise UnpatchableError(
            f"it was set to type {_type(spec)!r} since: remove annotation {FORMER_ANNOTATION} manually"
        )
    made = {**former, "type": int(IdentityType.FEDERATED), "tenantID": record.tenant}
    after, kept = dict(spec), []
    for name in sorted({*former, *made, *spec}):
        is_unchanged = name not in spec or spec[name] == made.get(name)
        if name == "type" or is_unchanged:  # with another type than 0 nothing would be rolled back
            after.pop(name, None)
            if name in former:
                after[name] = former[name]
        elif spec[name] != former.get(name):
            kept.append(name)
    operations = [*_tests(document), *_replace_spec(spec, after), *_annotate(document, {}, (FORMER_ANNOTATION,))]
    return operations, tuple(kept)


class _SwitchRecord(msgspec.Struct):
    """The content of FORMER_ANNOTATION: the former spec, and the tenant that was set."""

    spec: Document
    tenant: str = msgspec.field(name="tenantID")


def _switch_record(document: Document) -> _SwitchRecord:
    try:
        record = msgspec.json.decode(_annotations(document).get(FORMER_ANNOTATION, ""), type=_SwitchRecord)
    except (ValueError, RecursionError):
        record = None
    if record is None or _type(record.spec) != IdentityType.USER_ASSIGNED:
        raise UnpatchableError(
            f"its annotation {FORMER_ANNOTATION} does not contain its former state: restore spec.type manually"
        )
    return record


def put_patch(document: Document, identity: str, path: tuple[str, ...], values: Mapping[str, str]) -> Operations:
    """Return the patch that writes *values* to the map at *path* and records them. Former values in an earlier record
    are kept.
    """
    existing, noted = _map_at(document, path), _put_record(document) or _PutRecord("", {}, {})
    # A value that an earlier run has written is not a former one.
    others = {name: existing[name] for name in values if name in existing and existing[name] != noted.put.get(name)}
    written_in_all, before = {**noted.put, **values}, {**others, **noted.before}
    note = json.dumps({"identity": identity, "before": before, "put": written_in_all}, sort_keys=True)
    # One change of the annotations: a second one would create a missing map again, without the first entries.
    written = [] if path == ANNOTATIONS else _set_map(document, path, values)
    return [
        *_tests(document),
        *written,
        *_annotate(document, {**(values if path == ANNOTATIONS else {}), PUT_ANNOTATION: note}),
    ]


def removal_patch(document: Document, path: tuple[str, ...]) -> Operations:
    """Return the patch that undoes `put_patch` for values that are unchanged. Raises UnpatchableError if the record is
    missing.
    """
    noted = _put_record(document)
    if noted is None:
        raise UnpatchableError(
            f"its annotation {PUT_ANNOTATION} does not contain the written values: remove it manually"
        )
    existing = _map_at(document, path)
    ours = [name for name, value in noted.put.items() if existing.get(name) == value]
    restored = {name: noted.before[name] for name in ours if name in noted.before}
    gone = [name for name in ours if name not in noted.before]
    if path == ANNOTATIONS:
        return [*_tests(document), *_annotate(document, restored, (*gone, PUT_ANNOTATION))]
    return [
        *_tests(document),
        *_set_map(document, path, restored, gone),
        *_annotate(document, {}, (PUT_ANNOTATION,)),
    ]


def recorded_identity(annotations: Mapping[str, Any]) -> str:
    """Return the AzureIdentity in the record of `put_patch`; empty if there is none."""
    noted = _put_record({"metadata": {"annotations": dict(annotations)}})
    return noted.identity if noted else ""


class _PutRecord(msgspec.Struct):
    """The content of PUT_ANNOTATION."""

    identity: str
    put: dict[str, str]
    before: dict[str, str]


def _put_record(document: Document) -> _PutRecord | None:
    try:
        return msgspec.json.decode(_annotations(document).get(PUT_ANNOTATION, ""), type=_PutRecord)
    except (ValueError, RecursionError):
        return None


def _spec(document: Document) -> Document:
    spec = document.get("spec")
    if not isinstance(spec, dict):
        raise UnpatchableError("it has no spec: correct or delete it")
    return spec


def _type(spec: Document) -> Any:
    return spec.get("type", int(IdentityType.USER_ASSIGNED))


def _annotations(document: Document) -> Document:
    return _map_at(document, ANNOTATIONS)


def _map_at(document: Document, path: Iterable[str]) -> Document:
    value: Any = document
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _tests(document: Document) -> Operations:
    meta = document["metadata"]
    return [{"op": "test", "path": f"/metadata/{name}", "value": meta.get(name)} for name in ("uid", "resourceVersion")]


def _replace_spec(before: Document, after: Document) -> Operations:
    return [{"op": "test", "path": "/spec", "value": before}, {"op": "replace", "path": "/spec", "value": after}]


def _annotate(document: Document, values: Mapping[str, str], gone: Iterable[str] = ()) -> Operations:
    return _set_map(document, ANNOTATIONS, values, gone)


def _set_map(
    document: Document, path: tuple[str, ...], values: Mapping[str, str], gone: Iterable[str] = ()
) -> Operations:
    """Set and remove entries of the map at *path*, which is created if missing."""
    where, existing = _pointer(path), _map_at(document, path)
    made = [] if existing or not values else [{"op": "add", "path": where, "value": {}}]
    sets = [{"op": "add", "path": f"{where}{_pointer((name,))}", "value": value} for name, value in values.items()]
    removes = [{"op": "remove", "path": f"{where}{_pointer((name,))}"} for name in gone if name in existing]
    return [*made, *sets, *removes]


def _pointer(path: Iterable[str]) -> str:
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)
