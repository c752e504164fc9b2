"""Notification of changes of the node's tables, so that NMI need not wait for the next interval.

The nft backend reports its changes on a netlink group. The legacy backend reports nothing, but every iptables program
opens the file of the xtables lock and closes it after writing, and inotify reports that. A program that writes without
the lock is noticed at the next interval, which covers both backends.
"""

import asyncio
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

GAP_SECONDS = 1.0
"""Average time between two verifications. It bounds their cost, regardless of how often a table is rewritten."""

BURST = 4
"""Verifications without a pause between them: a firewall is loaded in a few steps, and NMI's own repair is one, too."""

REST_SECONDS = 0.1
"""Pause after each read of a source, so that ten thousand changes per second wake NMI ten times per second."""

_NETFILTER = 12  # NETLINK_NETFILTER, which the socket module does not name
_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_RULE_CHAIN, _CHAIN_NAME = 2, 3  # NFTA_RULE_CHAIN, NFTA_CHAIN_NAME of linux/netfilter/nf_tables.h
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, and the same of every other object
_DATAGRAM_MAX = 1 << 16
_BUFFER = 1 << 16
"""Size in bytes of the kernel's buffer. A lost report counts as a change."""
_READS = 64
"""Datagrams per read. More of them are a change in any case."""

_IN_ATTRIB, _IN_CLOSE_WRITE, _IN_CLOSE_NOWRITE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x4, 0x8, 0x10, 0x400, 0x800
_WATCHED = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_CLOSE_NOWRITE | _IN_DELETE_SELF | _IN_MOVE_SELF


class ChangeSource(Protocol):
    """A source that becomes readable when the tables may have changed."""

    def fileno(self) -> int:
        """Return the file descriptor to wait for."""

    def read(self) -> bool:
        """Read without blocking. Return whether NMI's rules may be affected. Raises OSError when the source ends."""

    def close(self) -> None:
        """Close the source."""


class NftChanges:
    """The netlink group of nf_tables, filtered by names of chains and tables. Needs CAP_NET_ADMIN; raises OSError."""

    def __init__(self, chains: Iterable[str] = (), *, tables: Iterable[str] = ()) -> None:
        self._marks = [_named(kind, name) for name in chains for kind in (_RULE_CHAIN, _CHAIN_NAME)]
        self._marks += [_named(_TABLE, name) for name in tables]
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _GROUP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Return whether a rule in one of the chains, a chain itself, or anything in one of the tables changed, or
        whether reports were lost.
        """
        concerns = False
        for _ in range(_READS):
            try:
                message = self._socket.recv(_DATAGRAM_MAX)
            except BlockingIOError:
                return concerns
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                concerns = True
            else:
                # A name is an attribute that begins with its length and type, so no other name matches. The table is
                # not compared, because the chain of the same name in another table rarely changes.
                concerns = concerns or any(mark in message for mark in self._marks)
        return True

    def close(self) -> None:
        self._socket.close()


def _named(kind: int, name: str) -> bytes:
    return struct.pack("=HH", 4 + len(name) + 1, kind) + name.encode() + b"\0"


class LockReleases:
    """An inotify watch on the xtables lock's file: a close means that a legacy iptables program may have written.

    Raises OSError. Blocks no longer than opening a file takes.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._watch()
        except OSError:
            os.close(self._inotify)
            raise

    def fileno(self) -> int:
        return self._inotify

    def read(self) -> bool:
        try:
            os.read(self._inotify, _DATAGRAM_MAX)
        except BlockingIOError:
            return False
        self._watch()  # the file may have been removed; watching the same one again changes nothing
        return True

    def close(self) -> None:
        os.close(self._inotify)

    def _watch(self) -> None:
        path = os.fsencode(self._lock)
        try:
            self._checked(self._libc.inotify_add_watch(self._inotify, path, _WATCHED))
        except FileNotFoundError:
            # Created like every iptables program does, and closed before the watch, so NMI does not notify itself.
            os.close(os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._checked(self._libc.inotify_add_watch(self._inotify, path, _WATCHED))

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self._lock))
        return result


class RuleChangeNotifier:
    """A wait between two verifications that a change of the tables ends early."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._paid = float("-inf")
        """The time until which the past verifications use up the rate of one per GAP_SECONDS."""
        self.listening = False
        """Whether a source is open."""

    def notify(self) -> None:
        """End the current or next wait: a table may have changed."""
        self._changed.set()

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*, or until a change since the last return. Then the caller verifies the rules.

        After a change it returns immediately BURST times, and then every GAP_SECONDS, or earlier if *seconds* are less.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await asyncio.sleep(min(self._paid - (BURST - 1) * GAP_SECONDS, end) - loop.time())
        try:
            async with asyncio.timeout_at(end):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()  # before the verification, so that a change during it causes another one
        self._paid = max(self._paid, loop.time()) + GAP_SECONDS

    @asynccontextmanager
    async def listening_to(self, make: Callable[[], ChangeSource]) -> AsyncIterator[None]:
        """Listen to the source that *make* opens. If it cannot be opened, log a warning and rely on the interval."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            try:
                source = await asyncio.to_thread(make)
            except OSError as error:
                _warn_unavailable(error)
                yield
                return
            stack.callback(source.close)
            fd = source.fileno()
            resting: list[asyncio.TimerHandle] = []

            def listen() -> None:
                resting.clear()
                loop.add_reader(fd, read)

            def read() -> None:
                loop.remove_reader(fd)
                try:
                    concerns = source.read()
                except OSError as error:
                    self.listening = False
                    _warn_unavailable(error)
                    return
                if concerns:
                    self.notify()
                resting.append(loop.call_later(REST_SECONDS, listen))

            def end() -> None:
                self.listening = False
                for timer in resting:
                    timer.cancel()
                loop.remove_reader(fd)

            stack.callback(end)
            listen()
            self.listening = True
            yield


def _warn_unavailable(error: OSError) -> None:
    log.warning(
        "NMI is not notified of changes of this node's tables; it finds them at the interval only "
        "(--ipt-update-interval-sec)",
        extra={"error": str(error)},
    )
