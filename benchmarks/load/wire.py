"""A node and its pods in network namespaces, so that the load has the path of a real node. Needs root.

    pods: 10.200.0.1, 10.200.0.2, …  ──cable──  node: 169.254.169.254 led by a nat rule to 127.0.0.1 or 10.199.0.1

Each server has a separate wire with one rule in the nat table. All pods are in one namespace, since one process sends
the requests of all pods; start it there with `Wire.pods`. IMDS is on the node itself: NMI's requests to it pass no
rule, as on real nodes.
"""

import dataclasses
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.load.addresses import addresses
from benchmarks.load.servers import Server, Side
from nmi.node.rules import RedirectSpec
from podidentity_sandbox.namespaces import NamespaceError, Namespaces, sweep
from podidentity_sandbox.network import METADATA_ADDRESS, ExecutionContext
from podidentity_sandbox.processes import ProgramError

T = TypeVar("T")

FIRST_POD: Final = "10.200.0.1"
PODS: Final = "10.200.0.0/16"
PODS_MAX: Final = 1000
TIME_WAIT: Final = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait")
TIME_WAIT_SECONDS: Final = "5"
NODE_END, PODS_END = "10.199.0.1", "10.199.0.2"


@dataclass(frozen=True, slots=True)
class Wire:
    """Both ends of the wire. `wire` creates it."""

    node: Side
    pods: Side
    imds: tuple[str, int] = (METADATA_ADDRESS, 80)
    """The address that pods use, and IMDS's address on the node."""


@contextmanager
def wire(pods: int) -> Iterator[Wire]:
    """Create a node for this number of pods, from FIRST_POD on. Raises ProgramError if namespaces are not permitted."""
    if pods > PODS_MAX:
        raise ValueError(f"a wire has up to {PODS_MAX} pods")
    sweep()
    made = Namespaces(secrets.token_hex(3))
    try:
        for name in ("node", "pods"):
            made.create(name)
        made.link("node", "cable", "pods", "eth0")
        made.inside(
            "node",
            [
                f"address add {NODE_END}/30 dev cable",
                f"address add {METADATA_ADDRESS}/32 dev lo",
                f"route add {PODS} via {PODS_END}",
                f"route add default via {PODS_END}",  # by which NMI finds the node's address
            ],
        )
        made.set_sysctl("node", {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/route_localnet": "1"})
        made.inside(
            "pods",
            [
                f"address add {PODS_END}/30 dev eth0",
                *(f"address add {address}/32 dev lo" for address in addresses(pods, FIRST_POD)),
                f"route add default via {NODE_END}",
            ],
        )
        yield Wire(_side(made, "node", NODE_END), _side(made, "pods", FIRST_POD))
    except NamespaceError as failure:
        raise ProgramError(
            f"cannot create network namespaces: {failure}; run as root with the `ip` program, or leave these rows out"
        ) from failure
    finally:
        made.delete_all()


def led_to(server: Server, by: Wire) -> Server:
    """Return *server*, which listens on the node's loopback, with the address that pods use: by the same rule as NMI's.

    The rule exists as long as the wire. Raises ProgramError if it cannot be written.
    """
    rule = RedirectSpec(*by.imds, server.address, server.port).redirect
    commands = (
        f"-N {rule.chain}",
        *(f"-A {rule.chain} {text}" for text in rule.rules),
        f"-A {rule.hook} {rule.text}",
    )
    for command in commands:
        argv = by.node.context.command(["iptables", "-w", "-t", rule.table, *command.split()])
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProgramError(f"iptables {command}: {done.stderr.strip()}")
    forget_closed(by)
    return dataclasses.replace(server, address=by.imds[0], port=by.imds[1], pods=by.pods)


def forget_closed(by: Wire) -> None:
    """Have the node's kernel drop closed connections early: a connection per request fills its table quickly.

    Call it after the rule is written, since the kernel tracks connections from then on. Raises ProgramError.
    """
    try:
        by.node.call(lambda: TIME_WAIT.write_text(TIME_WAIT_SECONDS))
    except OSError as failure:
        raise ProgramError(f"cannot set the kernel's timeout for closed connections: {failure}") from failure


def _side(made: Namespaces, name: str, address: str) -> Side:
    def call(function: Callable[[], T]) -> T:
        return made.call(name, function)

    return Side(ExecutionContext(address, tuple(made.command(name, ()))), call)
