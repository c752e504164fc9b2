"""Keeping the rules in force from their installation to their removal: looking, repairing, trying again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nmi.node.rules import IptablesDriver, LockHeldError, RedirectError, TopRule
from podidentity.exits import StartError

T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
"""After a verification that failed: sooner than the next regular one, seldom enough for a lock that is held long."""

_TRIES = 3
"""Of writing a rule, since another program may put its own first right after us; more would be a fight."""

_LONGEST_WAIT_SECONDS = 2.0
"""Between two tries while somebody holds the lock. iptables programs hold it for milliseconds, seconds at most."""


class RuleMaintenance:
    """The rules of ours on this node. Its own calls of the driver never overlap, whoever makes them.

    The owner runs maintain() as a task and ends it before remove().
    """

    def __init__(
        self,
        driver: IptablesDriver,
        *,
        forget: Callable[[], Awaitable[int]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """*forget* ends connections that a rule came too late for, and says how many; it may raise RedirectError.

        It is called each time after a rule was installed or repaired.
        """
        self._driver = driver
        self._forget = forget
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._problems: dict[TopRule, str | None] = {}
        self._unforgotten: str | None = None
        self.repairs = 0
        """How often a rule was found changed and put back since its installation."""
        self.failures = 0
        """How many verifications failed."""
        self.forgotten = 0
        """Connections that were ended by *forget*."""

    def in_force(self, rule: TopRule) -> bool:
        """Whether *rule* was in force when it was last looked at."""
        return self._problems.get(rule, "") is None

    def problem(self) -> str | None:
        """Why what was installed is not known to be in force, for the readiness probe; None when it is."""
        for rule, problem in self._problems.items():
            if problem is not None:
                return f"{rule.name}: {problem}"
        return self._unforgotten

    async def install(self, rule: TopRule) -> None:
        """Put *rule* in force, replacing what an earlier NMI left, and keep it from now on.

        Waits for a held lock as long as it takes. A table that cannot be changed for now is told, and maintain() tries
        again: no program that fights for a table may keep NMI from starting. Raises StartError.
        """
        try:
            async with self._turn:
                fault = await self._ensure(rule)
                await self._end_connections()
        except RedirectError as error:
            self.failures += 1
            log.error(  # noqa: TRY400  the sentence says it all
                "the rule is not in place yet; look at this node's iptables, it is tried again soon",
                extra={"error": f"{rule.name}: {error}"},
            )
            return
        log.info(
            "the rule is in place; reason says how it was found",
            extra={"reason": f"{rule.name}: {fault or 'it was there already'}"},
        )

    async def verify(self) -> bool:
        """Look once at all that was installed and repair; whether there was anything to repair.

        Waits for a held lock. Raises what one rule's verification raises, after having seen to the others.
        """
        repaired = False
        failed: Exception | None = None
        async with self._turn:
            for rule in tuple(self._problems):
                try:
                    fault = await self._ensure(rule)
                except Exception as error:  # noqa: BLE001  raised below
                    failed = failed or error
                    continue
                if fault is not None:
                    repaired = True
                    self.repairs += 1
                    log.warning(
                        "somebody changed a rule of ours and it was put back; find out which program on this node "
                        "rewrites that table",
                        extra={"reason": f"{rule.name}: {fault}", "count": self.repairs},
                    )
            if repaired or self._unforgotten is not None:
                await self._end_connections()
        if failed is not None:
            raise failed
        return repaired

    async def maintain(self, interval_seconds: float, pause: Callable[[float], Awaitable[None]] | None = None) -> None:
        """Verify at every interval, for ever. A verification that fails is logged and tried again soon.

        *pause* waits for so many seconds, or less when somebody has changed a table; it bounds how often we look.
        """
        pause = pause or self._sleep
        while True:
            await pause(interval_seconds if self.problem() is None else min(interval_seconds, _RETRY_SECONDS))
            try:
                await self.verify()
            except (RedirectError, StartError) as error:
                self.failures += 1
                log.error(  # noqa: TRY400  the sentence says it all
                    "the rules could not be verified; look at this node's iptables, it is tried again soon",
                    extra={"error": self.problem() or str(error)},
                )
            except Exception:
                # A program that stopped looking would in the end leave pods with the node's own identities.
                self.failures += 1
                log.exception("verifying the rules failed; report this with its traceback")

    async def find(self, rule: TopRule) -> bool:
        """Whether anything of *rule* is in its table. Waits for a held lock; raises RedirectError."""
        async with self._turn:
            return not (await self._retry_while_locked(lambda: self._driver.find(rule))).nothing

    async def withdraw(self, rule: TopRule) -> None:
        """Lead nobody new by *rule*; what it leads already goes on. Waits for a held lock: bound it by a deadline."""
        async with self._turn:
            if rule in self._problems:
                self._problems[rule] = "it has been withdrawn"
            await self._retry_while_locked(lambda: self._driver.detach(rule))

    async def remove(self, rule: TopRule) -> None:
        """Leave its table as if *rule* had never been there. Waits for a held lock: bound it by a deadline."""
        async with self._turn:
            if rule in self._problems:
                self._problems[rule] = "it has been removed"
            await self._retry_while_locked(lambda: self._driver.clear(rule))
        log.info("the rule is removed", extra={"reason": rule.name})

    async def _ensure(self, rule: TopRule) -> str | None:
        """Put *rule* in force if it is not; what was wrong before."""
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
        """End those that are older than the rules. A failure keeps nothing else up: it is told, and tried again."""
        if self._forget is None:
            return
        try:
            count = await self._forget()
        except (RedirectError, StartError) as error:
            self._unforgotten = str(error)
            log.error(  # noqa: TRY400  the sentence says it all
                "connections from before the rule may bypass NMI; see the error, it is tried again soon",
                extra={"error": str(error)},
            )
            return
        self._unforgotten = None
        self.forgotten += count
        log.info("forgot connections that bypassed NMI", extra={"count": count})

    async def _retry_while_locked(self, act: Callable[[], Awaitable[T]]) -> T:
        return await retry_while_locked(act, self._sleep)


async def retry_while_locked(
    act: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> T:
    """What *act* gives, tried again, ever more slowly, as long as somebody holds the lock (#249: never exit)."""
    wait, waited = 0.05, 0.0
    while True:
        try:
            return await act()
        except LockHeldError as error:
            if waited == 0 or wait == _LONGEST_WAIT_SECONDS:
                log.warning(
                    "waiting for the xtables lock; if this goes on, find the iptables process that holds it",
                    extra={"seconds": round(waited, 2), "error": str(error)},
                )
            await sleep(wait)
            waited += wait
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
