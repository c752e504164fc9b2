"""Driver of nftables: NMI's own table, by the program nft.

Each rule is the only one of a chain of its own (`rules.BaseChain`), and the table holds nothing else. A change is one
`nft -j -f -`, which the kernel applies as one transaction: there is no moment without the rule. Tables of other
programs are neither read nor written.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from nmi.node.refused_rules import NOT_PERMITTED, REFUSED
from nmi.node.rules import TABLE, BaseChain, RedirectError, TopRule
from nmi.subprocesses import Finished, ProgramTimeoutError, run
from podidentity.exits import StartError

FAMILY: Final = "ip"

_CHAINS: Final = frozenset(("prerouting", "forward"))
"""The chains of the table."""

WITHDRAWN: Final = "withdrawn"
"""A chain that exists between the withdrawal of the redirect and its removal."""

_TRIES: Final = 4
"""Attempts for one change, each with a new read: another program may have changed the table in between."""

_MISSING: Final = "No such file or directory"
"""The text of ENOENT, which nft prints for a missing table."""

Entry = tuple[str, Mapping[str, Any]]
"""An object of nft's JSON: its kind and its attributes."""


class ListedTable(msgspec.Struct, frozen=True):
    """NMI's table as nft lists it. Empty if it does not exist."""

    entries: tuple[Entry, ...] = ()
    unreadable: str | None = None
    """Why nft's output cannot be read; None if it can. nft 1.0.6 prints no JSON for a table with flags."""

    @property
    def exists(self) -> bool:
        return bool(self.entries) or self.unreadable is not None

    def chain(self, name: str) -> Mapping[str, Any] | None:
        return next((entry for kind, entry in self.entries if kind == "chain" and entry.get("name") == name), None)

    def rules(self, name: str) -> list[Sequence[Any]]:
        """Return the expressions of each rule of the chain *name*."""
        return [entry.get("expr", ()) for kind, entry in self.entries if kind == "rule" and entry.get("chain") == name]

    @property
    def foreign(self) -> str | None:
        """Return what NMI did not write into the table; None without such an object."""
        if self.unreadable is not None:
            return self.unreadable
        for kind, entry in self.entries:
            name = entry.get("name")
            # A dormant table, for example, has no effect although its rules exist.
            if kind == "table" and entry.get("flags"):
                return f"the table has the flags {entry['flags']}"
            if kind == "chain" and name == WITHDRAWN:
                return "it has been withdrawn"
            if kind not in ("table", "chain", "rule") or (kind == "chain" and name not in _CHAINS):
                return f"the table holds the {kind} {name}, which is not NMI's"
        return None


class NftablesRuleState(msgspec.Struct, frozen=True):
    """`rules.RuleState` for one rule in NMI's table."""

    table: ListedTable
    name: str

    @property
    def nothing(self) -> bool:
        """Return whether the rule has no part here. A table without any chain of NMI is a part of each rule."""
        others = (self.table.chain(name) for name in _CHAINS - {self.name})
        return self.table.chain(self.name) is None and (not self.table.exists or any(others))

    def fault(self, rule: TopRule) -> str | None:
        base = rule.base
        if foreign := self.table.foreign:
            return foreign
        chain = self.table.chain(base.name)
        if chain is None:
            return "the chain is missing"
        if not _is_base(chain, base):
            return "the chain has another hook"
        rules = self.table.rules(base.name)
        if not rules:
            return "the rule is missing"
        # Another program's rule before NMI's could accept a packet before the redirect.
        if len(rules) > 1:
            return "the chain holds other rules"
        return None if expressions(rules[0]) == base.expressions else "the rule has other conditions"


class NftablesDriver:
    """`rules.RuleDriver` for nftables."""

    def __init__(self, nft: str, *, seconds: float = 30.0) -> None:
        """Store the path of the program. *seconds* bounds each call of it."""
        self._nft = nft
        self._seconds = seconds

    async def find(self, rule: TopRule) -> NftablesRuleState:
        return NftablesRuleState(await self._listed(), rule.base.name)

    async def packets(self, rule: TopRule) -> int | None:
        table = await self._listed()
        if NftablesRuleState(table, rule.base.name).fault(rule) is not None:
            return None
        counters = (
            expression.get("counter") for expression in table.rules(rule.base.name)[0] if isinstance(expression, dict)
        )
        counter = next((counter for counter in counters if isinstance(counter, dict)), None)
        return int(counter["packets"]) if counter is not None else None

    async def put(self, rule: TopRule) -> None:
        await self._change(lambda table: put_commands(table, rule.base))

    async def detach(self, rule: TopRule) -> None:
        await self._change(lambda table: detach_commands(table, rule.base))

    async def clear(self, rule: TopRule) -> None:
        await self._change(lambda table: clear_commands(table, rule.base.name))

    async def _change(self, make: "Commands") -> None:
        """Pass the commands that *make* builds from a new read to nft, until it succeeds."""
        failed = ""
        for attempt in range(_TRIES):
            await asyncio.sleep(0.1 * attempt)
            commands = make(await self._listed())
            if not commands:
                return
            given = json.dumps({"nftables": commands})
            done = await self._run("-j", "-f", "-", given=given, not_permitted=REFUSED)
            if done.code == 0:
                return
            failed = done.complaint
        raise RedirectError(
            f"the table {FAMILY} {TABLE} was not changed: {failed}; look at the output of nft list table {FAMILY} "
            f"{TABLE}"
        )

    async def _listed(self) -> ListedTable:
        done = await self._run("-j", "list", "table", FAMILY, TABLE)
        if done.code == 0:
            return parsed(done.stdout)
        if _MISSING in done.stderr:
            return ListedTable()
        raise RedirectError(
            f"the table {FAMILY} {TABLE} could not be read: {done.complaint}; try nft list table {FAMILY} {TABLE} on "
            f"this node"
        )

    async def _run(self, *words: str, given: str = "", not_permitted: str = NOT_PERMITTED) -> Finished:
        try:
            done = await run((self._nft, *words), given=given, seconds=self._seconds)
        except ProgramTimeoutError as error:
            raise RedirectError(f"{error}; find out why it does not end") from error
        if done.not_permitted:
            raise StartError(f"{not_permitted} ({done.complaint})")
        return done


