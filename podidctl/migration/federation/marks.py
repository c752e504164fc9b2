"""What is written into objects, and how it is found and taken off again: JSON patches out of documents. Pure.

Every patch holds what it rests on as `test` operations: the object's uid and resourceVersion, and the spec as it was
read. Nothing is taken off that somebody else has changed since.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mic.startup.spellings import respelled
from podidentity.resources import IDENTITIES, IdentityType

FORMER: Final = "aadpodidentity.k8s.io/migrated-from"
"""On an AzureIdentity: the spec as it was, and the tenant that it was given."""
PUT: Final = "aadpodidentity.k8s.io/workload-identity"
"""On service accounts and workloads: which identity it was for, what was written, and what stood there before."""

Document = dict[str, Any]
Operations = list[Document]


class UnfitError(Exception):
    """The object is not one that may be changed now; the text says why and what to do."""


@dataclass(frozen=True)
class Back:
    """The way back of one AzureIdentity."""

    operations: Operations
    kept: tuple[str, ...]
    """Fields that somebody else has changed since: they stay as they are now."""


def switched(document: Document, tenant: str) -> Operations:
    """Make the AzureIdentity one of type 3. Raises UnfitError."""
    spec = _spec(document)
    if respelled(IDENTITIES, document) is not None:
        raise UnfitError("its fields are spelled as before v1.6.0: run MIC, which rewrites them, then run this again")
    if _type(spec) != IdentityType.USER_ASSIGNED:
        raise UnfitError("it is not of type 0 any more: run podidctl migrate plan again")
    after = {**spec, "type": int(IdentityType.FEDERATED), "tenantID": tenant}
    note = json.dumps({"spec": spec, "tenantID": tenant}, sort_keys=True)
    return [*_resting_on(document), *_replaced(spec, after), *_noted(document, {FORMER: note}, ())]


def back(document: Document) -> Back:
    """Make it what it was. Raises UnfitError where nothing says what that is."""
    spec, former, tenant = _spec(document), *_former(document)
    if _type(spec) not in {IdentityType.USER_ASSIGNED, IdentityType.FEDERATED}:
        raise UnfitError(f"somebody has made it type {_type(spec)!r} since: take annotation {FORMER} off by hand")
    made = {**former, "type": int(IdentityType.FEDERATED), "tenantID": tenant}
    after, kept = dict(spec), []
    for name in sorted({*former, *made, *spec}):
        untouched = name not in spec or spec[name] == made.get(name)
        if name == "type" or untouched:
            after.pop(name, None)
            if name in former:
                after[name] = former[name]
        elif spec[name] != former.get(name):
            kept.append(name)
    operations = [*_resting_on(document), *_replaced(spec, after), *_noted(document, {}, (FORMER,))]
    return Back(operations, tuple(kept))


def is_marked(document: Document) -> bool:
    """Whether a way back is noted on the AzureIdentity."""
    return FORMER in _annotations(document)


def _former(document: Document) -> tuple[Document, str]:
    try:
        noted = json.loads(_annotations(document)[FORMER])
        spec, tenant = noted["spec"], noted["tenantID"]
    except (KeyError, TypeError, ValueError, RecursionError):
        spec, tenant = None, ""
    if not isinstance(spec, dict) or not isinstance(tenant, str) or _type(spec) != IdentityType.USER_ASSIGNED:
        raise UnfitError(f"its annotation {FORMER} does not say what it was: set spec.type back by hand")
    return spec, tenant


def put(document: Document, identity: str, path: tuple[str, ...], values: Mapping[str, str]) -> Operations:
    """Write *values* into the map at *path*, and note it. What an earlier note says was there before, it still says."""
    standing, noted = _at(document, path), _put(document) or _Put("", {}, {})
    others = {name: standing[name] for name in values if name in standing and standing[name] != noted.put.get(name)}
    written_in_all, before = {**noted.put, **values}, {**others, **noted.before}
    note = json.dumps({"identity": identity, "before": before, "put": written_in_all}, sort_keys=True)
    written = [] if path == _ANNOTATIONS else _written(document, path, values, ())
    return [
        *_resting_on(document),
        *written,
        *_noted(document, {**(values if path == _ANNOTATIONS else {}), PUT: note}, ()),
    ]


def taken_off(document: Document, path: tuple[str, ...]) -> Operations:
    """Undo `put`: as far as what was written still stands there. Raises UnfitError where nothing says what that is."""
    noted = _put(document)
    if noted is None:
        raise UnfitError(f"its annotation {PUT} does not say what was written: take it off by hand")
    standing = _at(document, path)
    ours = [name for name, value in noted.put.items() if standing.get(name) == value]
    restored = {name: noted.before[name] for name in ours if name in noted.before}
    gone = [name for name in ours if name not in noted.before]
    if path == _ANNOTATIONS:
        return [*_resting_on(document), *_noted(document, restored, (*gone, PUT))]
    return [*_resting_on(document), *_written(document, path, restored, gone), *_noted(document, {}, (PUT,))]


def put_for(annotations: Mapping[str, Any]) -> str:
    """Which AzureIdentity `put` was called for; empty where it was not."""
    noted = _put({"metadata": {"annotations": dict(annotations)}})
    return noted.identity if noted else ""


@dataclass(frozen=True)
class _Put:
    identity: str
    put: dict[str, str]
    before: dict[str, str]


def _put(document: Document) -> _Put | None:
    try:
        noted = json.loads(_annotations(document)[PUT])
        found = _Put(str(noted["identity"]), dict(noted["put"]), dict(noted["before"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    texts = [*found.put.items(), *found.before.items()]
    return found if all(isinstance(each, str) for pair in texts for each in pair) else None


_ANNOTATIONS: Final = ("metadata", "annotations")


def _spec(document: Document) -> Document:
    spec = document.get("spec")
    if not isinstance(spec, dict):
        raise UnfitError("it has no spec: correct or delete it")
    return spec


def _type(spec: Document) -> Any:
    return spec.get("type", int(IdentityType.USER_ASSIGNED))


def _annotations(document: Document) -> Document:
    return _at(document, _ANNOTATIONS)


def _at(document: Document, path: Iterable[str]) -> Document:
    found: Any = document
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _resting_on(document: Document) -> Operations:
    meta = document["metadata"]
    return [{"op": "test", "path": f"/metadata/{name}", "value": meta[name]} for name in ("uid", "resourceVersion")]


def _replaced(before: Document, after: Document) -> Operations:
    return [{"op": "test", "path": "/spec", "value": before}, {"op": "replace", "path": "/spec", "value": after}]


def _noted(document: Document, values: Mapping[str, str], gone: Iterable[str]) -> Operations:
    return _written(document, _ANNOTATIONS, values, gone)


def _written(document: Document, path: tuple[str, ...], values: Mapping[str, str], gone: Iterable[str]) -> Operations:
    """Set and remove names of the map at *path*, which is made where it is not there."""
    where, standing = _pointer(path), _at(document, path)
    made = [] if standing or not values else [{"op": "add", "path": where, "value": {}}]
    sets = [{"op": "add", "path": f"{where}{_pointer((name,))}", "value": value} for name, value in values.items()]
    removes = [{"op": "remove", "path": f"{where}{_pointer((name,))}"} for name in gone if name in standing]
    return [*made, *sets, *removes]


def _pointer(path: Iterable[str]) -> str:
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)
