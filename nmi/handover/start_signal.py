"""The start signal, for which the startup probe of NMI's pod waits.

All NMIs of a node share the node's network: while the predecessor serves, it answers the HTTP probes of its successor's
pod, too. A Unix socket in the container's own file system belongs to one NMI. It exists once the probe port answers for
this NMI, or once this NMI waits for a program that does not hand over its ports, so that it must be stopped first.

`python -m nmi.handover.start_signal PATH SECONDS` waits for the signal and exits with 1 if it does not come in time.
The command imports little, because each start of a pod runs it with the pod's CPU limit.
"""

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.05
BACKLOG: Final = 8
"""Connections that the kernel queues. NMI accepts none: a queue that is full also proves that it listens."""


class StartSignal:
    """The signal at *path*, or none with None. The owner calls `close`, which ends the signal."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._listener: socket.socket | None = None

    def give(self) -> None:
        """Let the startup probe succeed. Idempotent. Raise OSError."""
        if self._path is None or self._listener is not None:
            return
        self._path.unlink(missing_ok=True)  # of an NMI that was killed in this container
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def close(self) -> None:
        """End the signal. Idempotent."""
        if self._path is None or self._listener is None:
            return
        self._listener.close()
        self._listener = None
        with suppress(OSError):
            self._path.unlink()


def is_given(path: str) -> bool:
    """Return whether a process listens at *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def wait(path: str, seconds: float) -> bool:
    """Return True once the signal at *path* is given, and False after *seconds* without it."""
    until = time.monotonic() + seconds
    while not is_given(path):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def main(arguments: list[str]) -> int:
    """Run the command with its two arguments and return its exit code."""
    path, seconds = arguments
    if wait(path, float(seconds)):
        return 0
    sys.stderr.write(f"NMI has not taken over its ports within {seconds} s; its log states what it waits for\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
