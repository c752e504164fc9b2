"""The Unix socket of the handover on this node, and the users that can create it and connect to it."""

import errno
import os
import secrets
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from nmi.handover.channel import peer_uid

BACKLOG: Final = 8
_ABSENT: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK, errno.EPROTOTYPE})


class UnsafePathError(Exception):
    """Other users can replace the socket, or it belongs to one. The message contains the next action."""


def listen_at(path: Path) -> tuple[socket.socket, int]:
    """Return a socket that listens at *path*, in place of an earlier one, and its inode there.

    Raise UnsafePathError and OSError. The socket is complete before it gets its name: no peer finds one that does not
    listen.
    """
    check_directory(path.parent)
    temporary = _unused(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.setblocking(False)
        listener.bind(str(temporary))
        # The socket gets its mode before its name, so that no other user can connect in between.
        temporary.chmod(0o600)
        listener.listen(BACKLOG)
        inode = temporary.stat().st_ino
        temporary.rename(path)
    except BaseException:
        listener.close()
        with suppress(OSError):
            temporary.unlink()
        raise
    return listener, inode


def connect_to(path: Path) -> socket.socket | None:
    """Return a connection to the NMI that listens at *path*, or None if none does. Raise UnsafePathError and OSError.

    Connecting never blocks for long: without a place in the queue it raises BlockingIOError.
    """
    try:
        check_directory(path.parent)
    except FileNotFoundError:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(str(path))
        # Before a byte is sent: another user's program could pass its own sockets and connections.
        own = peer_uid(sock) == os.geteuid()
    except OSError as error:
        sock.close()
        if error.errno in _ABSENT:
            return None
        raise
    if not own:
        sock.close()
        raise UnsafePathError(f"another user listens at {path}; remove it, and find out who created it")
    return sock


def check_directory(directory: Path) -> None:
    """Raise UnsafePathError unless only this process's user can create files in *directory*. Raise OSError."""
    # lstat, because a link at this path could lead to a directory of another user.
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnsafePathError(
            f"{directory} must be a directory that belongs to NMI's user and that no other user can write to; correct "
            f"its owner and mode, or name another with --handover-socket"
        )


def remove_own(path: Path, inode: int) -> None:
    """Remove the socket that listen_at() created, unless another one has replaced it.

    An NMI that gives back removes its socket while the former one creates its own. Between a comparison and a removal
    the other socket could appear, so the path is renamed first, and the other one gets its name again.
    """
    renamed = _unused(path)
    with suppress(OSError):
        if path.lstat().st_ino != inode:
            return
        path.rename(renamed)
        if renamed.lstat().st_ino != inode:
            path.hardlink_to(renamed)  # fails if there is a third one
    with suppress(OSError):
        renamed.unlink()


def _unused(path: Path) -> Path:
    """Return a temporary name in the same directory."""
    return path.with_name(f".{secrets.token_hex(4)}")
