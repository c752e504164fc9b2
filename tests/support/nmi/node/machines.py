"""Machines for tests of iptables rules: each is a network and mount namespace, which ends with its process.

Nothing outside of them changes: not the host's tables, and not its xtables lock, because each machine has its own /run.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import IO, Any, Self

from tests.support.checkout import ROOT

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
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _PREPARE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = _stream(self._keeper.stdout).readline()
        assert ready == "ready\n", "this machine does not let us make namespaces"

    @property
    def pid(self) -> int:
        """The process id that identifies this namespace."""
        return self._keeper.pid

    def inside(self, *words: str) -> list[str]:
        """Return the command that runs *words* in this machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wdns={ROOT}", "--", *words]

    def run(self, *words: str, given: str = "", check: bool = True) -> str:
        """Run *words* and return standard output. It must succeed unless *check* is False."""
        done = self.finish(*words, given=given)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def finish(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run *words* and return the result."""
        return subprocess.run(
            self.inside(*words), input=given, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start *words*. The caller ends the process."""
        return subprocess.Popen(self.inside(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def listening(self, port: int) -> socket.socket:
        """Return a listening socket of 127.0.0.1 in this machine, which this process serves."""
        ours, theirs = socket.socketpair()
        code = (
            f"import socket; listener = socket.create_server(('127.0.0.1', {port})); "
            f"socket.send_fds(socket.socket(fileno={theirs.fileno()}), [b'.'], [listener.fileno()])"
        )
        with ours, theirs:
            words = self.inside(sys.executable, "-c", code)
            subprocess.run(words, pass_fds=(theirs.fileno(),), timeout=SECONDS, check=True)
            _, (descriptor,), *_ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptor)

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
        _end(self._keeper)


class Worker:
    """A process inside a machine that holds one driver and executes commands (rule_worker.py)."""

    def __init__(self, machine: Machine, backend: str) -> None:
        self._process = machine.start(sys.executable, "-m", "tests.support.nmi.node.rule_worker", backend)

    def ask(self, action: str, *details: object) -> None:
        """Send a command without waiting."""
        stdin = _stream(self._process.stdin)
        stdin.write(json.dumps([action, *details]) + "\n")
        stdin.flush()

    def answer(self) -> Any:
        """Return its next line: {"done": result}, {"failed": text} or {"log": message}."""
        return json.loads(_stream(self._process.stdout).readline())

    def do(self, action: str, *details: object) -> Any:
        """Return the result of *action*, and skip its log lines."""
        self.ask(action, *details)
        while "log" in (answer := self.answer()):
            pass
        assert "done" in answer, answer
        return answer["done"]

    def kill(self) -> None:
        """Send SIGKILL, as a node's out-of-memory killer does."""
        self._process.kill()
        _end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)


@contextmanager
def machines(count: int) -> Iterator[Sequence[Machine]]:
    """*count* machines, unconnected."""
    made: list[Machine] = []
    try:
        for _ in range(count):
            made.append(Machine())  # noqa: PERF401  after a failure the earlier ones must be closed
        yield made
    finally:
        for machine in made:
            machine.close()


def connect(one: Machine, one_address: str, other: Machine, other_address: str) -> None:
    """A cable between two machines; addresses as 10.0.0.1/24."""
    name = f"v{other.pid}"
    one.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"v{one.pid}", "netns", str(other.pid))
    for machine, device, address in ((one, name, one_address), (other, f"v{one.pid}", other_address)):
        machine.run("ip", "addr", "add", address, "dev", device)
        machine.run("ip", "link", "set", device, "up")


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _end(process: "subprocess.Popen[str]") -> None:
    """Close its input, which ends it. Kill it if it does not end."""
    with suppress(BrokenPipeError):
        _stream(process.stdin).close()
    with closing(_stream(process.stdout)):
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
