"""Driver of the legacy iptables backend: python-iptables, under the xtables lock.

python-iptables takes no lock itself, and a table is written back as a whole: without the lock, rules that kube-proxy
wrote in between would be lost. Reading and writing is blocking ctypes code, so each call runs in a thread that also
takes and releases the lock: a cancelled caller never leaves it held. While python-iptables reads a rule, it replaces
descriptor 1 of the process by a pipe, so a running NMI writes nothing to standard output.

Do not use this module on a node with the nft backend: opening a legacy table creates it.
"""

import asyncio
import fcntl
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from nmi.node.refused_rules import NOT_PERMITTED, REFUSED
from nmi.node.rules import IptablesRuleState, LockHeldError, RedirectError, TopRule
from podidentity.exits import StartError

LOCK = Path("/run/xtables.lock")
"""The file that every iptables program of the node locks; in a container it must be the node's own file."""


class LegacyDriver:
    """`rules.RuleDriver` for the legacy backend."""

    def __init__(self, *, lock: Path = LOCK) -> None:
        """Load python-iptables. Raises StartError if it, or the library that it uses, is missing."""
        self._lock = lock
        self._iptc = _load()
        # python-iptables keeps one object for each table in the process: two threads would share its handle.
        self._handle_lock = threading.Lock()

    async def find(self, rule: TopRule) -> IptablesRuleState:
        return await asyncio.to_thread(self._find, rule)

    async def put(self, rule: TopRule) -> None:
        await asyncio.to_thread(self._put, rule)

    async def clear(self, rule: TopRule) -> None:
        await asyncio.to_thread(self._clear, rule)

    async def detach(self, rule: TopRule) -> None:
        await asyncio.to_thread(self._detach, rule)

    async def packets(self, rule: TopRule) -> int | None:
        return await asyncio.to_thread(self._packets, rule)

    def _packets(self, rule: TopRule) -> int | None:
        with self._handle_lock, self._open(rule.table) as table:
            if rule.chain and not table.is_chain(rule.chain):
                return None
            counted = rule.rules[0] if rule.chain else rule.text
            name = rule.chain or rule.hook
            for entry in _entries(table, name):
                if self._text(table, name, entry) == counted:
                    packets, _ = self._iptc.Rule(entry, self._iptc.Chain(table, name)).get_counters()
                    return int(packets)
            return None

    def _find(self, rule: TopRule) -> IptablesRuleState:
        with self._handle_lock, self._open(rule.table) as table:
            return IptablesRuleState(
                tops=tuple((at + 1, text) for at, text in self._ours(table, rule)),
                rules=self._chain(table, rule) if rule.chain and table.is_chain(rule.chain) else None,
            )

    def _put(self, rule: TopRule) -> None:
        with self._handle_lock, self._locked(), self._open(rule.table) as table:
            self._delete(table, rule.hook, [at for at, _ in self._ours(table, rule)])
            if rule.chain:
                if table.is_chain(rule.chain):
                    table.flush_entries(rule.chain)
                else:
                    table.create_chain(rule.chain)
                chain = self._iptc.Chain(table, rule.chain)
                for text in rule.rules:
                    chain.append_rule(self._parsed(text))
            self._iptc.Chain(table, rule.hook).insert_rule(self._parsed(rule.text))
            # python-iptables accepts a DNAT without a destination and matches without a value, so the rule is read
            # back and compared before the commit.
            read_back = (tuple(text for _, text in self._ours(table, rule)), self._chain(table, rule))
            if read_back != ((rule.text,), rule.rules):
                raise RedirectError(f"python-iptables made {read_back} of {rule.name}; nothing was written")
            self._commit(table)

    def _detach(self, rule: TopRule) -> None:
        with self._handle_lock, self._locked(), self._open(rule.table) as table:
            if table.is_chain(rule.chain):
                self._delete_jumps(table, rule)
                self._commit(table)

    def _delete_jumps(self, table: Any, rule: TopRule) -> None:
        for chain in table.chains:
            self._delete(table, chain.name, _leading(table, chain.name, rule.chain))

    def _clear(self, rule: TopRule) -> None:
        with self._handle_lock, self._locked(), self._open(rule.table) as table:
            if not rule.chain:
                ours = [at for at, _ in self._ours(table, rule)]
                if not ours:
                    return
                self._delete(table, rule.hook, ours)
            elif table.is_chain(rule.chain):
                self._delete_jumps(table, rule)
                table.flush_entries(rule.chain)
                table.delete_chain(rule.chain)
            else:
                return
            self._commit(table)

    def _ours(self, table: Any, rule: TopRule) -> list[tuple[int, str]]:
        """Return the rules of the hook that are NMI's, with their positions from 0."""
        entries = list(_entries(table, rule.hook))
        # Only rules with the same target are decoded: others may use extensions that this image lacks.
        texts = [(at, self._text(table, rule.hook, entries[at])) for at in _leading(table, rule.hook, rule.target)]
        return [(at, text) for at, text in texts if rule.chain or text == rule.text]

    def _chain(self, table: Any, rule: TopRule) -> tuple[str, ...]:
        if not rule.chain:
            return ()
        return tuple(self._text(table, rule.chain, entry) for entry in _entries(table, rule.chain))

    def _delete(self, table: Any, chain: str, positions: Iterable[int]) -> None:
        """Delete rules by number, from the end so that positions stay valid.

        python-iptables offers that only in its private interface: deleting by value would need the rule decoded.
        """
        for at in sorted(positions, reverse=True):
            if table._iptc.iptc_delete_num_entry(chain.encode(), at, table._handle) != 1:  # noqa: SLF001
                raise RedirectError(f"a rule in {chain} was not deleted: {table.strerror()}")

    def _parsed(self, text: str) -> Any:
        """Return a rule of NMI as a python-iptables object. Knows the words that `rules` uses."""
        rule = of = self._iptc.Rule()
        inverted = ""
        left = iter(text.split())
        for word in left:
            match word:
                case "!":
                    inverted = "!"
                    continue
                case "-s":
                    rule.src = inverted + next(left)
                case "-d":
                    rule.dst = inverted + next(left)
                case "-p":
                    rule.protocol = inverted + next(left)
                case "-m":
                    of = rule.create_match(next(left))
                case "-j":
                    of = rule.create_target(next(left))
                case option:
                    setattr(of, option.removeprefix("--").replace("-", "_"), inverted + next(left))
            inverted = ""
        return rule

    def _text(self, table: Any, chain: str, entry: Any) -> str:
        """Return *entry* in the syntax of iptables-save if it has the form of NMI's rules, else some other text."""
        try:
            read = self._iptc.easy.decode_iptc_rule(self._iptc.Rule(entry, self._iptc.Chain(table, chain)))
        except (self._iptc.IPTCError, self._iptc.XTablesError) as error:
            return f"unreadable: {error}"  # it uses an extension that this image lacks, so it is not NMI's rule
        return text_of(read)

    def _commit(self, table: Any) -> None:
        """Write the changes. The table was read before, so a missing capability is not the cause of a refusal."""
        try:
            table.commit()
        except self._iptc.IPTCError as error:
            if _is_refusal(error):
                raise StartError(f"{REFUSED} ({error})") from error
            raise

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """Open a table in its current state. Uncommitted changes are discarded at the end."""
        # With this list python-iptables opens no other tables: opening a legacy table creates it.
        self._iptc.Table.existing_table_names.update(
            {table_name: table_name == name for table_name in self._iptc.Table.ALL}
        )
        try:
            table = self._iptc.Table(name, autocommit=False)
            table.refresh()
            try:
                yield table
            finally:
                table.close()
        except (self._iptc.IPTCError, self._iptc.XTablesError) as error:
            if _is_refusal(error):
                raise StartError(f"{NOT_PERMITTED} ({error})") from error
            if "temporarily unavailable" in str(error):
                raise LockHeldError(f"another program wrote to {name} at the same time, without the lock") from error
            raise RedirectError(
                f"{name} was not read or changed: {error}; look at iptables-legacy -t {name} -S"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the xtables lock. Raises LockHeldError immediately if another program holds it."""
        try:
            lock = os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"{self._lock} cannot be opened ({error.strerror}): run NMI as root and mount the node's own file "
                f"there (hostPath, type FileOrCreate)"
            ) from error
        try:
            # The event loop retries: a thread that waits for the lock could not be cancelled.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise LockHeldError(f"{self._lock} is locked by another program") from error
        finally:
            os.close(lock)  # also releases the lock


def _is_refusal(error: Exception) -> bool:
    return any(word in str(error) for word in ("Permission denied", "Operation not permitted"))


def text_of(read: dict[str, Any]) -> str:
    """Return a rule that python-iptables decoded, in the syntax of iptables-save."""
    parts: list[str] = []
    for name, flag in (
        ("src", "-s"),
        ("dst", "-d"),
        ("in-interface", "-i"),
        ("out-interface", "-o"),
        ("protocol", "-p"),
    ):
        if value := read.get(name):
            parts += ["!", flag, value[1:]] if value.startswith("!") else [flag, value]
    skipped = {"src", "dst", "in-interface", "out-interface", "protocol", "target", "counters", "comment"}
    for name, options in read.items():
        if name not in skipped:
            parts += ["-m", name, *_options(options)]
    match read.get("target"):
        case str(name):
            parts += ["-j", name]
        case {"goto": name}:
            parts += ["-g", str(name)]
        case dict(target):
            for name, options in target.items():
                parts += ["-j", name, *_options(options)]
    return " ".join(parts)


def _options(options: Any) -> Iterator[str]:
    if not isinstance(options, dict):
        yield str(options)  # a repeated match: never NMI's
        return
    for name, value in options.items():
        text = " ".join(value) if isinstance(value, list | tuple) else str(value)
        if text.startswith("!"):
            yield "!"
        yield f"--{name}"
        if text.removeprefix("!"):
            yield text.removeprefix("!").strip()


def _entries(table: Any, chain: str) -> Iterator[Any]:
    """Return the entries of *chain*, undecoded: rules of other programs may use extensions that this image lacks."""
    entry = table.first_rule(chain)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _leading(table: Any, chain: str, target: str) -> list[int]:
    """Return the positions from 0 of the rules of *chain* that jump to *target*."""
    return [at for at, entry in enumerate(_entries(table, chain)) if table.get_target(entry) == target.encode()]


def _load() -> ModuleType:
    """Return python-iptables. Loads the kernel's ip_tables, 5 MiB of memory, and runs ldconfig to find libip4tc."""
    # Its search for libraries imports distutils for a single path: 15 MiB on each node where setuptools provides it,
    # and a deprecation warning otherwise. Without distutils it uses another method.
    missing = object()
    former = sys.modules.get("distutils", missing)
    sys.modules["distutils"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import iptc  # noqa: PLC0415  never on a node with the nft backend
    except (ImportError, AttributeError, OSError) as error:
        raise StartError(
            f"python-iptables cannot be used ({error}): install the packages python-iptables and iptables (libip4tc, "
            f"libxtables) in NMI's image"
        ) from error
    finally:
        if former is missing:
            del sys.modules["distutils"]
        else:
            sys.modules["distutils"] = former  # type: ignore[assignment]
    module: ModuleType = iptc
    return module
