"""The nat table of a node whose iptables is the legacy one: through python-iptables, under the xtables lock.

python-iptables takes no lock of its own, and a table is written back whole: without the lock, rules that kube-proxy
wrote in between would be lost. Reading and writing is ctypes code that blocks, so each call runs in a thread, and takes
and gives back the lock there: a caller that is cancelled never leaves it held.

On a node with the nft backend this module must not be used at all: opening a legacy table creates it.
"""

import asyncio
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from nmi.node.nft import NOT_PERMITTED
from nmi.node.redirect import CHAIN, Found, LockHeldError, RedirectError, RedirectRule
from podidentity.exits import StartError

LOCK = Path("/run/xtables.lock")
"""The file that every iptables program of the node locks; in a container it must be the node's own file."""


class LegacyDriver:
    """`redirect.Driver` for the legacy backend."""

    def __init__(self, *, lock: Path = LOCK) -> None:
        """Raises StartError when python-iptables or the library it drives is missing."""
        self._lock = lock
        self._iptc = _load()
        # python-iptables keeps one object for each table in the process: two threads would share its handle.
        self._one = threading.Lock()

    async def find(self) -> Found:
        return await asyncio.to_thread(self._look)

    async def put(self, rule: RedirectRule) -> None:
        await asyncio.to_thread(self._put, rule)

    async def clear(self) -> None:
        await asyncio.to_thread(self._clear)

    def _look(self) -> Found:
        with self._one, self._nat() as table:
            rules = None
            if table.is_chain(CHAIN):
                rules = tuple(self._text(table, CHAIN, entry) for entry in _entries(table, CHAIN))
            jumps = tuple(
                (position, self._text(table, "PREROUTING", entry))
                for position, entry in enumerate(_entries(table, "PREROUTING"), start=1)
                if table.get_target(entry) == CHAIN.encode()
            )
            return Found(rules=rules, jumps=jumps)

    def _put(self, rule: RedirectRule) -> None:
        with self._one, self._locked(), self._nat() as table:
            if table.is_chain(CHAIN):
                table.flush_entries(CHAIN)
            else:
                table.create_chain(CHAIN)
            _delete_jumps(table, "PREROUTING")
            chain = self._iptc.Chain(table, CHAIN)
            for one in (self._dnat(rule), self._plain("RETURN")):
                chain.append_rule(one)
            self._iptc.Chain(table, "PREROUTING").insert_rule(self._plain(CHAIN))
            # python-iptables takes a DNAT without a destination and matches without a value: nothing is committed that
            # does not read back as what was meant.
            made = tuple(self._text(table, CHAIN, entry) for entry in _entries(table, CHAIN))
            if made != rule.rules:
                raise RedirectError(f"python-iptables made {made} of the rule; nothing was written")
            table.commit()

    def _clear(self) -> None:
        with self._one, self._locked(), self._nat() as table:
            if not table.is_chain(CHAIN):
                return
            for chain in table.chains:
                _delete_jumps(table, chain.name)
            table.flush_entries(CHAIN)
            table.delete_chain(CHAIN)
            table.commit()

    def _dnat(self, rule: RedirectRule) -> Any:
        made = self._iptc.Rule()
        made.protocol = "tcp"
        made.src = "!127.0.0.1/32"
        made.dst = f"{rule.metadata_ip}/32"
        made.create_match("tcp").dport = str(rule.metadata_port)
        made.create_target("DNAT").to_destination = f"{rule.target_ip}:{rule.target_port}"
        return made

    def _plain(self, target: str) -> Any:
        made = self._iptc.Rule()
        made.create_target(target)
        return made

    def _text(self, table: Any, chain: str, entry: Any) -> str:
        """*entry* in iptables-save's words if it is a rule as we make them; otherwise some text unlike ours."""
        try:
            read = self._iptc.easy.decode_iptc_rule(self._iptc.Rule(entry, self._iptc.Chain(table, chain)))
        except (self._iptc.IPTCError, self._iptc.XTablesError) as error:
            return f"unreadable: {error}"  # by an extension this image lacks: not our rule in any case
        return text_of(read)

    @contextmanager
    def _nat(self) -> Iterator[Any]:
        """The nat table as it is now. What is not committed before the end is forgotten."""
        try:
            table = self._iptc.Table("nat", autocommit=False)
            table.refresh()
            try:
                yield table
            finally:
                table.close()
        except (self._iptc.IPTCError, self._iptc.XTablesError) as error:
            if any(word in str(error) for word in ("Permission denied", "Operation not permitted")):
                raise StartError(f"{NOT_PERMITTED} ({error})") from error
            if "temporarily unavailable" in str(error):
                raise LockHeldError("another program wrote to nat at the same moment, without the lock") from error
            raise RedirectError(f"nat was not read or changed: {error}; look at iptables-legacy -t nat -S") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The xtables lock; raises LockHeldError at once if somebody else has it."""
        try:
            lock = os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"{self._lock} cannot be opened ({error.strerror}): run NMI as root and mount the node's own file "
                f"there (hostPath, type FileOrCreate)"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise LockHeldError(f"{self._lock} is locked by another program") from error
        finally:
            os.close(lock)  # gives the lock back, too


def text_of(read: dict[str, Any]) -> str:
    """A rule as python-iptables decodes it, in iptables-save's words."""
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
    known = {"src", "dst", "in-interface", "out-interface", "protocol", "target", "counters", "comment"}
    for name, options in read.items():
        if name not in known:
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
        yield str(options)  # a match that stands twice: never ours
        return
    for name, value in options.items():
        text = " ".join(value) if isinstance(value, list | tuple) else str(value)
        if text.startswith("!"):
            yield "!"
        yield f"--{name}"
        if text.removeprefix("!"):
            yield text.removeprefix("!").strip()


