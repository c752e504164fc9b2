"""Client of the process with the emulated API server and IMDS around the NMI under test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.load.addresses import FIRST_POD, addresses
from benchmarks.load.emulator_commands import AddPods, Churn, Command, Counts, GetCounts, Relist, SetImds, line
from benchmarks.load.servers import HERE, Side, folder, running
from podidentity_sandbox.processes import ProgramError, python
from podidentity_sandbox.tokens import TOKEN_SECONDS

NODE: Final = "node-000000"
"""The name that `benchmarks.controller.stream` gives the first node."""
IDENTITIES: Final = 24
LOG: Final = "emulators.log"
KUBECONFIG: Final = "kubeconfig"

_counts = msgspec.json.Decoder(Counts)


class NodeServers:
    """API server and IMDS of one node. `node_servers` creates it. Each call blocks until the command is complete."""

    def __init__(self, process: subprocess.Popen[bytes], *, side: Side, first_pod: str, kept: Path) -> None:
        self._process = process
        self._log = kept / LOG
        self._first_pod = first_pod
        self.side = side
        """The side on which it runs, and the node."""
        self.kubeconfig = kept / KUBECONFIG
        self.imds_port = self.counts().imds_port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pods(self) -> list[str]:
        """Return the addresses of all pods on the node in the order of their creation."""
        return addresses(self.counts().pods, self._first_pod)

    def add_pods(self, count: int) -> list[str]:
        """Create this number of pods with an Assigned identity each. Return all addresses.

        10,000 take about ten seconds.
        """
        self._send(AddPods(count))
        return self.pods

    def set_imds(self, *, delay_ms: float = 0.0, token_seconds: float = TOKEN_SECONDS) -> None:
        """Set the delay of IMDS's responses and the lifetime of new tokens."""
        self._send(SetImds(delay_ms, token_seconds))

    def churn(self, events_per_second: float, seconds: float) -> None:
        """Start writes that NMI receives and that change nothing for it, and return.

        Three of four events are heartbeats in pods' statuses, the others annotations of AzureAssignedIdentities. A
        churn in progress ends first; 0 seconds start none.
        """
        self._send(Churn(events_per_second * 0.75, events_per_second * 0.25, seconds))

    def relist(self) -> None:
        """Have all watching clients list again. `counts` has the number of started lists.

        NMI starts within a second if its watches have existed for one; more frequent calls increase its backoff.
        """
        self._send(Relist())

    def counts(self) -> Counts:
        """Return the current counts."""
        return self._send(GetCounts())

    def _send(self, command: Command) -> Counts:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("it was started with pipes")
        try:
            self._process.stdin.write(line(command))
            self._process.stdin.flush()
            response = self._process.stdout.readline()
        except BrokenPipeError:
            response = b""
        if not response:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ProgramError(f"the emulators have ended: {' '.join(last) or 'they said nothing'}")
        return _counts.decode(response)


@contextmanager
def node_servers(
    *,
    identities: int = IDENTITIES,
    core: int | None = 1,
    side: Side = HERE,
    first_pod: str = FIRST_POD,
    imds: tuple[str, int] = ("127.0.0.1", 0),
) -> Iterator[NodeServers]:
    """Start the emulators of a node without pods. Raises ProgramError.

    *imds* is the address that IMDS listens on (port 0: any); pod number n has identity n modulo *identities*.
    """
    with folder() as kept:
        arguments = (
            str(kept / KUBECONFIG),
            f"--identities={identities}",
            f"--first-pod={first_pod}",
            f"--imds-address={imds[0]}",
            f"--imds-port={imds[1]}",
        )
        command = python("benchmarks.load.emulators", *arguments)
        with running("the emulators", command, log=kept / LOG, core=core, side=side, commands=True) as process:
            yield NodeServers(process, side=side, first_pod=first_pod, kept=kept)
