"""Maintenance of the rules from their installation to their removal: verification, repair and retries."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nmi.node.rules import LockHeldError, RedirectError, RuleDriver, TopRule
from podidentity.exits import StartError

T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
"""After a failed verification: sooner than the next regular one, but rare enough for a lock that is held long."""

_TRIES = 3
"""Attempts to write a rule, since another program may insert its own rule first right after NMI. With more
attempts, the two programs could alternate without end."""

_LONGEST_WAIT_SECONDS = 2.0
"""Between two attempts while another program holds the lock. iptables programs hold it for milliseconds, seconds at
most."""


class RuleMaintenance:
    """The rules of NMI on this node. Its calls of the driver never overlap, regardless of its callers.

    The owner runs maintain() as a task and ends it before remove().
    """

    def __init__(
        self,
        driver: RuleDriver,
        *,
        forget: Callable[[], Awaitable[int]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Store the driver.

        *forget* ends connections that are older than a rule and returns their number; it may raise RedirectError. It is
        called after each installation or repair of a rule.
        """
        self._driver = driver
        self._forget = forget
        self._sleep = sleep
        self._lock = asyncio.Lock()
        self._problems: dict[TopRule, str | None] = {}
        self._unforgotten: str | None = None
        self.repairs = 0
        """How often a rule was found changed and restored since its installation."""
        self.failures = 0
        """How many verifications failed."""
        self.forgotten = 0
        """The number of connections that *forget* has ended."""

    def in_force(self, rule: TopRule) -> bool:
        """Return whether *rule* was in force at its last verification."""
        return self._problems.get(rule, "") is None

    def problem(self) -> str | None:
        """Return why an installed rule is not known to be in force, for the readiness probe; None if all are."""
        for rule, problem in self._problems.items():
            if problem is not None:
                return f"{rule.name}: {problem}"
        return self._unforgotten

    async def install(self, rule: TopRule) -> None:
        """Put *rule* in force, replace an earlier NMI's rule, and maintain it from now on.

        Waits for a held lock without a time limit. A table that cannot be changed now is logged, and maintain()
        retries: a program that fights for a table must not prevent NMI's start. Raises StartError.
        """
        try:
            async with self._lock:
                fault = await self._ensure(rule)
                # After the rule: a pod whose connection ends earlier opens the next one past it.
                await self._end_connections()
        except RedirectError as error:
            self.failures += 1
            log.error(  # noqa: TRY400  the message is complete
                "the rule is not in place yet; check this node's netfilter rules, NMI retries soon",
                extra={"error": f"{rule.name}: {error}"},
            )
            return
        log.info(
            "rule in place",
            extra={"reason": f"{rule.name}: {fault or 'it was there already'}"},
        )

    async def verify(self) -> bool:
        """Verify and repair every installed rule once. Return whether a rule was repaired.

        Waits for a held lock. Raises the error of one rule's verification after verifying the others.
        """
        repaired = False
        failed: Exception | None = None
        async with self._lock:
            for rule in tuple(self._problems):
                try:
                    fault = await self._ensure(rule)
                # A table that cannot be read must not prevent the repair of the other rule.
                except Exception as error:  # noqa: BLE001  raised below
                    failed = failed or error
                    continue
                if fault is not None:
                    repaired = True
                    self.repairs += 1
                    log.warning(
                        "changed rule restored; find the program on this node that rewrites the table",
                        extra={"reason": f"{rule.name}: {fault}", "count": self.repairs},
                    )
            if repaired or self._unforgotten is not None:
                await self._end_connections()
        if failed is not None:
            raise failed
        return repaired

    async def maintain(self, interval_seconds: float, pause: Callable[[float], Awaitable[None]] | None = None) -> None:
        """Verify at every interval until cancelled. A failed verification is logged and retried soon.

        *pause* waits for the given number of seconds, or less if a table has changed; it bounds the rate of
        verifications.
        """
        pause = pause or self._sleep
        while True:
            # A missing rule lets pods reach the node's own identities, so NMI does not wait for the interval.
            await pause(interval_seconds if self.problem() is None else min(interval_seconds, _RETRY_SECONDS))
            try:
                await self.verify()
            except (RedirectError, StartError) as error:
                self.failures += 1
                log.error(  # noqa: TRY400  the message is complete
                    "the rules could not be verified; check this node's netfilter rules, NMI retries soon",
                    extra={"error": self.problem() or str(error)},
                )
            except Exception:
                # Without further verifications pods could finally reach the node's own identities.
                self.failures += 1
                log.exception("verifying the rules failed; report this with its traceback")

    async def find(self, rule: TopRule) -> bool:
        """Return whether any part of *rule* is in its table. Waits for a held lock; raises RedirectError."""
        async with self._lock:
            return not (await self._retry_while_locked(lambda: self._driver.find(rule))).nothing

    async def withdraw(self, rule: TopRule) -> None:
        """Redirect no new connections by *rule*; existing ones continue. Waits for a held lock: set a deadline."""
        async with self._lock:
            if rule in self._problems:
                # Before the write, so that readiness never shows a rule as in force that may be gone.
                self._problems[rule] = "it has been withdrawn"
            await self._retry_while_locked(lambda: self._driver.detach(rule))

    async def remove(self, rule: TopRule) -> None:
        """Remove every trace of *rule* from its table. Waits for a held lock: set a deadline."""
        async with self._lock:
            if rule in self._problems:
                self._problems[rule] = "it has been removed"
            await self._retry_while_locked(lambda: self._driver.clear(rule))
        log.info("rule removed", extra={"reason": rule.name})

    async def _ensure(self, rule: TopRule) -> str | None:
        """Put *rule* in force if it is not. Return the former fault."""
        # From now on verify() maintains the rule, also if its first write fails.
        self._problems.setdefault(rule, "it has not been installed yet")
        try:
            fault = await self._write_unless_there(rule)
        except Exception as error:
            self._problems[rule] = str(error) or type(error).__name__
            raise
        self._problems[rule] = None
        return fault

    async def _write_unless_there(self, rule: TopRule) -> str | None:
        first = fault = await self._fault(rule)
        for _ in range(_TRIES):
            if fault is None:
                return first
            await self._retry_while_locked(lambda: self._driver.put(rule))
            fault = await self._fault(rule)
        if fault is not None:
            raise RedirectError(f"it was written, but then {fault}: another program keeps changing {rule.table}")
        return first

    async def _fault(self, rule: TopRule) -> str | None:
        return (await self._retry_while_locked(lambda: self._driver.find(rule))).fault(rule)

    async def _end_connections(self) -> None:
        """End connections that are older than the rules. A failure is logged and retried, and blocks nothing else."""
        if self._forget is None:
            return
        try:
            count = await self._forget()
        except (RedirectError, StartError) as error:
            self._unforgotten = str(error)
            log.error(  # noqa: TRY400  the message is complete
                "connections from before the rule may bypass NMI; see the error, NMI retries soon",
                extra={"error": str(error)},
            )
            return
        self._unforgotten = None
        self.forgotten += count
        log.info("connections that bypassed NMI ended", extra={"count": count})

    async def _retry_while_locked(self, action: Callable[[], Awaitable[T]]) -> T:
        return await retry_while_locked(action, self._sleep)


async def retry_while_locked(
    action: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> T:
    """Return the result of *action*, retried with growing intervals while another program holds the lock (#249: never
    exit).
    """
    wait, waited = 0.05, 0.0
    while True:
        try:
            return await action()
        except LockHeldError as error:
            if waited == 0 or wait == _LONGEST_WAIT_SECONDS:
                log.warning(
                    "waiting for the xtables lock; if this continues, find the iptables process that holds it",
                    extra={"seconds": round(waited, 2), "error": str(error)},
                )
            await sleep(wait)
            waited += wait
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