def _entries(table: Any, chain: str) -> Iterator[Any]:
    """The entries of *chain*, undecoded: other people's rules may use extensions that this image lacks."""
    entry = table.first_rule(chain)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _delete_jumps(table: Any, chain: str) -> None:
    """Delete every rule of *chain* that leads to ours, from the end so that positions stay true."""
    positions = [at for at, entry in enumerate(_entries(table, chain)) if table.get_target(entry) == CHAIN.encode()]
    for at in reversed(positions):
        # By number, which python-iptables offers only below its surface: deleting by value would need the rule decoded.
        if table._iptc.iptc_delete_num_entry(chain.encode(), at, table._handle) != 1:  # noqa: SLF001
            raise RedirectError(f"a jump in {chain} was not deleted: {table.strerror()}")


def _load() -> ModuleType:
    """python-iptables. Loads the kernel's ip_tables, 5 MiB of memory, and runs ldconfig to find libip4tc."""
    # Its search for libraries imports distutils just for one path: 15 MiB on each node where setuptools provides it,
    # and a deprecation warning otherwise. It has another way for when there is none.
    missing = object()
    kept = sys.modules.get("distutils", missing)
    sys.modules["distutils"] = None  # type: ignore[assignment]  # what makes an import of it fail
    try:
        import iptc  # noqa: PLC0415  never on a node with the nft backend
    except (ImportError, AttributeError, OSError) as error:
        raise StartError(
            f"python-iptables cannot be used ({error}): install the packages python-iptables and iptables (libip4tc, "
            f"libxtables) in NMI's image"
        ) from error
    finally:
        if kept is missing:
            del sys.modules["distutils"]
        else:
            sys.modules["distutils"] = kept  # type: ignore[assignment]
    # Told which tables exist, it opens no other ones: merely opening a legacy table creates it.
    iptc.Table.existing_table_names.update({name: name == "nat" for name in iptc.Table.ALL})
    module: ModuleType = iptc
    return module
