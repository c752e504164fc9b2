"""A program's output on a terminal with its times, as an asciicast (version 2)."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

READ_BYTES = 1 << 16


def record(command: Sequence[str], columns: int, rows: int, longest_pause: float) -> str:
    """Run *command* on a terminal of its own and return the asciicast. Pauses are at most *longest_pause* seconds long.

    Raises RuntimeError if the command fails.
    """
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    program = subprocess.Popen(
        command,
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(screen)
    lines = [json.dumps({"version": 2, "width": columns, "height": rows})]
    shown, last, pending = 0.0, time.monotonic(), b""
    while data := _read(terminal):
        now = time.monotonic()
        shown += min(now - last, longest_pause)
        last = now
        text, pending = _complete(pending + data)
        lines.append(json.dumps([round(shown, 3), "o", text]))
    os.close(terminal)
    if program.wait() != 0:
        raise RuntimeError(f"{' '.join(command)} ended with code {program.returncode}; run it to see its output")
    return "\n".join(lines) + "\n"


def text_of(cast: str) -> str:
    """Return all output in an asciicast."""
    return "".join(data for _, kind, data in map(json.loads, cast.splitlines()[1:]) if kind == "o")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, READ_BYTES)
    except OSError:  # Linux reports the end of a terminal as EIO
        return b""


def _complete(data: bytes) -> tuple[str, bytes]:
    """Return the text of *data*, and the bytes of an incomplete character at its end."""
    for end in range(len(data), max(len(data) - 4, -1), -1):
        try:
            return data[:end].decode(), data[end:]
        except UnicodeDecodeError:
            continue
    return data.decode(errors="replace"), b""
