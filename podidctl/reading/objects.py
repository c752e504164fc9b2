"""Reader of the custom resources, and of the pods and nodes that they apply to: one list of each kind."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from mic.startup.object_upgrade import with_current_names
from podidctl.evaluation.similar_texts import meant_as_label
from podidctl.facts.kinds import DATED_PODS, PLACED_NODES, parse_time
from podidctl.facts.model import (
    Facts,
    MeantLabel,
    ObjectReference,
    ReadFailure,
    StoredObjects,
    UncertainFields,
    readable,
)
from podidctl.facts.workloads import OWNERS_MAX, TEMPLATED, Owner, controller
from podidctl.reading.daemons import counts_old_field_names
from podidctl.reading.requests import or_failure
from podidentity.kube.client import Client
from podidentity.kube.decoding import OLD_FIELDS_MAX, Malformed, decode_meta, decode_object, shallow
from podidentity.kube.errors import ApiError, Forbidden, NoResponse, NotFound, Unauthorized, malformed
from podidentity.kube.paths import object_path
from podidentity.old_field_names import old_fields
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    EXCEPTIONS,
    IDENTITIES,
    PODS,
    BareMeta,
    Kind,
    OwnerReference,
    Pod,
    Resource,
    StoredObject,
)

R = TypeVar("R", bound=Resource)
CUSTOM: Final[Mapping[str, Kind[Any]]] = {
    "assigned": ASSIGNED_IDENTITIES,
    "identities": IDENTITIES,
    "bindings": BINDINGS,
    "exceptions": EXCEPTIONS,
}
"""The custom resources by the field of the facts. The assigned identities come first: a new assignment then never seems
to be without a binding."""
Ignored = dict[ObjectReference, tuple[str, ...]]
"""Ignored fields by object."""
UNLABELLED_MAX: Final = 10_000
"""Pods without the label of bindings whose other labels are read."""
LABELS_MAX: Final = 64
"""Labels of each of them that are compared, in the order of their keys."""
KEYS_MAX: Final = 10_000
"""Different keys that are compared: tenants choose them, and a comparison may take 0.1 ms."""
RUNNING: Final = "status.phase!=Succeeded,status.phase!=Failed"
"""Field selector of the pods that have not ended."""
_DOCUMENT: Final = msgspec.json.Decoder(dict[str, Any])


async def list_noting(client: Client, kind: Kind[R], ignored: Ignored, namespace: str = "") -> list[R]:
    """Return the objects, and add their ignored fields to *ignored*. Raises ApiError."""

    def note(meta: BareMeta, fields: tuple[str, ...]) -> None:
        ignored[ObjectReference(kind.plural, meta.namespace, meta.name)] = fields

    return await client.list(kind, namespace, note=note)


async def read_custom_resources(client: Client, facts: Facts) -> Facts:
    """Return the facts with these objects, with the fields that the program counts which decides by them. A kind that
    could not be read is in `unread`. Raises NoResponse.
    """
    counts = await counts_old_field_names(client, facts)
    lists: dict[str, Any] = {}
    uncertain: dict[str, UncertainFields] = {}
    for field, kind in CUSTOM.items():
        its, ignored = counts[kind.plural], Ignored()
        client.old_field_names = its is True
        lists[field] = await or_failure(list_noting(client, kind, ignored))
        if ignored and isinstance(its, ReadFailure):
            uncertain[kind.plural] = UncertainFields(
                tuple(f"{namespace}/{name}" for _, namespace, name in ignored), its.reason
            )
    return replace(with_lists(facts, lists), uncertain=uncertain)


def with_lists(facts: Facts, results: Mapping[str, Sequence[Any] | ReadFailure]) -> Facts:
    """Return the facts with the lists *results*, by field. A failed one is in `unread`."""
    failures = {field: objects for field, objects in results.items() if isinstance(objects, ReadFailure)}
    lists: dict[str, Any] = {field: tuple(readable(objects)) for field, objects in results.items()}
    return replace(facts, unread={**facts.unread, **failures}, **lists)


async def read_all_objects(client: Client, facts: Facts) -> Facts:
    """Return the facts with these objects and their stored form; after a failed read, without any of them. A kind that
    is not installed has no objects; another check reports it. Raises NoResponse.
    """
    counts = await counts_old_field_names(client, facts)
    stored: dict[str, StoredObjects] = {}
    created_at: dict[ObjectReference, datetime] = {}
    lists: dict[str, Sequence[Any] | ReadFailure] = {}
    for field, kind in CUSTOM.items():
        client.old_field_names = counts[kind.plural] is True
        lists[field] = await _read_kind(client, kind, stored, created_at)
    pods = await or_failure(client.list(DATED_PODS, label_selector=BINDING_LABEL))
    nodes = await or_failure(client.list(PLACED_NODES))
    for field, several in (lists := lists | {"pods": pods, "nodes": nodes}).items():
        if isinstance(several, ReadFailure):  # checks of the others would take these objects for absent
            return replace(facts, stored=stored, unread={field: several})
    for pod in readable(pods):
        if (since := pod.since) is not None:
            created_at[ObjectReference(PODS.plural, *pod.key)] = since
    return replace(with_lists(facts, lists), stored=stored, created_at=created_at)


async def read_mislabelled(client: Client, _: Facts) -> dict[str, MeantLabel]:
    """Return the running pods without the label of bindings that have one like it. Raises ApiError.

    Reads at most UNLABELLED_MAX pods, one page in memory at a time, and compares at most KEYS_MAX different keys.
    """
    mislabelled: dict[str, MeantLabel] = {}
    judged: dict[str, bool] = {}
    read = 0

    def is_meant(key: str) -> bool:
        if key not in judged and len(judged) < KEYS_MAX:
            judged[key] = bool(meant_as_label([key]))
        return judged.get(key, False)

    pages = client.pages(PODS, field_selector=RUNNING, label_selector=f"!{BINDING_LABEL}")
    # The loop may end before the last page, and the generator must end with it.
    async with aclosing(pages):
        async for page in pages:
            # A list that begins again, because its token has expired, replaces what was read before.
            if page.first:
                mislabelled, read = {}, 0
            for raw in page.items:
                try:
                    pod = decode_object(PODS, raw)
                except Malformed:
                    continue
                labels = pod.metadata.labels or {}
                if meant := next(filter(is_meant, islice(labels, LABELS_MAX)), None):
                    mislabelled["/".join(pod.key)] = MeantLabel(meant, labels[meant])
            read += len(page.items)
            if read >= UNLABELLED_MAX:
                break
    return mislabelled


async def _read_kind(
    client: Client, kind: Kind[R], stored: dict[str, StoredObjects], created_at: dict[ObjectReference, datetime]
) -> list[R] | ReadFailure:
    items: list[R] = []
    old: list[str] = []
    unreadable: list[str] = []
    try:
        async for page in client.pages(kind):
            if page.first:
                items, old, unreadable = [], [], []
            unreadable += [f"{skipped.meta.namespace}/{skipped.meta.name}" for skipped in page.skipped]
            for raw in page.items:
                try:
                    items.append(decode_object(kind, raw, old_field_names=client.old_field_names))
                except Malformed:
                    meta = decode_meta(raw)
                    unreadable.append(f"{meta.namespace}/{meta.name}")
                    continue
                document = document_of(raw)
                if (since := creation_time(document)) is not None:
                    created_at[ObjectReference(kind.plural, *items[-1].key)] = since
                if with_current_names(kind, document) is not None:
                    fields = ", ".join(islice(old_fields(document, kind.shape), OLD_FIELDS_MAX))
                    old.append("/".join(items[-1].key) + (f" ({fields})" if fields else ""))
    except NotFound:
        return []
    # Each further request would fail in the same way.
    except (NoResponse, Unauthorized):
        raise
    except ApiError as error:
        return ReadFailure(f"{kind.plural}: {error.message}", is_forbidden=isinstance(error, Forbidden))
    stored[kind.plural] = StoredObjects(tuple(old), tuple(unreadable))
    return items


async def get_document(client: Client, kind: Kind[Any], namespace: str, name: str) -> dict[str, Any]:
    """Return one object as stored. Raises ApiError, also for a response that is no object with metadata."""
    response = await client.request("GET", object_path(kind, namespace, name))
    try:
        document = document_of(response)
        # Only a check: the caller needs the whole document, with the fields that no class here has.
        msgspec.convert(document, StoredObject)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(kind.plural, error) from error
    return document


def document_of(raw: msgspec.Raw | bytes) -> dict[str, Any]:
    """Return the object as stored. Content that is nested too deep is omitted."""
    try:
        return _DOCUMENT.decode(raw)
    except RecursionError:
        return _DOCUMENT.decode(shallow(bytes(raw)))


def creation_time(document: Mapping[str, Any]) -> datetime | None:
    """Return the creation time of an object, or None."""
    metadata = document.get("metadata")
    return parse_time(str(metadata.get("creationTimestamp"))) if isinstance(metadata, dict) else None


async def read_owner(client: Client, pod: Pod) -> Owner | None:
    """Return the workload at the top of the pod's owners, as the Deployment of its ReplicaSet. None if it has none of a
    built-in kind, or if it could not be read. Raises NoResponse.
    """
    owner: Owner | None = None
    item: Resource = pod
    kinds = {(kind.api_version, kind.name): kind for kind in TEMPLATED}
    for _ in range(OWNERS_MAX):
        reference = controller(item) or OwnerReference()
        kind = kinds.get((reference.api_version, reference.kind))
        if kind is None:
            break
        # Lists, as of workloads by name, need no further permission.
        named = client.list(kind, pod.metadata.namespace, field_selector=f"metadata.name={reference.name}")
        owners = [its for its in readable(await or_failure(named)) if its.metadata.uid == reference.uid]
        if not owners:  # or another one of this name, which anyone with permission to create a pod can refer to
            break
        item = owners[0]
        owner = Owner(kind, owners[0])
    return owner
