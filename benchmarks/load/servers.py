"""Common parts of the servers under test: processes pinned to a core that end with their run, and a single request.

Each server is a context manager that yields a `Server`, which serves inside the block and has ended after it.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol, TypeVar

from benchmarks.load.addresses import FIRST_POD
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import ProgramError
from podidentity_sandbox.settings import INHERITED, USUAL_PATH

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
"""The folder of the programs' modules."""
TOKEN_PATH: Final = (  # a path, no secret
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"  # noqa: S105
)
METADATA: Final = {"Metadata": "true"}
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
TAIL_LINES: Final = 3


class Inside(Protocol):
    """Calls a function in a network namespace: its sockets and child processes belong to that namespace."""

    def __call__(self, function: Callable[[], T]) -> T: ...


def _here(function: Callable[[], T]) -> T:
    return function()


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the wire: the start of programs there, and of this process's sockets."""

    context: ExecutionContext
    call: Inside


HERE: Final = Side(ExecutionContext("127.0.0.1"), _here)
"""The side of servers without a wire: nodes and pods are on loopback."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as the load generator and the CPU measurement use it."""

    name: str
    address: str
    """The address that pods use, as is the port."""
    port: int
    pids: tuple[int, ...]
    """The processes whose CPU time is the server's."""
    pods: Side
    """The side on which its clients run."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response that http.client has read."""

    status: int
    body: bytes


@contextmanager
def folder() -> Iterator[Path]:
    """Create a folder with access for this user only, and delete it after the block."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def running(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    core: int | None,
    side: Side = HERE,
    commands: bool = False,
    orphan_signal: str = "KILL",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *argv* pinned to *core* from its first instruction on; its output goes to *log*.

    With *commands*, stdin and stdout are pipes instead. It receives *orphan_signal* if this process dies.
    Raises ProgramError if the program, `setpriv` or `taskset` (util-linux) does not exist.
    """
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    command = side.context.command([*pinned, *argv])
    environment = {variable: os.environ[variable] for variable in INHERITED if variable in os.environ}
    pipe = subprocess.PIPE if commands else None
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", orphan_signal, "--", *command],  # noqa: S607 - wherever the system has it
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                env={"PATH": USUAL_PATH, **environment, **side.context.environment},
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is handled by the run alone, which then stops its servers
            )
        except OSError as failure:
            raise ProgramError(f"{name} cannot be started: {failure} (setpriv is util-linux's)") from failure
    with process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Return once *ready*. Raises ProgramError, with the end of *log*, if the process ends first or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        ended, late = process.poll() is not None, time.monotonic() > deadline
        if ended or late:
            output = " | ".join(log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]) or "it said nothing"
            what = f"ended with code {process.returncode}" if ended else f"is not ready after {START_SECONDS:g} s"
            raise ProgramError(f"{name} {what}: {output}")
        time.sleep(POLL_SECONDS)


def is_listening(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


def get(
    address: str,
    port: int,
    path: str = TOKEN_PATH,
    *,
    source: str = "",
    headers: Mapping[str, str] = METADATA,
) -> Response:
    """Send one GET on a new connection from *source*. Raises OSError or HTTPException."""
    bound = (source, 0) if source else None
    connection = http.client.HTTPConnection(address, port, timeout=START_SECONDS, source_address=bound)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": address, "Connection": "close", **headers})
        response = connection.getresponse()
        return Response(response.status, response.read())


def check(server: Server, expected: bytes, *, source: str = FIRST_POD) -> None:
    """Send one request and compare the response with *expected*, a response of NMI: the same fields, and a similar
    length.

    Raises ProgramError if they differ: servers that do less work must not be in the same table.
    """
    response = server.pods.call(lambda: get(server.address, server.port, source=source))
    if response.status != HTTPStatus.OK:
        raise ProgramError(f"{server.name} answers {response.status}: {response.body[:200]!r}")
    fields, wanted = sorted(json.loads(response.body)), sorted(json.loads(expected))
    if fields != wanted:
        raise ProgramError(f"{server.name} answers with the fields {fields}, NMI with {wanted}")
    if abs(len(response.body) - len(expected)) > 16:
        raise ProgramError(f"{server.name} answers with {len(response.body)} bytes, NMI with {len(expected)}")


def program_path(program: str, *paths: Path) -> Path | None:
    """Return the path of *program*: on the PATH, in the folders for administrators' programs, or one of *paths*."""
    on_path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{USUAL_PATH}")
    return Path(on_path) if on_path else next((path for path in paths if os.access(path, os.X_OK)), None)
