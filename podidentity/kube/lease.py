"""Leadership: at most one candidate writes, and each knows for how long. Our lock is a coordination.k8s.io/v1 Lease.

The reference's is an annotation on an Endpoints object of the same name. Where there is one, both are held, Endpoints
first, so that neither of ours nor of the reference's ever writes beside another.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Conflict, Forbidden
from podidentity.kube.lock_records import InAnnotation, InLease
from podidentity.kube.locks import LOOK_SECONDS, Lock
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

EXPIRY_JITTER_SECONDS: Final = 0.2
"""So that several candidates do not all write in the millisecond in which a lock expires."""
REFERENCE_SECONDS: Final = 15.0
"""After so long without a change the reference takes its lock, whatever duration the holder has written there."""


class Elector:
    """One candidate for leadership: the Lease *namespace*/*name*, and with *beside_reference* the Endpoints of that
    name, for as long as there are any.

    *identity* must be this process's own: another process under the same one would count as us. Renewals happen every
    quarter of *duration_seconds*; without a success for half of it the leadership is given up. *clock* is monotonic
    seconds, *now* the wall clock written for people to read. *log_limit* bounds the lines about a lock that cannot be
    taken because requests fail.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_seconds: float = 15.0,
        beside_reference: bool = False,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = random.random,
    ) -> None:
        lease = Lock(
            client,
            InLease(),
            namespace,
            name,
            identity,
            duration_seconds=duration_seconds,
            optional=False,
            clock=clock,
            now=now,
        )
        endpoints = Lock(
            client,
            InAnnotation(),
            namespace,
            name,
            identity,
            duration_seconds=min(duration_seconds, REFERENCE_SECONDS),
            optional=True,
            clock=clock,
            now=now,
        )
        # In the order in which they are taken: whoever holds the Lease holds the other one too.
        self._locks = [endpoints, lease] if beside_reference else [lease]
        self._retry = duration_seconds / 4
        self._random = random
        self._log_limit = log_limit or LogLimit(clock=clock)
        self._acquired = asyncio.Event()
        self._told_waiting = ("", "")

    async def acquired(self) -> None:
        """Wait until we are the leader; returns at once while we are."""
        await self._acquired.wait()

    def remaining_seconds(self) -> float:
        """How long nobody else can lead, even if no renewal succeeds from now on; 0 for who is not leader."""
        if not self._acquired.is_set():
            return 0.0
        return min(lock.remaining_seconds() for lock in self._locks)

    async def run(self) -> NoReturn:
        """Become leader however long it takes, stay it. Raises LeadershipLost once that ends; cancel it to stop."""
        try:
            await self._become_leader()
            await self._stay_leader()
        finally:
            self._acquired.clear()

    async def release(self) -> None:
        """Let somebody else lead at once. For when `run` and all that relied on it have ended; never raises ApiError.

        All locks at once: nothing is written any more, so their order does not matter, and one that hangs keeps back
        no other.
        """
        self._acquired.clear()
        await asyncio.gather(*(lock.release() for lock in self._locks))

    async def _become_leader(self) -> None:
        while True:
            lock = self._locks[0]
            try:
                for lock in self._locks:
                    if not await lock.try_take():
                        self._tell_waiting(lock)
                        break
                else:
                    self._acquired.set()
                    log.info(
                        "became leader", extra={"resource": ", ".join(lock.title for lock in self._locks if lock.held)}
                    )
                    return
            except Conflict:
                log.debug("another candidate took the lock first", extra={"resource": lock.title})
            except ApiError as error:
                self._tell_failed(lock, error)
            # Look again just after the holder's time is up, else once in a while: a released lock shows only then.
            left = lock.expires_in()
            pause = min(self._retry, LOOK_SECONDS) * (1 + self._random() / 5)
            await asyncio.sleep(min(pause, left + self._random() * EXPIRY_JITTER_SECONDS) if left > 0 else pause)

    def _tell_failed(self, lock: Lock, error: ApiError) -> None:
        """Log it, at most once a minute: it is tried again every second for as long as it fails."""
        if not self._log_limit.allows():
            return
        about = {"resource": lock.title, "error": error}
        if isinstance(error, Forbidden):
            log.error("not allowed to use the leader lock; grant get, create and update of it in our Role", extra=about)
        else:
            log.warning("the leader lock cannot be read; trying again", extra=about)

    def _tell_waiting(self, lock: Lock) -> None:
        if self._told_waiting != (lock.title, lock.holder):
            self._told_waiting = (lock.title, lock.holder)
            log.info("another one leads; waiting", extra={"resource": lock.title, "reason": f"held by {lock.holder}"})

    async def _stay_leader(self) -> NoReturn:
        try:
            async with asyncio.TaskGroup() as tasks:
                for lock in self._locks:
                    tasks.create_task(lock.keep(), name=f"keep {lock.title}")
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        raise AssertionError("a lock is kept until it is lost")
