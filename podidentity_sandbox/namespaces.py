"""Network namespaces of one sandbox: created, entered and removed, also those of a killed sandbox.

Linux and root only. Every name contains the process id and start time of its owner, so that two sandboxes use different
names, and leftovers can be recognised. This module changes no interface and no rule of the host's namespace.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from podidentity_sandbox.serving import listening

T = TypeVar("T")

PREFIX: Final = "podid"
NAMESPACES: Final = Path("/run/netns")
CONFIGURATIONS: Final = Path("/etc/netns")
"""`ip netns exec` mounts the files in the folder of a namespace over those of the same name in /etc."""
COMMAND_SECONDS: Final = 20  # an `ip` call takes milliseconds; a busy machine takes longer
_CLONE_NEWNET: Final = 0x40000000
_NAME: Final = re.compile(rf"{PREFIX}-(?P<pid>\d+)-(?P<started>\d+)-.+")


class NamespaceError(Exception):
    """A namespace cannot be created or entered. The message is the system's error."""


@contextlib.contextmanager
def trial() -> Iterator[list[str]]:
    """Make a namespace for a trial, and remove it. Yield the command prefix that enters it. Raise NamespaceError."""
    name = f"{owner()}-trial{threading.get_ident()}"
    _ip("netns", "add", name)
    try:
        yield _entering(name)
    finally:
        _ip("netns", "delete", name)


def of_any_sandbox(name: str) -> str:
    """Return the full name of the namespace that some sandbox of this machine calls *name*; empty where none does."""
    names = (path.name for path in NAMESPACES.glob(f"{PREFIX}-*-{name}"))
    return next((full for full in names if not orphaned(full)), "")


class Namespaces:
    """The namespaces of this process. *instance* distinguishes the sandboxes of one process.

    All methods block for milliseconds: call them by way of `asyncio.to_thread`.
    """

    def __init__(self, instance: str) -> None:
        self._prefix = f"{owner()}-{instance}"
        self._made: list[str] = []

    def full_name(self, name: str) -> str:
        """Return the name under /run/netns."""
        return f"{self._prefix}-{name}"

    def create(self, name: str) -> None:
        """Make the namespace, its loopback interface up. Raise NamespaceError."""
        full = self.full_name(name)
        _ip("netns", "add", full)
        self._made.append(name)
        _ip("-n", full, "link", "set", "lo", "up")

    def delete(self, name: str) -> None:
        """Remove the namespace and all links in it; processes inside continue. Do nothing if it does not exist."""
        with contextlib.suppress(NamespaceError):
            _ip("netns", "delete", self.full_name(name))
        shutil.rmtree(CONFIGURATIONS / self.full_name(name), ignore_errors=True)
        with contextlib.suppress(ValueError):
            self._made.remove(name)

    def delete_all(self) -> None:
        """Remove every namespace that this object made, youngest first."""
        for name in reversed(tuple(self._made)):
            self.delete(name)

    def set_name_server(self, name: str, address: str) -> None:
        """Let programs that `command` starts in the namespace resolve names by the server at *address*."""
        folder = CONFIGURATIONS / self.full_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {address}\n")

    def link(self, first: str, first_end: str, second: str, second_end: str) -> None:
        """Connect two namespaces by a cable; each end is up. Raise NamespaceError."""
        cable = f"link add {first_end} type veth peer name {second_end} netns {self.full_name(second)}"
        self.inside(first, [cable, f"link set {first_end} up"])
        self.inside(second, [f"link set {second_end} up"])

    def inside(self, name: str, commands: Iterable[str]) -> None:
        """Run `ip` commands inside the namespace. Raise NamespaceError."""
        _ip("-n", self.full_name(name), "-batch", "-", batch="\n".join(commands))

    def set_sysctl(self, name: str, values: dict[str, str]) -> None:
        """Write kernel settings of the namespace, named as under /proc/sys, e.g. `net/ipv4/ip_forward`."""

        def write() -> None:
            for setting, value in values.items():
                Path("/proc/sys", setting).write_text(value)

        self.call(name, write)

    def call(self, name: str, function: Callable[[], T]) -> T:
        """Call *function* inside the namespace, as `call_inside`."""
        return call_inside(NAMESPACES / self.full_name(name), function)

    def listening(self, name: str, host: str, port: int) -> socket.socket:
        """Return a listening socket inside the namespace, usable from anywhere in this process. Raise OSError."""
        return self.call(name, lambda: listening(host, port))

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs *argv* inside the namespace, without a parent process."""
        return [*_entering(self.full_name(name)), *argv]


def sweep() -> None:
    """Remove the namespaces of killed sandboxes, and the processes in them."""
    if not NAMESPACES.is_dir() or os.geteuid() != 0:
        return
    for path in sorted(NAMESPACES.glob(f"{PREFIX}-*")):
        if not orphaned(path.name):
            continue
        with contextlib.suppress(NamespaceError, ProcessLookupError):
            for process in _ip("netns", "pids", path.name).split():
                os.kill(int(process), signal.SIGKILL)
        with contextlib.suppress(NamespaceError):
            _ip("netns", "delete", path.name)
    for folder in CONFIGURATIONS.glob(f"{PREFIX}-*"):
        if orphaned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def owner() -> str:
    """Return the prefix of the names of everything that a killed process leaves on the machine."""
    return f"{PREFIX}-{os.getpid()}-{_start_time(os.getpid())}"


def orphaned(name: str) -> bool:
    """Return whether the process that owns the namespace *name* has ended."""
    match = _NAME.fullmatch(name)
    return match is not None and _start_time(int(match["pid"])) != match["started"]


def _entering(full: str) -> list[str]:
    """Return the command prefix that runs a program in the namespace."""
    return ["ip", "netns", "exec", full]


def _start_time(pid: int) -> str:
    """Return the start time of the process in ticks since boot; empty if there is no such process."""
    try:
        # The name, in parentheses, may hold spaces: field 22 is the twentieth after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def call_inside(path: Path, function: Callable[[], T]) -> T:
    """Call *function* in a new thread inside the namespace at *path*. Return its result or raise its exception.

    The thread ends with the call: no other code ever runs in it, so that nothing enters the namespace by mistake.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def enter_and_call() -> None:
        try:
            _enter(path)
            results.append(function())
        except Exception as failure:  # noqa: BLE001 - raised again in the calling thread
            failures.append(failure)

    thread = threading.Thread(target=enter_and_call, name=f"inside {path}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(path: Path) -> None:
    """Move the calling thread into a namespace. (os.setns exists from Python 3.12 on.)"""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


def _ip(*arguments: str, batch: str | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: PLW1510 - the code is read below
            ["ip", *arguments],  # noqa: S607 - found where the administrator's PATH has it
            input=batch,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise NamespaceError(f"ip {' '.join(arguments)}: {failure}") from failure
    if done.returncode != 0:
        raise NamespaceError(f"ip {' '.join(arguments)}: {done.stderr.strip()[:300]}")
    return done.stdout
