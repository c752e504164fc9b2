"""The real NMI under test: one process on one core."""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from benchmarks.load.cpu_limit import CpuLimit
from benchmarks.load.mounted import with_service_account
from benchmarks.load.node_servers import NODE, NodeServers
from benchmarks.load.servers import HERE, TOKEN_PATH, Server, Side, folder, get, running, wait_until
from benchmarks.load.wire import Wire, forget_closed
from benchmarks.machine import Cores
from benchmarks.results import OURS
from nmi.choices import RedirectTarget
from podidentity_sandbox.processes import ProgramError, python
from podidentity_sandbox.serving import free_ports

WARM_TRIES: Final = 5
"""Passes over the pods: while IMDS throttles and while a token is fetched, NMI does not keep each response."""

FINAL: Final = frozenset((400, 403, 404, 405))
"""Statuses that a repeated request does not change."""


@dataclass(frozen=True, slots=True)
class Node(Server):
    """A running NMI. `node` creates it."""

    probe_port: int
    metrics_port: int
    side: Side
    """The address of its probes and metrics."""

    def rss_mib(self) -> float:
        """Return the resident memory."""
        return self._status_mib("VmRSS")

    def peak_rss_mib(self) -> float:
        """Return the maximum of the resident memory since the start (VmHWM)."""
        return self._status_mib("VmHWM")

    def cpu_seconds(self) -> float:
        """Return the CPU time since the start, with that of ended child processes. Its resolution is 10 ms."""
        fields = Path(f"/proc/{self.pids[0]}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def used_percent(self, seconds: float) -> float:
        """Return the used part of a core during the next *seconds*, in percent."""
        cores = Cores()
        before = cores.used(self.pids)
        time.sleep(seconds)
        return (cores.used(self.pids) - before) / seconds * 100

    def token_response(self, pod: str, path: str = TOKEN_PATH) -> bytes:
        """Return the body of the response to the pod at this address. Raises ProgramError if it is no token."""
        given = self.pods.call(lambda: get(self.address, self.port, path, source=pod))
        if given.status != HTTPStatus.OK or b'"access_token"' not in given.body:
            raise ProgramError(f"{self.name} answers {pod} with {given.status}: {given.body[:300]!r}")
        return given.body

    def warm(self, pods: Sequence[str], path: str = TOKEN_PATH) -> None:
        """Send requests until the fast lane has a response for each of *pods*; 10,000 take ten seconds.

        Raises ProgramError if a pod never has one.
        """
        for _ in range(WARM_TRIES):
            before = self.lane()["fast_answers"]
            statuses = self.pods.call(lambda: [get(self.address, self.port, path, source=pod).status for pod in pods])
            if self.lane()["fast_answers"] - before == len(pods):
                return
            if final := [f"{pod} {status}" for pod, status in zip(pods, statuses, strict=True) if status in FINAL]:
                raise ProgramError(f"{self.name} refuses {len(final)} of the pods: {', '.join(final[:3])}")
        raise ProgramError(
            f"{self.name} keeps no ready response for some of the pods; the last pass gave {set(statuses)}"
        )

    def lane(self) -> dict[str, int]:
        """Return the counters of its lane: accepted, fast_answers, handed_over, …"""
        state = self.side.call(lambda: get("127.0.0.1", self.probe_port, "/debug/state")).body
        counters: dict[str, int] = json.loads(state)["server"]["lane"]
        return counters

    def _status_mib(self, field: str) -> float:
        (kib,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{self.pids[0]}/status").read_text(), re.MULTILINE)
        return int(kib) / 1024


@contextmanager
def node(
    node_servers: NodeServers,
    *,
    core: int | None = 0,
    behind: Wire | None = None,
    target: RedirectTarget = RedirectTarget.LOOPBACK,
    mounted: bool = False,
    limit: CpuLimit | None = None,
) -> Iterator[Node]:
    """Start NMI on *node_servers* and wait until it is Active. Raises ProgramError if it does not become Active.

    *mounted*: it finds the API server as in a pod, by its service account, not by a kubeconfig. *limit* limits its CPU
    time.

    It runs on loopback without a rule, or *behind* a wire whose node side has *node_servers*: then NMI's nat rule
    redirects to *target*, and it serves redirected connections only.
    """
    port, probe_port, metrics_port = free_ports(3)
    command = python(
        "nmi",
        f"--node={NODE}",
        *(() if mounted else (f"--kubeconfig={node_servers.kubeconfig}",)),
        "--nmi-listen-address=127.0.0.1",
        f"--nmi-port={port}",
        f"--http-probe-port={probe_port}",
        f"--prometheus-port={metrics_port}",
        f"--metadata-ip={behind.imds[0] if behind else '127.0.0.1'}",
        f"--metadata-port={node_servers.imds_port}",
        *(
            ("--redirect=iptables-nft", "--require-redirected", f"--redirect-target={target}")
            if behind
            else ("--redirect=none",)
        ),
    )
    with folder() as kept:
        log = kept / "nmi.log"
        if mounted:
            command = with_service_account(command, node_servers.kubeconfig, kept)
        if limit is not None:
            command = limit.enter(command)
        with running(OURS, command, log=log, core=core, side=node_servers.side) as process:
            address, its_port = behind.imds if behind else ("127.0.0.1", port)
            pods = behind.pods if behind else HERE
            made = Node(OURS, address, its_port, (process.pid,), pods, probe_port, metrics_port, node_servers.side)
            wait_until(lambda: node_servers.side.call(lambda: is_active(probe_port)), process, OURS, log)
            if behind:
                forget_closed(behind)
            yield made


def is_active(probe_port: int) -> bool:
    """Return whether the probe on this port of loopback has the text of an NMI that serves."""
    try:
        return get("127.0.0.1", probe_port, "/healthz", headers={}).body.strip() == b"Active"
    except OSError:
        return False
