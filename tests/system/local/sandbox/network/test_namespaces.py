"""Real network namespaces: created, entered and removed, also those of a killed owner. Excluded: pods' routes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podidentity_sandbox.namespaces import NAMESPACES, NamespaceError, Namespaces, available, owner, sweep

OWN = Path("/proc/thread-self/ns/net")

pytestmark = pytest.mark.root


def ended(pid: int) -> None:
    """Wait until the process is gone: its adopting process reaps an orphan with a delay."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """The namespace `one`. The test leaves no namespace behind."""
    assert available()
    made = Namespaces("t1")
    made.create("one")
    yield made
    made.delete_all()
    assert not list(NAMESPACES.glob(f"{owner()}-t*"))


def test_a_socket_of_a_namespace_is_reachable_only_inside(namespaces: Namespaces) -> None:
    namespaces.create("two")
    with namespaces.listening("one", "127.0.0.1", 7777):
        asking = "import socket; socket.create_connection(('127.0.0.1', 7777), 2)"
        for name, code in (("one", 0), ("two", 1)):
            command = namespaces.command(name, [sys.executable, "-c", asking])
            assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_the_calling_thread_keeps_its_namespace_and_failures_are_raised(namespaces: Namespaces) -> None:
    own = OWN.readlink()
    inside = namespaces.call("one", lambda: (OWN.readlink(), threading.get_ident()))
    assert inside[0] != own
    assert inside[1] != threading.get_ident()
    assert OWN.readlink() == own
    with pytest.raises(ZeroDivisionError):
        namespaces.call("one", lambda: 1 // 0)
    namespaces.delete("one")
    with pytest.raises(OSError, match="No such file"):
        namespaces.call("one", lambda: None)


def test_two_of_one_name_are_rejected_and_deleting_a_missing_one_is_no_error(namespaces: Namespaces) -> None:
    with pytest.raises(NamespaceError, match="exists"):
        Namespaces("t1").create("one")
    namespaces.delete("one")
    namespaces.delete("one")


def test_leftovers_of_a_killed_owner_are_removed_and_others_remain() -> None:
    program = (
        "import subprocess, sys\n"
        "from podidentity_sandbox.namespaces import Namespaces\n"
        "made = Namespaces('t4')\n"
        "made.create('left')\n"
        "child = subprocess.Popen(made.command('left', ['sleep', '60']), stdout=subprocess.DEVNULL)\n"
        "print(made.full_name('left'), child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    mine = Namespaces("t5")
    mine.create("kept")
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        name, child = process.stdout.readline().split()
        assert name not in sweep()
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A sandbox that another test starts at this moment may remove it first.
        while (NAMESPACES / name).exists():
            sweep()
        assert (NAMESPACES / mine.full_name("kept")).exists()
        ended(int(child))
    finally:
        process.kill()
        process.communicate()
        mine.delete_all()
