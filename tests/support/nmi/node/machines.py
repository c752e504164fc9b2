"""Machines for tests of iptables rules: each is a network and mount namespace, which ends with its process.

Nothing outside of them changes: not the host's tables, and not its xtables lock, because each machine has its own /run.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from nmi.node.rule_changes import LockReleases
from tests.support.checkout import ROOT
from tests.support.waiting import until_sync

SECONDS = 60.0
"""The time limit of a command, and of a wait for a state. On a busy machine the start of Python alone takes seconds."""
NEVER = "--ipt-update-interval-sec=86400"
"""The flag with which NMI repairs only what the kernel reports."""
JUMP = "-A PREROUTING -j aad-metadata"
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"
_PREPARE = "mount -t tmpfs tmpfs /run && ip link set lo up && echo ready && exec cat"


class Machine:
    """One namespace pair, kept by a process that ends when its standard input closes."""

    def __init__(self) -> None:
        unshare = ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _PREPARE)
        self._keeper = Program(subprocess.Popen(unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert self._keeper.read() == "ready", "this machine does not let us make namespaces"

    @property
    def pid(self) -> int:
        """The process id that identifies this namespace."""
        return self._keeper.pid

    def inside(self, *words: str) -> list[str]:
        """Return the command that runs *words* in this machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wdns={ROOT}", "--", *words]

    def run(self, *words: str, given: str = "") -> str:
        """Run *words*, which must succeed, and return standard output."""
        done = self.finish(*words, given=given)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def finish(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run *words* and return the result."""
        return subprocess.run(
            self.inside(*words), input=given, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start *words*, for a Program."""
        return subprocess.Popen(self.inside(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def listening(self, port: int) -> socket.socket:
        """Return a listening socket of 127.0.0.1 in this machine, which this process serves."""
        from podidentity_sandbox.namespaces import call_inside  # noqa: PLC0415  most tests need no sandbox

        return call_inside(Path(f"/proc/{self.pid}/ns/net"), lambda: socket.create_server(("127.0.0.1", port)))

    def set_sysctl(self, values: dict[str, str]) -> None:
        """Write kernel settings, named as under /proc/sys, e.g. `net/ipv4/ip_forward`."""
        for setting, value in values.items():
            self.run("tee", f"/proc/sys/{setting}", given=value)

    def saved(self, backend: str) -> list[str]:
        """The output of iptables-save without comments and packet counters, or the ruleset of nftables."""
        if backend == "nftables":
            return self.run("nft", "list", "ruleset").splitlines()
        lines = self.run(f"iptables-{backend}-save").splitlines()
        return [line.split(" [")[0] for line in lines if not line.startswith("#")]

    def rules(self, backend: str, chain: str) -> list[str]:
        """Return the rules of one chain in every table."""
        return [line for line in self.saved(backend) if line.startswith(f"-A {chain} ")]

    def close(self) -> None:
        """End the machine; processes still in it keep it a little longer."""
        self._keeper.end()


class Program:
    """A process inside a machine that reads and prints lines. It ends when its input closes, as after its `with`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self) -> str:
        """Return the next line; empty if the process has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, line: str = "") -> str:
        self.write(line)
        return self.read()

    def end(self) -> tuple[int, str]:
        """Close the input. Return the exit code and the rest of the output."""
        try:
            output, _ = self._process.communicate(timeout=SECONDS)
        finally:
            self._process.kill()
        return self._process.returncode, output

    def kill(self) -> None:
        """Send SIGKILL, as a node's out-of-memory killer does."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Lock(Program):
    """The xtables lock of a machine, held until the end."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.start("flock", "/run/xtables.lock", "sh", "-c", "echo held; exec cat"))
        assert self.read() == "held"
        self._releases = LockReleases(Path(f"/proc/{machine.pid}/root/run/xtables.lock"))

    def has_refused(self, times: int) -> None:
        """Wait until other programs have given up the lock *times* times from now on."""
        for _ in range(times):
            until_sync(self._releases.read, "a program that wants the lock")

    @override
    def end(self) -> tuple[int, str]:
        self._releases.close()
        return super().end()


class Worker(Program):
    """A process inside a machine that holds one driver and executes commands (rule_worker.py)."""

    def __init__(self, machine: Machine, backend: str) -> None:
        super().__init__(machine.start(sys.executable, "-m", "tests.support.nmi.node.rule_worker", backend))

    def start(self, action: str, *details: object) -> str:
        """Send a command, which needs a lock that is held. Return its log message."""
        return str(json.loads(self.ask(json.dumps([action, *details])))["log"])

    def result(self) -> Any:
        """Return the result of the last command, and skip its log lines."""
        while "log" in (response := json.loads(self.read())):
            pass
        assert "done" in response, response
        return response["done"]

    def do(self, action: str, *details: object) -> Any:
        """Return the result of *action*."""
        self.write(json.dumps([action, *details]))
        return self.result()


@contextmanager
def machines(count: int) -> Iterator[Sequence[Machine]]:
    """*count* machines, unconnected."""
    with ExitStack() as made:
        yield [made.enter_context(closing(Machine())) for _ in range(count)]


def connect(first: Machine, first_address: str, second: Machine, second_address: str) -> None:
    """A cable between two machines; addresses as 10.0.0.1/24."""
    name = f"v{second.pid}"
    first.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"v{first.pid}", "netns", str(second.pid))
    for machine, device, address in ((first, name, first_address), (second, f"v{first.pid}", second_address)):
        machine.run("ip", "addr", "add", address, "dev", device)
        machine.run("ip", "link", "set", device, "up")
