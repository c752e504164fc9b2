"""The nat table of a node whose iptables is a face of nftables: through the iptables-nft programs, never native rules.

A change is one `iptables-nft-restore --noflush`, which the kernel takes as one transaction: there is no moment without
the rule, and if somebody else changed what it builds on, it fails as a whole and is made anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nmi.node.commands import Finished, ProgramTimeoutError, run
from nmi.node.redirect import CHAIN, JUMP, Found, RedirectError, RedirectRule
from nmi.node.tables import all_rules, chains_in, leads_to, normal, rules_of
from podidentity.exits import StartError

_TRIES = 4
"""Of one change, each from a fresh look. A writer as busy as kube-proxy is in the way for a few milliseconds."""

NOT_PERMITTED = (
    "iptables may not be changed here: give NMI the capability NET_ADMIN and run it as root on the host's network, or "
    "start it with --redirect=none if pods reach it some other way"
)


@dataclass(frozen=True, slots=True)
class NftPrograms:
    """Paths of the three programs, all of the nf_tables variant."""

    iptables: str
    save: str
    restore: str


class NftDriver:
    """`redirect.Driver` for the nft backend."""

    def __init__(self, programs: NftPrograms, *, seconds: float = 30.0) -> None:
        """*seconds* bounds each program; nodes with ten thousand services need some for theirs."""
        self._programs = programs
        self._seconds = seconds

    async def find(self) -> Found:
        # Two chains are asked for by name, since a whole nat table may hold ten thousand rules of kube-proxy's. For a
        # chain that is not there iptables-nft 1.8.9 says that it is "incompatible": so failing is read as "not there",
        # and what is worse shows in the first command or in the change that follows.
        before = await self._ask(self._programs.iptables, "-t", "nat", "-S", "PREROUTING")
        ours = await self._run(self._programs.iptables, "-t", "nat", "-S", CHAIN)
        return Found(
            rules=tuple(map(normal, rules_of(ours.stdout, CHAIN))) if ours.code == 0 else None,
            jumps=tuple(
                (position, normal(rule))
                for position, rule in enumerate(rules_of(before, "PREROUTING"), start=1)
                if leads_to(rule, CHAIN)
            ),
        )

    async def put(self, rule: RedirectRule) -> None:
        async def script() -> str:
            return put_script(await self._ask(self._programs.iptables, "-t", "nat", "-S", "PREROUTING"), rule)

        await self._change(script)

    async def clear(self) -> None:
        async def script() -> str:
            return clear_script(await self._ask(self._programs.save, "-t", "nat"))

        await self._change(script)

    async def _change(self, make: Callable[[], Awaitable[str]]) -> None:
        """Hand what *make* makes from a fresh look to the restore program, until it takes it."""
        failed = ""
        for attempt in range(_TRIES):
            await asyncio.sleep(0.1 * attempt)
            script = await make()
            if not script:
                return
            done = await self._run(self._programs.restore, "--noflush", "-w", given=script)
            if done.code == 0:
                return
            failed = done.complaint
        raise RedirectError(f"nat was not changed: {failed}; look at the output of iptables-nft -t nat -S")

    async def _ask(self, *words: str) -> str:
        done = await self._run(*words)
        if done.code != 0:
            raise RedirectError(f"nat could not be read: {done.complaint}; try {' '.join(words)} on this node")
        return done.stdout

    async def _run(self, *words: str, given: str = "") -> Finished:
        try:
            done = await run(words, given=given, seconds=self._seconds)
        except ProgramTimeoutError as error:
            raise RedirectError(f"{error}; find out what keeps it from ending") from error
        if done.not_permitted:
            raise StartError(f"{NOT_PERMITTED} ({done.complaint})")
        return done


def put_script(before: str, rule: RedirectRule) -> str:
    """What iptables-restore --noflush must be given to put *rule* in force, when *before* is what PREROUTING holds.

    Declaring a chain creates it or empties it.
    """
    old = [f"-D PREROUTING {jump}" for jump in rules_of(before, "PREROUTING") if leads_to(jump, CHAIN)]
    new = [f"-A {CHAIN} {one}" for one in rule.rules]
    return _script(f":{CHAIN} - [0:0]", *old, *new, f"-I PREROUTING 1 {JUMP}")


def clear_script(saved: str) -> str:
    """What iptables-restore --noflush must be given to remove the chain, when *saved* is nat; "" if it is not there."""
    if CHAIN not in chains_in(saved):
        return ""
    jumps = [f"-D {chain} {one}" for chain, one in all_rules(saved) if chain != CHAIN and leads_to(one, CHAIN)]
    return _script(f":{CHAIN} - [0:0]", *jumps, f"-X {CHAIN}")


def _script(*lines: str) -> str:
    return "\n".join(("*nat", *lines, "COMMIT", ""))
