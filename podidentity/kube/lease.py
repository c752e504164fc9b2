"""Leader election: at most one candidate writes, and each knows for how long. The lock is a coordination.k8s.io/v1
Lease.

The Go implementation's lock is an annotation on an Endpoints object of the same name. If that object exists, both locks
are held, Endpoints first, so that the two implementations never write at the same time.
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
from podidentity.kube.lock_records import AnnotationFormat, LeaseFormat
from podidentity.kube.locks import READ_SECONDS, Lock
from podidentity.telemetry.log_limit import LogLimit

log = logging.getLogger(__name__)

EXPIRY_JITTER_SECONDS: Final = 0.2
"""Jitter, so that several candidates do not write in the millisecond in which a lock expires."""
REFERENCE_SECONDS: Final = 15.0
"""The Go implementation takes a lock that has not changed for this time, whatever duration its holder wrote."""


class Elector:
    """One candidate for leadership: the Lease *namespace*/*name*; *with_go_implementation* adds the Endpoints of that
    name if they exist.

    *identity* must be unique to this process: another process with the same one would count as this one. The lock is
    renewed every quarter of *duration_seconds*; without a successful renewal for half of it, leadership is given up.
    *clock* returns monotonic seconds, *now* the wall clock's time for the lock's record. *log_limit* limits the lines
    about a lock that cannot be taken because requests fail.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_seconds: float = 15.0,
        with_go_implementation: bool = False,
        log_limit: LogLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = random.random,
    ) -> None:
        lease = Lock(
            client,
            LeaseFormat(),
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
            AnnotationFormat(),
            namespace,
            name,
            identity,
            duration_seconds=min(duration_seconds, REFERENCE_SECONDS),
            optional=True,
            clock=clock,
            now=now,
        )
        # In the order of acquisition: the holder of the Lease holds the other lock, too.
        self._locks = [endpoints, lease] if with_go_implementation else [lease]
        self._retry = duration_seconds / 4
        self._random = random
        self._log_limit = log_limit or LogLimit(clock=clock)
        self._acquired = asyncio.Event()
        self._logged_waiting = ("", "")

    async def acquired(self) -> None:
        """Wait until this process is the leader; returns immediately if it is."""
        await self._acquired.wait()

    def remaining_seconds(self) -> float:
        """Return how long no other candidate can lead, even without a further renewal; 0 if this process does not
        lead.
        """
        if not self._acquired.is_set():
            return 0.0
        return min(lock.remaining_seconds() for lock in self._locks)

    async def run(self) -> NoReturn:
        """Acquire leadership, without a time limit, and keep it. Raises LeadershipLost when it ends; cancel it to
        stop.
        """
        try:
            await self._become_leader()
            await self._stay_leader()
        finally:
            self._acquired.clear()

    async def release(self) -> None:
        """Release leadership. Call it after `run` and all work that requires leadership have ended. Never raises
        ApiError.

        All locks are released concurrently: nothing is written any more, so their order does not matter, and one that
        hangs does not delay the others.
        """
        self._acquired.clear()
        await asyncio.gather(*(lock.release() for lock in self._locks))

    async def _become_leader(self) -> None:
        while True:
            lock = self._locks[0]
            try:
                for lock in self._locks:
                    if not await lock.try_take():
                        self._log_waiting(lock)
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
                self._log_failure(lock, error)
            # Read again just after the lock expires, and regularly before, because a released lock becomes visible only
            # then.
            left = lock.expires_in()
            pause = min(self._retry, READ_SECONDS) * (1 + self._random() / 5)
            await asyncio.sleep(min(pause, left + self._random() * EXPIRY_JITTER_SECONDS) if left > 0 else pause)

    def _log_failure(self, lock: Lock, error: ApiError) -> None:
        """Log the failure at most once a minute; it is retried every second."""
        if not self._log_limit.allows():
            return
        about = {"resource": lock.title, "error": error}
        if isinstance(error, Forbidden):
            log.error("not allowed to use the leader lock; grant get, create and update of it in the Role", extra=about)
        else:
            log.warning("the leader lock cannot be read; trying again", extra=about)

    def _log_waiting(self, lock: Lock) -> None:
        if self._logged_waiting != (lock.title, lock.holder):
            self._logged_waiting = (lock.title, lock.holder)
            log.info(
                ("another candidate leads; waiting"), extra={"resource": lock.title, "reason": f"held by {lock.holder}"}
            )

    async def _stay_leader(self) -> NoReturn:
        try:
            async with asyncio.TaskGroup() as tasks:
                for lock in self._locks:
                    tasks.create_task(lock.keep(), name=f"keep {lock.title}")
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        raise AssertionError("a lock is kept until it is lost")