class Commands(Protocol):
    """Builds the commands of one transaction from the table; none if nothing needs to change."""

    def __call__(self, table: ListedTable) -> list[object]: ...


def parsed(text: str) -> ListedTable:
    """Return the table in the output of `nft -j list table`."""
    try:
        objects = json.loads(text)["nftables"]
        entries = tuple((kind, entry) for item in objects for kind, entry in item.items() if kind != "metainfo")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return ListedTable(unreadable=f"the table cannot be read as JSON ({error})")
    if not all(isinstance(entry, dict) for _, entry in entries):
        return ListedTable(unreadable="the table cannot be read as JSON (objects without attributes)")
    return ListedTable(entries)


def expressions(rule: Sequence[Any]) -> tuple[str, ...]:
    """Return the expressions of *rule*, without counters, in a form that can be compared with `BaseChain`."""
    texts = []
    for expression in rule:
        if isinstance(expression, dict) and "counter" in expression:
            continue
        if isinstance(expression, dict) and isinstance(expression.get("dnat"), dict):
            # Versions differ in whether they name the table's own family.
            expression = {  # noqa: PLW2901
                **expression,
                "dnat": {key: value for key, value in expression["dnat"].items() if (key, value) != _OWN_FAMILY},
            }
        texts.append(json.dumps(expression, sort_keys=True))
    return tuple(texts)


_OWN_FAMILY: Final = ("family", FAMILY)


def put_commands(table: ListedTable, base: BaseChain) -> list[object]:
    """Return the commands that put *base* in force. The other chain of NMI remains unless something foreign is there.

    Then the table is written again with *base* only, and the next verification restores the other rule: in the meantime
    *base* keeps pods from the real IMDS.
    """
    chain = table.chain(base.name)
    commands = [_command("add", "table")]
    if table.foreign is not None:
        commands += [_command("delete", "table"), _command("add", "table")]
    elif chain is not None:
        # The kernel changes no hook of a chain that exists, and both commands are one transaction.
        commands += [_command("flush", "chain", base.name)]
        if not _is_base(chain, base):
            commands += [_command("delete", "chain", base.name)]
    attributes = {"type": base.type, "hook": base.hook, "prio": base.priority, "policy": "accept"}
    return [
        *commands,
        _command("add", "chain", base.name, **attributes),
        _rule(base.name, base),
    ]


def _rule(chain: str, base: BaseChain) -> object:
    """Return the command that adds the rule of *base*, with a counter, to *chain*."""
    rule = [json.loads(expression) for expression in base.expressions]
    # Before the verdict, after which nothing is evaluated.
    rule.insert(-1, {"counter": None})
    return {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "expr": rule}}}


def detach_commands(table: ListedTable, base: BaseChain) -> list[object]:
    """Return the commands that move the rule of *base* into a chain that no packet enters.

    The kernel tracks connections as long as a rule needs it, and an empty chain of nat does not.
    """
    if not table.rules(base.name):
        return []
    return [
        _command("flush", "chain", base.name),
        _command("add", "chain", WITHDRAWN),
        _command("flush", "chain", WITHDRAWN),
        _rule(WITHDRAWN, base),
    ]


def clear_commands(table: ListedTable, name: str) -> list[object]:
    """Return the commands that delete the chain *name*, and the table with its last chain."""
    if not table.exists:
        return []
    if not any(table.chain(chain) is not None for chain in _CHAINS - {name}):
        return [_command("delete", "table")]
    chains = [chain for chain in (name, WITHDRAWN) if table.chain(chain) is not None]
    # nft deletes only an empty chain.
    return [_command(verb, "chain", chain) for chain in chains for verb in ("flush", "delete")]


def _is_base(chain: Mapping[str, Any], base: BaseChain) -> bool:
    attributes = [chain.get(key) for key in ("type", "hook", "prio", "policy")]
    return attributes == [base.type, base.hook, base.priority, "accept"]


def _command(verb: str, kind: str, name: str = "", **attributes: object) -> object:
    names = {"family": FAMILY, "name": TABLE} if kind == "table" else {"family": FAMILY, "table": TABLE, "name": name}
    return {verb: {kind: {**names, **attributes}}}
