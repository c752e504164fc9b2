"""Driver of the nftables iptables backend: the iptables-nft programs, no native nft rules.

A change is one `iptables-nft-restore --noflush`, which the kernel applies as one transaction: there is no moment
without the rule. If another program changed the base of the transaction, it fails as a whole and is retried.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import msgspec

from nmi.node.refused_rules import NOT_PERMITTED, REFUSED
from nmi.node.rule_text import all_rules, chains_in, normalized, rules_of
from nmi.node.rules import IptablesRuleState, RedirectError, TopRule
from nmi.subprocesses import Finished, ProgramTimeoutError, run
from podidentity.exits import StartError

_COUNTER = re.compile(r" -c (\d+) \d+(?= |$)")

_TRIES = 4
"""Attempts for one change, each with a new read. A busy writer like kube-proxy interferes for a few milliseconds."""


class NftPrograms(msgspec.Struct, frozen=True):
    """Paths of the three programs, all of the nf_tables variant."""

    iptables: str
    save: str
    restore: str


class NftDriver:
    """`rules.RuleDriver` for the nft backend."""

    def __init__(self, programs: NftPrograms, *, seconds: float = 30.0) -> None:
        """Store the programs. *seconds* bounds each program; a node with ten thousand services needs several."""
        self._programs = programs
        self._seconds = seconds

    async def find(self, rule: TopRule) -> IptablesRuleState:
        # Chains are listed by name, since a whole nat table may hold ten thousand rules of kube-proxy. For a missing
        # chain iptables-nft 1.8.9 reports "incompatible", so a failure counts as a missing chain. Other errors show in
        # the first command or in the change that follows.
        hook = await self._listed(rule)
        rules = None
        if rule.chain:
            ours = await self._run(self._programs.iptables, "-t", rule.table, "-S", rule.chain)
            rules = tuple(map(normalized, rules_of(ours.stdout, rule.chain))) if ours.code == 0 else None
        return IptablesRuleState(
            tops=tuple(
                (position, normalized(text))
                for position, text in enumerate(rules_of(hook, rule.hook), start=1)
                if rule.is_ours(text)
            ),
            rules=rules,
        )

    async def packets(self, rule: TopRule) -> int | None:
        chain, counted = (rule.chain, rule.rules[0]) if rule.chain else (rule.hook, rule.text)
        listed = await self._run(self._programs.iptables, "-t", rule.table, "-v", "-S", chain)
        return packets_in(listed.stdout, chain, counted) if listed.code == 0 else None

    async def put(self, rule: TopRule) -> None:
        async def script() -> str:
            return put_script(await self._listed(rule), rule)

        await self._change(script, rule.table)

    async def detach(self, rule: TopRule) -> None:
        async def script() -> str:
            jumps = _jumps(await self._output(self._programs.save, "-t", rule.table), rule)
            return _script(rule.table, *jumps) if jumps else ""

        await self._change(script, rule.table)

    async def clear(self, rule: TopRule) -> None:
        async def script() -> str:
            return clear_script(await self._output(self._programs.save, "-t", rule.table), rule)

        await self._change(script, rule.table)

    async def _listed(self, rule: TopRule) -> str:
        return await self._output(self._programs.iptables, "-t", rule.table, "-S", rule.hook)

    async def _change(self, make: Callable[[], Awaitable[str]], table: str) -> None:
        """Pass the script that *make* builds from a new read to the restore program, until it succeeds."""
        failed = ""
        for attempt in range(_TRIES):
            await asyncio.sleep(0.1 * attempt)
            script = await make()
            if not script:
                return
            done = await self._run(self._programs.restore, "--noflush", "-w", given=script, not_permitted=REFUSED)
            if done.code == 0:
                return
            failed = done.complaint
        raise RedirectError(f"{table} was not changed: {failed}; look at the output of iptables-nft -t {table} -S")

    async def _output(self, *words: str) -> str:
        done = await self._run(*words)
        if done.code != 0:
            raise RedirectError(f"a table could not be read: {done.complaint}; try {' '.join(words)} on this node")
        return done.stdout

    async def _run(self, *words: str, given: str = "", not_permitted: str = NOT_PERMITTED) -> Finished:
        try:
            done = await run(words, given=given, seconds=self._seconds)
        except ProgramTimeoutError as error:
            raise RedirectError(f"{error}; find out why it does not end") from error
        if done.not_permitted:
            raise StartError(f"{not_permitted} ({done.complaint})")
        return done


def packets_in(listed: str, chain: str, rule: str) -> int | None:
    """Return the packets of *rule* in the output of `iptables -v -S`; None without the rule."""
    for text in rules_of(listed, chain):
        counter = _COUNTER.search(text)
        if counter is not None and normalized(text.replace(counter[0], "", 1)) == rule:
            return int(counter[1])
    return None


def put_script(before: str, rule: TopRule) -> str:
    """Return the input of iptables-restore --noflush that puts *rule* in force; *before* lists its hook.

    Declaring a chain creates it or empties it.
    """
    chain = [f":{rule.chain} - [0:0]"] if rule.chain else []
    old = [f"-D {rule.hook} {text}" for text in rules_of(before, rule.hook) if rule.is_ours(text)]
    new = [f"-A {rule.chain} {text}" for text in rule.rules]
    return _script(rule.table, *chain, *old, *new, f"-I {rule.hook} 1 {rule.text}")


def clear_script(saved: str, rule: TopRule) -> str:
    """Return the input of iptables-restore --noflush that removes *rule* from the table *saved*; "" if there is
    nothing.
    """
    if rule.chain:
        if rule.chain not in chains_in(saved):
            return ""
        # iptables deletes only a chain that is empty and to which no rule jumps.
        return _script(rule.table, f":{rule.chain} - [0:0]", *_jumps(saved, rule), f"-X {rule.chain}")
    ours = [f"-D {rule.hook} {text}" for text in rules_of(saved, rule.hook) if rule.is_ours(text)]
    return _script(rule.table, *ours) if ours else ""


def _jumps(saved: str, rule: TopRule) -> list[str]:
    """Return the commands that delete each jump to NMI's chain."""
    return [f"-D {chain} {text}" for chain, text in all_rules(saved) if chain != rule.chain and rule.is_ours(text)]


def _script(table: str, *lines: str) -> str:
    return "\n".join((f"*{table}", *lines, "COMMIT", ""))
