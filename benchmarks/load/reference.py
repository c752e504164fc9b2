"""The Go implementation's NMI (v1.8.17), which benchmarks measure for comparison.

The environment variable REFERENCE_NMI contains the path of its binary. The binary is not a part of this project, and
`make setup` does not install it. This NMI always writes a nat rule, so it runs in separate network namespaces with
separate emulators. Needs root and iptables.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.go_implementation import NMI, named_program
from benchmarks.load.addresses import FIRST_POD
from benchmarks.load.node import Node, is_active
from benchmarks.load.node_servers import NODE, node_servers
from benchmarks.load.servers import folder, running, wait_until
from benchmarks.load.wire import FIRST_POD as FIRST_BEHIND_A_WIRE
from benchmarks.load.wire import forget_closed, wire
from benchmarks.results import REFERENCE, ReferenceFootprint
from podidentity_sandbox.processes import ProgramError
from podidentity_sandbox.serving import free_ports


@dataclass(frozen=True, slots=True)
class Reference:
    """A running NMI of the Go implementation."""

    node: Node
    emulators: int
    """The process id of its emulators."""
    start_seconds: float
    """The time from its start until it is Active."""
    start_cpu_seconds: float


def binary(environment: Mapping[str, str]) -> Path | None:
    """Return the path in REFERENCE_NMI; None if the variable is not set.

    Raise ProgramError if the file is not executable, or this process is not root.
    """
    program = named_program(NMI, environment)
    if program is not None and os.geteuid() != 0:
        raise ProgramError(f"{NMI} needs root, because the Go implementation writes a nat rule; run as root")
    return program


def arguments(port: int, probe_port: int, metrics_port: int, imds: tuple[str, int]) -> list[str]:
    """Return the flags of the program. The two boolean flags have the defaults of this project's NMI."""
    return [
        f"--node={NODE}",
        f"--nmi-port={port}",
        f"--http-probe-port={probe_port}",
        f"--prometheus-port={metrics_port}",
        f"--metadata-ip={imds[0]}",
        f"--metadata-port={imds[1]}",
        "--metadata-header-required=true",
        "--enableScaleFeatures=true",
    ]


@contextmanager
def reference(program: Path, pods: int, *, behind: bool = False) -> Iterator[Reference]:
    """Start *program* on a node with *pods* pods, and check with two requests that the first two pods get tokens.

    Its clients send requests over the loopback interface of its network namespace, or, with *behind*, through its nat
    rule from another namespace. Raise ProgramError.
    """
    with wire(pods if behind else 1) as wired, folder() as kept:
        first_pod = FIRST_BEHIND_A_WIRE if behind else FIRST_POD
        own_imds = wired.imds if behind else ("127.0.0.1", 0)
        with node_servers(side=wired.node, first_pod=first_pod, imds=own_imds) as around:
            addresses = around.add_pods(pods)
            port, probe_port, metrics_port = free_ports(3)
            at_imds = wired.imds if behind else ("127.0.0.1", around.imds_port)
            command = ["env", f"KUBECONFIG={around.kubeconfig}", str(program)]
            command += arguments(port, probe_port, metrics_port, at_imds)
            log, began = kept / "reference.log", time.monotonic()
            with running(REFERENCE, command, log=log, core=0, side=wired.node) as process:
                address, its_port = wired.imds if behind else ("127.0.0.1", port)
                clients = wired.pods if behind else wired.node
                pids = (process.pid,)
                made = Node(REFERENCE, address, its_port, pids, clients, probe_port, metrics_port, wired.node)
                wait_until(lambda: wired.node.call(lambda: is_active(probe_port)), process, REFERENCE, log)
                seconds, cpu_seconds = time.monotonic() - began, made.cpu_seconds()
                if behind:
                    forget_closed(wired)
                for pod in addresses[:2]:
                    made.token_response(pod)
                yield Reference(made, around.pid, seconds, cpu_seconds)


def footprint(program: Path, pods: int) -> ReferenceFootprint:
    """Start *program* once on a node with *pods* pods. Return the time of the start and the memory that it uses."""
    with reference(program, pods) as started:
        return ReferenceFootprint(started.start_seconds, started.start_cpu_seconds, started.node.rss_mib())
