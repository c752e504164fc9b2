"""A pod, its node, and a machine with IMDS's address, to try with packets what rules do to them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.nmi.node.machines import SECONDS, Machine, Program, connect, machines

IMDS = "169.254.169.254"
# Answers with its name and the address of its peer, and keeps the connection until the peer closes it.
SERVE = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
def respond(peer, address):
    while peer.recv(100):
        peer.sendall(f"{sys.argv[3]} saw {address[0]}\\n".encode())
def serve():
    while True:
        threading.Thread(target=respond, args=listener.accept(), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
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


def serving(machine: Machine, address: str, port: int, name: str) -> Program:
    """Start a server inside a machine."""
    server = Program(machine.start(sys.executable, "-c", SERVE, address, str(port), name))
    assert server.read() == "listening"
    return server


def response_to(machine: Machine, address: str = IMDS, port: int = 80, seconds: float = SECONDS / 2) -> str:
    """Return the response to a new connection, or the name of its error."""
    done = machine.finish(sys.executable, "-c", ASK, address, str(port), str(seconds), given="x\n")
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].split(":")[0]


def kept_connection(machine: Machine) -> Program:
    """Open a connection to the address of IMDS. The program sends each line on it, and prints the response."""
    return Program(machine.start(sys.executable, "-c", ASK, IMDS, "80", str(SECONDS / 2)))
