"""A pod, its node, and a machine with IMDS's address, to try with packets what rules do to them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.nmi.node.machines import SECONDS, Machine, connect, machines

IMDS = "169.254.169.254"
# Answers with its name and the address of its peer, and keeps the connection until the peer closes it.
SERVE = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
def answer(peer, address):
    while peer.recv(100):
        peer.sendall(f"{sys.argv[3]} saw {address[0]}\\n".encode())
while True:
    threading.Thread(target=answer, args=listener.accept(), daemon=True).start()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as peer:
    for line in sys.stdin:
        try:
            peer.sendall(line.encode())
            print(peer.recv(100).decode().strip() or "closed", flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
            break
"""


@dataclass
class Site:
    pod: Machine
    node: Machine
    imds: Machine


@contextmanager
def sites(backend: str) -> Iterator[Site]:
    """The three machines with servers in place of NMI and IMDS, and without rules of NMI."""
    with machines(3) as (pod, node, imds):
        connect(pod, "10.244.0.7/24", node, "10.244.0.1/24")
        connect(node, "169.254.0.1/16", imds, f"{IMDS}/16")
        pod.run("ip", "route", "add", "default", "via", "10.244.0.1")
        imds.run("ip", "route", "add", "default", "via", "169.254.0.1")
        node.set_sysctl({"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/route_localnet": "1"})
        # As on every real node: the kernel tracks connections only where some rule needs it.
        node.run(f"iptables-{backend}", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
        with serving(imds, IMDS, 80, "imds"), serving(node, "127.0.0.1", 2579, "nmi"):
            yield Site(pod, node, imds)


class serving:  # noqa: N801  reads as a verb where it is used
    """A server inside a machine."""

    def __init__(self, machine: Machine, *where: object) -> None:
        self._process = machine.start(sys.executable, "-c", SERVE, *map(str, where))
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def asked(machine: Machine, address: str = IMDS, port: int = 80, seconds: float = SECONDS / 2) -> str:
    done = machine.finish(sys.executable, "-c", ASK, address, str(port), str(seconds), given="x\n")
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].split(":")[0]


def open_connection(machine: Machine) -> tuple["subprocess.Popen[str]", Callable[[], str]]:
    """A kept-alive connection to the address of IMDS, and the process that sends on it and prints the answer."""
    process = machine.start(sys.executable, "-c", ASK, IMDS, "80", str(SECONDS / 2))
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def connect_and_talk() -> str:
        stdin.write("x\n")
        stdin.flush()
        return stdout.readline().strip()

    return process, connect_and_talk
