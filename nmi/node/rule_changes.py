"""Being told at once when somebody changes the node's tables, instead of finding out at the next interval.

The nft backend tells its changes on a netlink group. The legacy one tells nothing; but every iptables program opens the
xtables lock's file and closes it when it has written, and inotify tells that. Whoever writes without the lock goes
unnoticed there until the interval, which stays as the net under both.
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
"""Between two looks on average: what they cost is bounded however often a table is rewritten."""

BURST = 4
"""Looks that may follow each other at once: a firewall is loaded in a few steps, and our own repair is one, too."""

REST_SECONDS = 0.1
"""How long a source is left unread after it was read, so that ten thousand changes wake us ten times a second."""

_NETFILTER = 12  # NETLINK_NETFILTER, which the socket module does not name
_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_RULE_CHAIN, _CHAIN_NAME = 2, 3  # NFTA_RULE_CHAIN, NFTA_CHAIN_NAME of linux/netfilter/nf_tables.h
_DATAGRAM_MAX = 1 << 16
_BUFFER = 1 << 16
"""Bytes of news that the kernel keeps for us. What does not fit is dropped, and that is news enough."""
_READS = 64
"""Datagrams of one reading; with more to come, somebody changes so much that it must be looked at anyway."""

_IN_ATTRIB, _IN_CLOSE_WRITE, _IN_CLOSE_NOWRITE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x4, 0x8, 0x10, 0x400, 0x800
_WATCHED = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_CLOSE_NOWRITE | _IN_DELETE_SELF | _IN_MOVE_SELF


class ChangeSource(Protocol):
    """Something that becomes readable when the tables may have changed."""

    def fileno(self) -> int:
        """What to wait for."""

    def read(self) -> bool:
        """Take what there is to read, without blocking; whether it may concern us. Raises OSError when it is over."""

    def close(self) -> None:
        """End it."""


class NftChanges:
    """The netlink group of nf_tables, listened to for changes of some chains. Needs CAP_NET_ADMIN; raises OSError."""

    def __init__(self, chains: Iterable[str]) -> None:
        self._marks = [
            struct.pack("=HH", 4 + len(name) + 1, kind) + name.encode() + b"\0"
            for name in chains
            for kind in (_RULE_CHAIN, _CHAIN_NAME)
        ]
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
        """Whether a rule in one of the chains, or the chain itself, came or went, or so much that news were lost."""
        concerns = False
        for _ in range(_READS):
            try:
                news = self._socket.recv(_DATAGRAM_MAX)
            except BlockingIOError:
                return concerns
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                concerns = True
            else:
                # A name stands as an attribute, with its length and kind before it: no other name ends like it. The
                # table is not looked at: the same chain of another one is seldom changed.
                concerns = concerns or any(mark in news for mark in self._marks)
        return True

    def close(self) -> None:
        self._socket.close()


class LockReleases:
    """The xtables lock's file, watched for being closed: a program of the legacy backend may have written.

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
        self._watch()  # somebody may have removed the file; watching the same one again changes nothing
        return True

    def close(self) -> None:
        os.close(self._inotify)

    def _watch(self) -> None:
        path = os.fsencode(self._lock)
        try:
            self._checked(self._libc.inotify_add_watch(self._inotify, path, _WATCHED))
        except FileNotFoundError:
            # Made as every iptables program makes it, and closed before it is watched: what we do is no news.
            os.close(os.open(self._lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._checked(self._libc.inotify_add_watch(self._inotify, path, _WATCHED))

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self._lock))
        return result


class RuleChangeNotifier:
    """Cuts the wait between two looks short when a source says so."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._paid = float("-inf")
        """When the looks so far are made up for, at one each GAP_SECONDS."""
        self.listening = False
        """Whether a source is there."""

    def notify(self) -> None:
        """Somebody may have changed a table."""
        self._changed.set()

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*, or until something changed since the last return: then the owner looks.

        It returns at once BURST times, and after that every GAP_SECONDS, or earlier if *seconds* are less.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await asyncio.sleep(min(self._paid - (BURST - 1) * GAP_SECONDS, end) - loop.time())
        try:
            async with asyncio.timeout_at(end):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()  # before the look that follows, so that what changes meanwhile is looked at again
        self._paid = max(self._paid, loop.time()) + GAP_SECONDS

    @asynccontextmanager
    async def listening_to(self, make: Callable[[], ChangeSource]) -> AsyncIterator[None]:
        """Listen to the source that *make* makes. One that cannot be had is told: then there is the interval alone."""
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
        "changes of this node's tables are not told to NMI; they are found at the interval only "
        "(--ipt-update-interval-sec)",
        extra={"error": str(error)},
    )
