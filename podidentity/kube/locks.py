"""One leader lock on the API server, from one candidate's side: acquire, renew, release.

Clocks of other machines are never compared with this one's. A lock counts as expired when it has not *changed* for its
duration by this process's monotonic clock. The own lock's duration starts before its renewal is sent, so this process
always gives up before another candidate can take over.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Final, NoReturn

import msgspec

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Conflict, Forbidden, LeadershipLost, NotFound, ServerError
from podidentity.kube.lock_records import Document, LockFormat
from podidentity.kube.paths import object_path
from podidentity.resources import StoredObject

log = logging.getLogger(__name__)

READ_SECONDS: Final = 1.0
"""Interval of reads of a lock that another candidate holds or that does not exist: a leader that stopped in order is
followed within two seconds, and one that creates the lock is noticed within one.
"""


class Lock:
    """One lock in one object in one format. Methods raise the API server's errors unless stated otherwise.

    *identity* must be unique to this process: another process with the same one would count as this one. The lock is
    renewed every quarter of *duration_seconds*; without a successful renewal for half of it, the lock is given up. A
    renewal that hangs, for example on a half-open connection, leaves time for another one. An *optional* lock is never
    created: if its object does not exist or cannot be read, it counts as taken and is read again regularly. It is given
    up when these reads fail for the whole duration.
    """

    def __init__(
        self,
        client: Client,
        form: LockFormat,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration_seconds: float,
        optional: bool,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self.title = f"{form.kind.name} {namespace}/{name}"
        self._client = client
        self._form = form
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration_seconds
        self._retry = duration_seconds / 4
        # After a quarter of the duration plus this time, some time must remain until the half.
        self._call_seconds = max(duration_seconds / 6, min(1.0, duration_seconds / 4))
        self._optional = optional
        self._clock = clock
        self._now = now
        self._known_since = -math.inf
        self._absent = False
        self._logged_unreadable = False
        self._observed: tuple[str, str] | None = None
        self._observed_at = -math.inf
        self._theirs = 0.0
        self.holder = ""
        """Holder at the last `try_take`, for log messages."""
        self._stored: Document | None = None

    @property
    def held(self) -> bool:
        """Whether the lock's object names this process. False for an optional lock without an object, although it
        counts as taken.
        """
        return self._stored is not None

    def remaining_seconds(self) -> float:
        """Return how long no other candidate can hold it without a further renewal; 0 if it is not held, infinite for
        an optional one that does not exist.
        """
        if self._absent:
            return math.inf
        return max(0.0, self._known_since + self._duration - self._clock())

    def expires_in(self) -> float:
        """Return seconds until the last seen holder has not renewed for its duration; negative after that."""
        return self._observed_at + self._theirs - self._clock()

    async def try_take(self) -> bool:
        """Take the lock if it is free, expired or already held. Return whether it is held now."""
        sent = self._clock()
        try:
            stored = await self._read()
        except NotFound:
            if not self._optional:
                await self._create()
            else:
                self._mark_absent(sent)
            return True
        except Forbidden as error:
            if not self._optional:
                raise
            self._mark_unreadable(sent, error)
            return True
        self._absent = False
        record = self._form.read(stored)
        self.holder = record.holder
        # With the version: client-go writes whole seconds into annotations, so two renewals may have the same text.
        renewal = (record.holder, record.renewed + str(stored["metadata"].get("resourceVersion")))
        if renewal != self._observed:
            self._observed, self._observed_at = renewal, self._clock()
        if record.holder and record.holder != self._identity:
            self._theirs = record.duration_seconds or self._duration
            if self._clock() < self._observed_at + self._theirs:
                self._stored, self._known_since = None, -math.inf
                return False
        await self._renew(stored)
        return True

    async def keep(self) -> NoReturn:
        """Renew the lock until renewals fail for too long or another candidate holds it: raises LeadershipLost."""
        pause = self._pause()
        while True:
            await asyncio.sleep(min(pause, max(0.0, self._deadline() - self._clock())))
            try:
                async with asyncio.timeout(max(0.0, self._deadline() - self._clock())):
                    await self._renew_or_read()
                pause = self._pause()
            except TimeoutError as error:
                raise self._lost("no renewal succeeded in time") from error
            except ApiError as error:
                if self._clock() >= self._deadline():
                    raise self._lost("no renewal succeeded in time") from error
                log.warning(
                    "a leader lock could not be renewed; trying again", extra={"resource": self.title, "error": error}
                )
                # Short, because only a quarter of the duration is left until the deadline.
                pause = self._retry / 16

    async def release(self) -> None:
        """Release the lock for other candidates. No effect if it is not held. Must not run concurrently with `keep`.

        A failure is logged and not raised: the lock then expires.
        """
        stored, self._stored = self._stored, None
        # After its expiry another candidate may hold it.
        if stored is None or self._known_since + self._duration <= self._clock():
            return
        try:
            try:
                await self._give_up(stored)
            except Conflict:  # an interrupted renewal took effect, or another candidate holds it
                stored = await self._read()
                if self._form.read(stored).holder == self._identity:
                    await self._give_up(stored)
        except ApiError as error:
            about = {"resource": self.title, "error": error}
            log.warning("a leader lock could not be released; it expires after its duration", extra=about)

    async def _give_up(self, stored: Document) -> None:
        # One second, because an empty duration is not allowed; with an empty holder the lock is free whatever the
        # duration.
        await self._write("PUT", stored, holder="", seconds=1, acquire=False)

    async def _create(self) -> None:
        kind, sent = self._form.kind, self._clock()
        document = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
        }
        self._stored = await self._write("POST", document, self._identity, self._whole_seconds(), acquire=True)
        self._known_since = sent

    async def _renew_or_read(self) -> None:
        """Renew. After a write of another client read the holder: another holder ends the lock, other changes are
        overwritten.
        """
        try:
            if self._stored is not None:
                await self._renew(self._stored)
                return
        except (Conflict, NotFound):
            self._stored = None
        sent = self._clock()
        try:
            stored = await self._read()
        except NotFound as error:
            if not self._optional:
                raise self._lost("the object was deleted") from error
            self._mark_absent(sent)
            return
        except Forbidden as error:
            if not self._absent:  # a lock that this process holds would no longer be renewed as an absent one
                raise
            self._mark_unreadable(sent, error)
            return
        holder = self._form.read(stored).holder
        if holder != self._identity and not (self._absent and not holder):
            raise self._lost(
                f"another candidate holds it: {holder[:80]!r}" if holder else ("another client removed the holder")
            )
        await self._renew(stored)

    async def _renew(self, stored: Document) -> None:
        sent = self._clock()
        changes_hands = self._form.read(stored).holder != self._identity
        self._stored = await self._write("PUT", stored, self._identity, self._whole_seconds(), acquire=changes_hands)
        self._known_since = sent
        if self._absent:
            self._absent = False
            log.info("the lock of the Go implementation appeared and is held now", extra={"resource": self.title})

    async def _write(self, method: str, document: Document, holder: str, seconds: int, *, acquire: bool) -> Document:
        # The whole object is written with its resourceVersion: other fields are preserved, and a stale version is a
        # Conflict.
        changed = self._form.written(document, self._form.read(document), holder, seconds, self._now(), acquire=acquire)
        path = object_path(self._form.kind, self._namespace, self._name if method == "PUT" else "")
        body = msgspec.json.encode(changed)
        return self._mapping(await self._client.request(method, path, body=body, timeout_seconds=self._call_seconds))

    async def _read(self) -> Document:
        path = object_path(self._form.kind, self._namespace, self._name)
        return self._mapping(await self._client.request("GET", path, timeout_seconds=self._call_seconds))

    def _mapping(self, body: bytes) -> Document:
        try:
            document = msgspec.json.decode(body, type=Document)
            msgspec.convert(document, StoredObject)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerError(502, "Malformed", f"{self.title} cannot be read: {error}") from error
        return document

    def _mark_absent(self, sent: float) -> None:
        self._absent, self._stored, self._known_since = True, None, sent

    def _mark_unreadable(self, sent: float, error: Forbidden) -> None:
        """Without permission to read, the lock cannot be respected. Clusters that never ran the Go implementation need
        no permission.
        """
        self._mark_absent(sent)
        if not self._logged_unreadable:
            self._logged_unreadable = True
            log.error(
                "not allowed to read the lock of the Go implementation's MIC, continuing without it; check that no "
                "such MIC runs, or grant get and update of this object in the Role",
                extra={"resource": self.title, "error": error},
            )

    def _pause(self) -> float:
        return min(self._retry, READ_SECONDS) if self._absent else self._retry

    def _whole_seconds(self) -> int:
        # Other candidates wait for the written duration, so it is never less than the one used here.
        return max(1, math.ceil(self._duration))

    def _deadline(self) -> float:
        # Without a lock object no other candidate waits for this process; only the age of the last read matters.
        return self._known_since + (self._duration if self._absent else self._duration / 2)

    def _lost(self, how: str) -> LeadershipLost:
        # `remaining_seconds` is 0 from here on, so nothing is written while the program ends.
        self._stored, self._absent, self._known_since = None, False, -math.inf
        return LeadershipLost(f"the leader lock ({self.title}) is lost: {how}")
