"""Type upgrade: rewrites objects that have field names from before v1.6.0 with the current ones, once.

NMI, admission policies and the Go implementation know only the current names. MIC also reads the old field names
until the upgrade is recorded, so that it revokes nothing because of an object that could not be rewritten yet.

A ConfigMap records that the upgrade is done. Any value of its key counts, including one of the Go implementation, which
wrote its own version after the same work. MIC then lists no objects, and ignores old field names. docs/migration.md
describes how to repeat the upgrade.

The upgrade never prevents MIC from assigning identities. MIC retries a request that fails temporarily. It reports an
object that cannot be rewritten by name, in the log and as an Event, and continues with the others. In that case it
records nothing, so that the next start tries the remaining objects again. If MIC cannot read the record, it lists and
writes nothing, because the upgrade may be done.

It needs the permissions of the Go implementation: list and update on the four kinds; get, create and update on
ConfigMaps in MIC's own namespace.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from mic.decisions.documents import Document
from mic.startup.object_upgrade import KINDS, kinds_that_drop_old_names, with_current_names
from podidentity.kube.backoff import Backoff
from podidentity.kube.client import Client
from podidentity.kube.decoding import WHOLE_MAX, decode_meta, outline
from podidentity.kube.errors import ApiError, Conflict, Forbidden, NoResponse, NotFound, ServerError, TooManyRequests
from podidentity.kube.events import EventRecorder
from podidentity.kube.paths import object_path
from podidentity.old_field_names import fold
from podidentity.resources import (
    GROUP,
    BareMeta,
    Kind,
    Resource,
)
from podidentity.version import VERSION

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFIG_MAPS: Final = Kind("ConfigMap", "configmaps", Resource)

TRIES: Final = 5
"""Attempts of a request that fails temporarily, with pauses from 1 to 8 s, and of a write with conflicts."""
LIMIT_SECONDS: Final = 600.0
"""Limit after which MIC continues without the upgrade; the next start resumes it, because rewritten objects stay so."""
REWRITTEN_MAX: Final = 256 * 1024
"""Bytes of an object that is rewritten; decoding a larger one would block the event loop for too long."""
NAMED_MAX: Final = 20
"""Objects of one kind that the log names; the rest is counted."""
REASON: Final = "type upgrade failed"

_PASSING: Final = (NoResponse, ServerError, TooManyRequests)
_DOCUMENT: Final = msgspec.json.Decoder(Document)


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


class UpgradeRecord:
    """The record in the ConfigMap that the upgrade is done."""

    def __init__(self, client: Client, namespace: str, name: str, key: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._key = key

    @property
    def location(self) -> str:
        """Return its location for messages."""
        return f"key {self._key} of ConfigMap {self._namespace}/{self._name}"

    async def read(self) -> str | None:
        """Return the recorded version, None if there is none. Raise ApiError."""
        return _noted(await self._stored()).get(self._key)

    async def write(self, version: str) -> None:
        """Record *version* unless something is recorded; other keys of the ConfigMap are kept. Raise ApiError.

        After a conflict MIC reads the ConfigMap again, so that another client's change is not lost.
        """
        for left in reversed(range(TRIES)):
            stored = await self._stored()
            if self._key in _noted(stored):
                return
            data = {**_noted(stored), self._key: version}
            try:
                if stored is None:
                    document = {"metadata": {"name": self._name}, "data": data}
                    await self._client.create(CONFIG_MAPS, self._namespace, document)
                else:
                    await self._client.replace(CONFIG_MAPS, self._namespace, self._name, {**stored, "data": data})
            except Conflict:
                if not left:
                    raise
            else:
                return

    async def _stored(self) -> Document | None:
        try:
            response = await self._client.request("GET", object_path(CONFIG_MAPS, self._namespace, self._name))
        except NotFound:
            return None
        try:
            document = _DOCUMENT.decode(response)
            msgspec.convert(document, _ConfigMap)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(502, "Malformed", f"the response for {self.location} cannot be read: {error}") from error
        return document


def _noted(config_map: Document | None) -> dict[str, str]:
    return (config_map or {}).get("data") or {}


class TypeUpgrade:
    """The upgrade. The leader awaits `run` once, before anything else."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        record: UpgradeRecord,
        *,
        in_flight: int,
        limit_seconds: float = LIMIT_SECONDS,
        pauses: Callable[[], Backoff] = lambda: Backoff(random.random, most_seconds=8.0),
    ) -> None:
        """*client* refuses to write once another process leads. At most *in_flight* objects are written
        concurrently."""
        self._client = client
        self._recorder = recorder
        self._record = record
        self._slots = asyncio.Semaphore(in_flight)
        self._limit_seconds = limit_seconds
        self._pauses = pauses

    async def run(self) -> bool:
        """Rewrite the remaining objects, unless the upgrade is recorded as done. Return whether it is done.

        Failures are logged, never raised.
        """
        try:
            async with asyncio.timeout(self._limit_seconds):
                return await self._run()
        except TimeoutError:
            log.warning(
                "the type upgrade takes too long and is deferred to the next start; check the API server",
                extra={"seconds": self._limit_seconds},
            )
        except Exception:
            log.exception(
                "the type upgrade failed unexpectedly and is deferred to the next start; report this as a bug"
            )
        return False

    async def is_recorded(self) -> bool | None:
        """Return whether the upgrade is recorded as done; None, with a log line, if this cannot be read."""
        try:
            recorded = await self._retried(self._record.read)
        except ApiError as error:
            log.warning(
                "whether the type upgrade is done cannot be read, so MIC upgrades nothing and reads old field names; "
                "grant MIC's role get, create and update on ConfigMaps in its namespace, and restart MIC",
                extra={"resource": self._record.location, "error": error},
            )
            return None
        if recorded is not None:
            log.debug("the type upgrade is done", extra={"resource": self._record.location, "version": recorded})
        return recorded is not None

    async def _run(self) -> bool:
        recorded = await self.is_recorded()
        if recorded is not False:
            return recorded is True
        dropped = await self._dropped()
        if dropped:
            log.info(
                "the installed CustomResourceDefinitions drop fields in the spellings from before v1.6.0, so there is "
                "nothing of these kinds to upgrade; should storage still hold such fields, apply ours (deploy/crds) "
                "and repeat the upgrade (docs/migration.md#repeat-the-type-upgrade)",
                extra={"resource": ", ".join(kind.plural for kind in dropped), "path": self._record.location},
            )
        complete = True
        for kind in KINDS:
            if kind not in dropped:
                complete = await self._upgrade(kind) and complete
        if not complete:
            log.warning(
                "the type upgrade is incomplete; remove the causes above and restart MIC, which then continues it; "
                "until then MIC reads old field names, and NMI does so only with --read-old-field-names",
                extra={"resource": self._record.location},
            )
            return False
        try:
            await self._retried(lambda: self._record.write(VERSION))
        except ApiError as error:
            log.warning(
                "the type upgrade is done but cannot be recorded, so each start looks at every object, and reads old "
                "field names if one cannot be rewritten; grant MIC's role create and update on ConfigMaps there",
                extra={"resource": self._record.location, "error": error},
            )
        else:
            log.info(
                "the type upgrade is done and recorded", extra={"resource": self._record.location, "version": VERSION}
            )
        return True

    async def _dropped(self) -> list[Kind[Any]]:
        """Return the kinds whose old field names the API server drops. Every client may read a group's description."""
        try:
            return kinds_that_drop_old_names(await self._client.request("GET", f"/openapi/v3/apis/{GROUP}/v1"))
        except ApiError as error:
            log.debug("cannot determine which fields the API server keeps", extra={"error": error})
            return []

    async def _upgrade(self, kind: Kind[Any]) -> bool:
        """Rewrite the objects of *kind*. Return whether none has an old field name any more."""
        work = _Work(self._client, kind, self._slots)
        try:
            await self._retried(work.once)
        except NotFound:
            return True  # the kind is not served, so there are no objects of it
        except Forbidden as error:
            log.warning(
                "objects with old field names cannot be looked for; grant MIC's role list and update on them",
                extra={"resource": kind.plural, "error": error},
            )
        except ApiError as error:
            log.warning(
                "the API server keeps failing, so objects remain with old field names; check the API server",
                extra={"resource": kind.plural, "error": error},
            )
        for number, (meta, reason) in enumerate(work.failed.values()):
            if number < NAMED_MAX:
                log.warning(
                    "an object with an old field name cannot be rewritten; correct it, or see what MIC's role and "
                    "admission rules allow (helm upgrade, or deploy/manifests/type-upgrade.yaml, grants update)",
                    extra={"resource": f"{kind.name} {meta.namespace}/{meta.name}", "reason": reason},
                )
            message = f"The fields of this object are spelled as before v1.6.0 and cannot be rewritten: {reason}"
            self._recorder.record(Resource(metadata=meta), kind, "Warning", REASON, message)
        if work.rewritten or work.failed:
            log.info(
                "objects with old field names",
                extra={
                    "resource": kind.plural,
                    "outcome": f"{work.rewritten} rewritten, {len(work.failed)} left",
                    "count": work.seen,
                },
            )
        return work.complete

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return *call*'s result. Raise ApiError if it fails permanently, or temporarily TRIES times."""
        pauses = self._pauses()
        for left in reversed(range(TRIES)):
            try:
                return await call()
            except _PASSING as error:
                if not left:
                    raise
                await asyncio.sleep(max(pauses.next(), error.retry_after or 0.0))
        raise AssertionError("not reached")


