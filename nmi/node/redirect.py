"""The rule that leads a pod's requests for IMDS to NMI: what it is, whether it is there, and keeping it there.

Here it is data, and a loop that compares what a driver finds with it. How a nat table is read and written is for the
drivers (`nmi.node.legacy`, `nmi.node.nft`); which of them belongs to this node is for `nmi.node.backend`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from podidentity.exits import StartError

T = TypeVar("T")

log = logging.getLogger(__name__)

CHAIN = "aad-metadata"
"""As the reference names it: so an NMI that takes over a node replaces the reference's chain and adds no second one."""

JUMP = f"-j {CHAIN}"
"""The rule in PREROUTING, without its chain."""

_RETRY_SECONDS = 5.0
"""After a verification that failed: sooner than the next regular one, seldom enough for a lock that is held long."""

_TRIES = 3
"""Of writing the rule, since another program may put its own first right after us; more would be a fight."""

_LONGEST_WAIT_SECONDS = 2.0
"""Between two tries while somebody holds the lock. iptables programs hold it for milliseconds, seconds at most."""


class RedirectError(Exception):
    """The nat table could not be read or changed this time. Trying again may help; the text says what to look at."""


class LockHeldError(RedirectError):
    """Another program is writing: it holds the xtables lock, or wrote at the same moment without taking it."""


@dataclass(frozen=True, slots=True)
class RedirectRule:
    """From where to where. Addresses are dotted IPv4: IMDS knows no other."""

    metadata_ip: str
    metadata_port: int
    target_ip: str
    target_port: int

    @property
    def rules(self) -> tuple[str, str]:
        """The rules of the chain in order, in iptables-save's words without "-A" and the chain's name.

        The node's own processes on loopback are left alone, NMI's first of all: it asks the real IMDS.
        """
        to_target = f"-j DNAT --to-destination {self.target_ip}:{self.target_port}"
        return (
            f"! -s 127.0.0.1/32 -d {self.metadata_ip}/32 -p tcp -m tcp --dport {self.metadata_port} {to_target}",
            "-j RETURN",
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What a nat table holds of ours, in iptables-save's words, normalised."""

    rules: tuple[str, ...] | None
    """The rules of the chain; None when there is no such chain."""
    jumps: tuple[tuple[int, str], ...]
    """Each rule of PREROUTING that leads to the chain, with its position from 1."""

    @property
    def nothing(self) -> bool:
        return self.rules is None and not self.jumps

    def fault(self, rule: RedirectRule) -> str | None:
        """What keeps *rule* from being in force exactly once and before everything else; None when nothing does."""
        if self.rules is None:
            return "the chain is missing"
        if self.rules != rule.rules:
            return "the chain holds other rules"
        if not self.jumps:
            return "the jump is missing"
        if len(self.jumps) > 1:
            return "the jump is there more than once"
        position, text = self.jumps[0]
        if text != JUMP:
            return "the jump has conditions"
        return None if position == 1 else "other rules come before the jump"


class Driver(Protocol):
    """One way to a nat table. Each call is one consistent look or one atomic change.

    Each raises LockHeldError while somebody else writes, another RedirectError when it failed for now, and
    podidentity.exits.StartError when nothing but a change outside of NMI will help.
    """

    async def find(self) -> Found:
        """What is there. Changes nothing."""

    async def put(self, rule: RedirectRule) -> None:
        """Make *rule* what is there, exactly once, first in PREROUTING; other rules keep order and counters."""

    async def clear(self) -> None:
        """Remove the chain and everything that leads to it; nothing to remove is fine."""


class Redirect:
    """The rule on this node, from install() to remove(). Its own calls never overlap, whoever makes them.

    The owner runs maintain() as a task and ends it before remove().
    """

    def __init__(
        self, rule: RedirectRule, driver: Driver, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._rule = rule
        self._driver = driver
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._problem: str | None = "it has not been installed yet"
        self.repairs = 0
        """How often the rule was found changed and put back since install()."""

    def present(self) -> bool:
        """Whether the rule was in force when it was last looked at."""
        return self._problem is None

    def problem(self) -> str | None:
        """Why the rule is not known to be in force, for the readiness probe; None when it is."""
        return None if self._problem is None else f"the redirect of {self._rule.metadata_ip}: {self._problem}"

    async def install(self) -> None:
        """Put the rule in force, replacing what an earlier NMI left. Waits for a held lock as long as it takes.

        Raises StartError, or RedirectError when the table cannot be changed.
        """
        fault = await self._ensure()
        log.info(
            "the redirect is in place; reason says how it was found", extra={"reason": fault or "it was there already"}
        )

    async def verify(self) -> bool:
        """Look once and repair; whether there was anything to repair. Waits for a held lock; raises RedirectError."""
        fault = await self._ensure()
        if fault is None:
            return False
        self.repairs += 1
        log.warning(
            "somebody changed the redirect and it was put back; find out which program on this node rewrites nat",
            extra={"reason": fault, "count": self.repairs},
        )
        return True

    async def maintain(self, interval_seconds: float) -> None:
        """Verify at every interval, for ever. A verification that fails is logged and tried again soon."""
        wait = interval_seconds
        while True:
            await self._sleep(wait)
            wait = interval_seconds
            try:
                await self.verify()
            except (RedirectError, StartError) as error:
                self._problem = str(error)
                wait = min(interval_seconds, _RETRY_SECONDS)
                log.error(  # noqa: TRY400  the sentence says it all
                    "the redirect could not be verified; look at this node's iptables, it is tried again soon",
                    extra={"seconds": wait, "error": self._problem},
                )
            except Exception as error:
                # A program that stopped looking would in the end leave pods with the node's own identities.
                self._problem = type(error).__name__
                wait = min(interval_seconds, _RETRY_SECONDS)
                log.exception("verifying the redirect failed; report this with its traceback", extra={"seconds": wait})

    async def remove(self) -> None:
        """Leave the nat table as if NMI had never run. Waits for a held lock: bound it by a deadline."""
        async with self._turn:
            self._problem = "it has been removed"
            await self._patiently(self._driver.clear)
        log.info("redirect removed")

    async def _ensure(self) -> str | None:
        """Put the rule in force if it is not; what was wrong before."""
        async with self._turn:
            first = fault = await self._fault()
            for _ in range(_TRIES):
                if fault is None:
                    break
                await self._patiently(lambda: self._driver.put(self._rule))
                fault = await self._fault()
            self._problem = fault
            if fault is not None:
                raise RedirectError(f"the rule was written, but then {fault}: another program keeps changing nat")
            return first

    async def _fault(self) -> str | None:
        return (await self._patiently(self._driver.find)).fault(self._rule)

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
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
                await self._sleep(wait)
                waited += wait
                wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
