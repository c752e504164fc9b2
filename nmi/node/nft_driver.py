"""The tables of a node whose iptables is a face of nftables: through the iptables-nft programs, never native rules.

A change is one `iptables-nft-restore --noflush`, which the kernel takes as one transaction: there is no moment without
the rule, and if somebody else changed what it builds on, it fails as a whole and is made anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nmi.node.commands import Finished, ProgramTimeoutError, run
from nmi.node.rule_text import all_rules, chains_in, normalized, rules_of
from nmi.node.rules import FoundRules, RedirectError, TopRule
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
    """`rules.Driver` for the nft backend."""

    def __init__(self, programs: NftPrograms, *, seconds: float = 30.0) -> None:
        """*seconds* bounds each program; nodes with ten thousand services need some for theirs."""
        self._programs = programs
        self._seconds = seconds

    async def find(self, rule: TopRule) -> FoundRules:
        # Chains are asked for by name, since a whole nat table may hold ten thousand rules of kube-proxy's. For a
        # chain that is not there iptables-nft 1.8.9 says that it is "incompatible": so failing is read as "not there",
        # and what is worse shows in the first command or in the change that follows.
        hook = await self._listed(rule)
        rules = None
        if rule.chain:
            ours = await self._run(self._programs.iptables, "-t", rule.table, "-S", rule.chain)
            rules = tuple(map(normalized, rules_of(ours.stdout, rule.chain))) if ours.code == 0 else None
        return FoundRules(
            tops=tuple(
                (position, normalized(one))
                for position, one in enumerate(rules_of(hook, rule.hook), start=1)
                if rule.is_ours(one)
            ),
            rules=rules,
        )

    async def put(self, rule: TopRule) -> None:
        async def script() -> str:
            return put_script(await self._listed(rule), rule)

        await self._change(script, rule.table)

    async def detach(self, rule: TopRule) -> None:
        async def script() -> str:
            jumps = _jumps(await self._ask(self._programs.save, "-t", rule.table), rule)
            return _script(rule.table, *jumps) if jumps else ""

        await self._change(script, rule.table)

    async def clear(self, rule: TopRule) -> None:
        async def script() -> str:
            return clear_script(await self._ask(self._programs.save, "-t", rule.table), rule)

        await self._change(script, rule.table)

    async def _listed(self, rule: TopRule) -> str:
        return await self._ask(self._programs.iptables, "-t", rule.table, "-S", rule.hook)

    async def _change(self, make: Callable[[], Awaitable[str]], table: str) -> None:
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
        raise RedirectError(f"{table} was not changed: {failed}; look at the output of iptables-nft -t {table} -S")

    async def _ask(self, *words: str) -> str:
        done = await self._run(*words)
        if done.code != 0:
            raise RedirectError(f"a table could not be read: {done.complaint}; try {' '.join(words)} on this node")
        return done.stdout

    async def _run(self, *words: str, given: str = "") -> Finished:
        try:
            done = await run(words, given=given, seconds=self._seconds)
        except ProgramTimeoutError as error:
            raise RedirectError(f"{error}; find out what keeps it from ending") from error
        if done.not_permitted:
            raise StartError(f"{NOT_PERMITTED} ({done.complaint})")
        return done


def put_script(before: str, rule: TopRule) -> str:
    """What iptables-restore --noflush must be given to put *rule* in force, when *before* is what its hook holds.

    Declaring a chain creates it or empties it.
    """
    chain = [f":{rule.chain} - [0:0]"] if rule.chain else []
    old = [f"-D {rule.hook} {one}" for one in rules_of(before, rule.hook) if rule.is_ours(one)]
    new = [f"-A {rule.chain} {one}" for one in rule.rules]
    return _script(rule.table, *chain, *old, *new, f"-I {rule.hook} 1 {rule.text}")


def clear_script(saved: str, rule: TopRule) -> str:
    """What iptables-restore --noflush must be given to remove *rule*, when *saved* is its table; "" for nothing."""
    if rule.chain:
        if rule.chain not in chains_in(saved):
            return ""
        return _script(rule.table, f":{rule.chain} - [0:0]", *_jumps(saved, rule), f"-X {rule.chain}")
    ours = [f"-D {rule.hook} {one}" for one in rules_of(saved, rule.hook) if rule.is_ours(one)]
    return _script(rule.table, *ours) if ours else ""


def _jumps(saved: str, rule: TopRule) -> list[str]:
    """What deletes each rule that leads to our chain."""
    return [f"-D {chain} {one}" for chain, one in all_rules(saved) if chain != rule.chain and rule.is_ours(one)]


def _script(table: str, *lines: str) -> str:
    return "\n".join((f"*{table}", *lines, "COMMIT", ""))