class _Work:
    """All objects of one kind."""

    def __init__(self, client: Client, kind: Kind[Any], slots: asyncio.Semaphore) -> None:
        self._client = client
        self._kind = kind
        self._slots = slots
        self.seen = 0
        self.rewritten = 0
        self.failed: dict[tuple[str, str], tuple[BareMeta, str]] = {}
        """Objects that the last pass could not rewrite, and why."""
        self.complete = False
        """Every object has been read, and none remains."""

    async def once(self) -> None:
        """Process every object, page by page. An object that an earlier pass has rewritten costs only its listing.

        Raise ApiError if the list fails, the API server is unreachable, or objects failed temporarily: a webhook that
        is down, for example, fails every write that it must admit.
        """
        self.complete = False
        passing: list[ApiError] = []
        async for page in self._client.pages(self._kind):
            if page.first:
                self.seen = 0
                # The list may begin again, and then every object comes again.
                self.failed.clear()
                passing.clear()
            self.seen += len(page.items) + len(page.skipped)
            for skipped in page.skipped:
                self._fail(skipped.meta, str(skipped.error))
            async with asyncio.TaskGroup() as tasks:
                for raw in page.items:
                    await asyncio.sleep(0)  # decoding a large object blocks the loop for long enough
                    if (document := self._to_do(raw)) is None:
                        continue
                    work = self._upgrade(decode_meta(raw), document, passing, cut=page.cut)
                    if len(memoryview(raw)) > WHOLE_MAX:
                        await work  # one by one: a decoded object is many times as large
                    else:
                        tasks.create_task(work, name=f"upgrade {self._kind.name}")
            # Two pages must not be in memory together.
            del page
            if unreachable := [error for error in passing if isinstance(error, NoResponse)]:
                raise unreachable[0]
        if passing:
            raise passing[0]
        self.complete = not self.failed

    def _to_do(self, raw: msgspec.Raw) -> Document | None:
        """Return the stored object if it must be rewritten."""
        size = len(memoryview(raw))
        try:
            if size > WHOLE_MAX and not self._is_old(raw):
                return None
            if size > REWRITTEN_MAX:
                self._fail(decode_meta(raw), f"it has {size} bytes, and the limit is {REWRITTEN_MAX}")
                return None
            document = _DOCUMENT.decode(raw)
            return document if with_current_names(self._kind, document) is not None else None
        except Exception as error:  # noqa: BLE001 - any failure concerns only this object
            self._fail(decode_meta(raw), f"it cannot be read ({type(error).__name__}: {error})")
            return None

    def _is_old(self, raw: msgspec.Raw) -> bool:
        named = outline(self._kind, raw)
        return fold(named, self._kind.shape) != named

    async def _upgrade(self, meta: BareMeta, document: Document, passing: list[ApiError], *, cut: bool) -> None:
        if not meta.name:
            self._fail(meta, "its metadata cannot be read")
            return
        async with self._slots:
            if any(isinstance(error, NoResponse) for error in passing):
                return  # each waiting object would fail in the same way
            try:
                # A cut page lacks the deepest levels of its objects, which a write would delete.
                await self._rewrite(meta, document if not cut else await self._stored(meta))
            except ApiError as error:
                if isinstance(error, _PASSING):
                    passing.append(error)
                self._fail(meta, str(error))
            except RecursionError:  # also raised by encoding, which needs more stack than decoding
                self._fail(meta, "something in it is nested too deep")
            except Exception as error:  # noqa: BLE001 - as in `_to_do`
                self._fail(meta, f"unexpected {type(error).__name__}")

    async def _rewrite(self, meta: BareMeta, document: Document | None) -> None:
        """Write *document* with the current field names; after a conflict, the newer version."""
        for left in reversed(range(TRIES)):
            present = with_current_names(self._kind, document) if document is not None else None
            if present is None:
                return
            try:
                # PUT, which the Go implementation's role allows, with the resourceVersion that was read.
                await self._client.replace(self._kind, meta.namespace, meta.name, present)
            except NotFound:
                return
            except Conflict:
                if not left:
                    raise
                document = await self._stored(meta)
            else:
                self.rewritten += 1
                return

    async def _stored(self, meta: BareMeta) -> Document | None:
        """Return the current object, None if it is deleted. MIC lists it, because the Go implementation's role has no
        get for every kind. Raise RecursionError rather than return a part of it."""
        document: Document | None = None
        async for page in self._client.pages(self._kind, meta.namespace, field_selector=f"metadata.name={meta.name}"):
            if page.cut or page.skipped:
                raise RecursionError
            document = next((_DOCUMENT.decode(raw) for raw in page.items), None)
        return document

    def _fail(self, meta: BareMeta, reason: str) -> None:
        self.failed[meta.namespace, meta.name] = (meta, reason)
