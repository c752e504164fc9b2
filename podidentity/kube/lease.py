"""Leadership by a coordination.k8s.io/v1 Lease: at most one holder writes, and each knows for how long.

Other holders' clocks are never compared with ours. A lease counts as expired when it has not *changed* for its
duration by our own monotonic clock; our own counts from the moment before its renewal was sent, so we always give up
before anybody else can take over.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import msgspec

from podidentity.kube.client import Client, object_path
from podidentity.kube.errors import ApiError, Conflict, Forbidden, NotFound, ServerError
from podidentity.resources import Kind, Resource, Wire

log = logging.getLogger(__name__)


LOOK_SECONDS: Final = 1.0
"""How often who waits looks at the lease: a leader that stopped in order is followed within two seconds."""
EXPIRY_JITTER_SECONDS: Final = 0.2
"""So that several candidates do not all write in the millisecond in which a lease expires."""


class LeadershipLost(Exception):  # noqa: N818 - named for what happened
    """We held the lease and hold it no longer: end the process, a restarted one is safer than one that is not sure."""


class LeaseSpec(Wire, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Resource, frozen=True):
    spec: LeaseSpec = LeaseSpec()


LEASES: Final = Kind("Lease", "leases", Lease, "coordination.k8s.io")


class Elector:
    """One candidate for one lease.

    *identity* must be this process's own: another process under the same one would count as us. Renewals happen every
    quarter of *duration_seconds*; without a success for half of it the leadership is given up. A single hung call may
    take at most half of that half. *clock* is monotonic seconds, *now* the wall clock written for people to read.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration_seconds
        self._renew_deadline = duration_seconds / 2
        self._retry = duration_seconds / 4
        self._call_seconds = duration_seconds / 4
        self._clock = clock
        self._now = now
        self._random = random
        self._acquired = asyncio.Event()
        self._held_since_renewal = -math.inf
        self._observed: tuple[str, str] | None = None
        self._observed_at = -math.inf
        self._theirs = 0.0
        self._stored: dict[str, Any] | None = None

    async def acquired(self) -> None:
        """Wait until we are the leader; returns at once while we are."""
        await self._acquired.wait()

    def remaining_seconds(self) -> float:
        """How long nobody else can hold the lease, even if no renewal succeeds from now on; 0 for who is not leader."""
        if not self._acquired.is_set():
            return 0.0
        return max(0.0, self._held_since_renewal + self._duration - self._clock())

    async def run(self) -> NoReturn:
        """Become leader however long it takes, stay it. Raises LeadershipLost once that ends; cancel it to stop."""
        try:
            await self._become_leader()
            await self._stay_leader()
        finally:
            self._acquired.clear()

    async def release(self) -> None:
        """Let somebody else take over at once. For after `run` has been cancelled; does nothing if we do not hold it.

        A failure is logged and not raised: the lease then simply expires.
        """
        stored, self._stored = self._stored, None
        self._acquired.clear()
        if stored is None or self._held_since_renewal + self._duration <= self._clock():
            return
        try:
            try:
                await self._give_up(stored)
            except Conflict:  # a renewal that was cut off has taken effect after all, or somebody else holds it
                stored = await self._read()
                if (stored.get("spec") or {}).get("holderIdentity") == self._identity:
                    await self._give_up(stored)
        except ApiError as error:
            log.warning("the leader lease could not be released; it expires by itself", extra={"error": error})

    async def _give_up(self, stored: dict[str, Any]) -> None:
        # One second, as an empty duration is not allowed; an empty holder is free whatever the duration says.
        await self._write(stored, holder="", duration=1, acquire=False)

    async def _become_leader(self) -> None:
        while True:
            try:
                if await self._try_to_take():
                    self._acquired.set()
                    log.info("became leader", extra={"resource": self._path()})
                    return
            except Conflict:
                log.debug("another candidate took the lease first", extra={"resource": self._path()})
            except Forbidden as error:
                log.error("not allowed to use the leader lease; grant it in our Role", extra={"error": error})  # noqa: TRY400 - the answer says all
            except ApiError as error:
                log.warning("the leader lease cannot be read; trying again", extra={"error": error})
            # Look again just after the holder's time is up, else once in a while: a released lease shows only then.
            left = self._observed_at + self._theirs - self._clock()
            pause = min(self._retry, LOOK_SECONDS) * (1 + self._random() / 5)
            await asyncio.sleep(min(pause, left + self._random() * EXPIRY_JITTER_SECONDS) if left > 0 else pause)

    async def _try_to_take(self) -> bool:
        try:
            stored = await self._read()
        except NotFound:
            return await self._create()
        spec = stored.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        renewal = (holder, str(spec.get("renewTime")) + str(stored["metadata"].get("resourceVersion")))
        if renewal != self._observed:
            self._observed, self._observed_at = renewal, self._clock()
        if holder and holder != self._identity:
            theirs = spec.get("leaseDurationSeconds")
            self._theirs = float(theirs) if isinstance(theirs, int) and theirs > 0 else self._duration
            if self._clock() < self._observed_at + self._theirs:
                return False
        await self._renew(stored)
        return True

    async def _create(self) -> bool:
        sent = self._clock()
        document = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec({}, self._identity, self._whole_seconds(), acquire=True),
        }
        self._stored = await self._send("POST", object_path(LEASES, self._namespace), document)
        self._held_since_renewal = sent
        return True

    async def _stay_leader(self) -> NoReturn:
        pause = self._retry
        while True:
            await asyncio.sleep(min(pause, max(0.0, self._deadline() - self._clock())))
            try:
                async with asyncio.timeout(max(0.0, self._deadline() - self._clock())):
                    await self._renew_or_look()
                pause = self._retry
            except TimeoutError as error:
                raise self._lost("no renewal succeeded in time") from error
            except ApiError as error:
                if self._clock() >= self._deadline():
                    raise self._lost("no renewal succeeded in time") from error
                log.warning("the leader lease could not be renewed; trying again", extra={"error": error})
                pause = self._retry / 4

    async def _renew_or_look(self) -> None:
        """Renew; if somebody wrote in between, look who: another holder is the end, anything else is renewed over."""
        try:
            if self._stored is not None:
                await self._renew(self._stored)
                return
        except (Conflict, NotFound):
            self._stored = None
        try:
            stored = await self._read()
        except NotFound as error:
            raise self._lost("somebody deleted it") from error
        holder = (stored.get("spec") or {}).get("holderIdentity")
        if holder != self._identity:
            raise self._lost("somebody else holds it")
        await self._renew(stored)

    async def _renew(self, stored: dict[str, Any]) -> None:
        sent = self._clock()
        changes_hands = (stored.get("spec") or {}).get("holderIdentity") != self._identity
        self._stored = await self._write(stored, self._identity, self._whole_seconds(), acquire=changes_hands)
        self._held_since_renewal = sent

    async def _write(self, stored: dict[str, Any], holder: str, duration: int, *, acquire: bool) -> dict[str, Any]:
        # The whole object goes back, with its resourceVersion: fields of others stay, and a stale one is a Conflict.
        document = {**stored, "spec": self._spec(stored.get("spec") or {}, holder, duration, acquire=acquire)}
        return await self._send("PUT", self._path(), document)

    def _spec(self, spec: dict[str, Any], holder: str, duration: int, *, acquire: bool) -> dict[str, Any]:
        # The API server refuses a time without exactly these six decimals.
        stamp = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        changed = {**spec, "holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": stamp}
        if acquire:
            changed["acquireTime"] = stamp
            changed["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + (1 if spec else 0)
        return changed

    async def _read(self) -> dict[str, Any]:
        return _mapping(await self._client.request("GET", self._path(), timeout_seconds=self._call_seconds))

    async def _send(self, method: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
        body = msgspec.json.encode(document)
        return _mapping(await self._client.request(method, path, body=body, timeout_seconds=self._call_seconds))

    def _path(self) -> str:
        return object_path(LEASES, self._namespace, self._name)

    def _whole_seconds(self) -> int:
        # Others wait what is written, so never less than what we count on.
        return max(1, math.ceil(self._duration))

    def _deadline(self) -> float:
        return self._held_since_renewal + self._renew_deadline

    def _lost(self, how: str) -> LeadershipLost:
        self._acquired.clear()
        self._stored = None
        return LeadershipLost(f"the leader lease {self._namespace}/{self._name} is lost: {how}")


def _mapping(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServerError(502, "Malformed", f"the leader lease cannot be read: {error}") from error
