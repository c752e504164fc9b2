"""The types of a results file of `python -m benchmarks.run`: values in memory, JSON on disk.

A file is `benchmarks/results/<date>-<commit>.json`; its table is in a folder of the same name. Results of
`benchmarks.controller.run` (`controller-….json`) have other types.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

SCHEMA: Final = 1
FOLDER: Final = Path(__file__).parent / "results"
BASE: Final = "nginx"
"""The server that the others are compared with."""
OURS: Final = "nmi"
REFERENCE: Final = "go"
"""The Go implementation, if REFERENCE_NMI names it. Its errors are shown, and do not make a run invalid."""


@dataclass(frozen=True, slots=True)
class Quartiles:
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Properties of the machine that the figures depend on, without its name."""

    cpu: str
    cores: int
    kernel: str
    memory_gib: int
    virtual: bool
    """Whether it runs under a hypervisor, which can take CPU time."""
    governor: str | None
    """None if the kernel does not report it."""
    turbo: bool | None
    load: float
    """The mean of the minute before the run."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ratios per round, NMI's figure divided by nginx's.

    For requests per second higher is better; for the others, lower.
    """

    rps: Quartiles
    cpu: Quartiles
    p50: Quartiles
    p99: Quartiles


@dataclass(frozen=True, slots=True)
class Control:
    """The same server measured as if it were two: the difference by chance."""

    case: str
    rounds: int
    redone: int
    dirty: int
    ratios: Ratios
    agrees: bool
    """Whether each ratio's median is within `paired.AGREEMENT` of one."""


@dataclass(frozen=True, slots=True)
class Served:
    """One server in one case. CPU is the server's processes' time for each request."""

    rps: Quartiles
    cpu_us: Quartiles
    user_us: Quartiles
    system_us: Quartiles
    p50_us: Quartiles
    p99_us: Quartiles
    p999_us: Quartiles
    statuses: dict[int, int]
    errors: dict[str, int]
    """Errors of requests, including statuses that the case does not expect."""
    against: Ratios | None
    """The comparison with nginx; None for nginx itself and if nginx was not measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """A closed loop: each connection sends the next request when it has the response."""

    key: str
    title: str
    description: str
    mode: Literal["keep-alive", "close"]
    connections: int
    pods: int
    rounds: int
    redone: int
    """Measurements that were discarded because another process used the cores."""
    dirty: int
    """Measurements that were kept although another process used the cores."""
    servers: dict[str, Served]


@dataclass(frozen=True, slots=True)
class Timely:
    """Latency from the time that each request was due."""

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    errors: int
    late_us: float
    """The p99 of the generator's own delay. Latency below it is caused by the generator."""


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """An open loop: requests at a fixed rate, independently of earlier responses."""

    rate: int
    connections: int
    servers: dict[str, Timely]


@dataclass(frozen=True, slots=True)
class Background:
    """NMI under load during a disturbance."""

    key: str
    title: str
    meanwhile: str
    requests: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    stalls: int
    """The number of requests that took over 5 ms."""
    errors: int


@dataclass(frozen=True, slots=True)
class Memory:
    """NMI's resident memory."""

    pods: int
    idle_mib: float
    load_mib: float
    """The maximum since the start, load included. Until commit e15db5da8a: the memory after the load."""
    idle_percent: float | None = None
    """The used part of a core without requests, after the load; None in results before 2026-11-28."""


@dataclass(frozen=True, slots=True)
class Start:
    """NMI's start until it is Active."""

    cores: float | None
    """The limit of CPU time; None without a limit."""
    seconds: float
    cpu_seconds: float
    kubeconfig: bool = False
    """Whether NMI read a kubeconfig, in another process, instead of its service account."""


@dataclass(frozen=True, slots=True)
class ReferenceFootprint:
    """The start of the Go implementation with a kubeconfig on a full node, until it is Active."""

    seconds: float
    cpu_seconds: float
    rss_mib: float
    """After two responses."""


@dataclass(frozen=True, slots=True)
class Budget:
    what: str
    unit: str
    direction: Literal["at most", "at least"]
    limit: float
    aim: float | None
    got: float | None
    """None if not measured."""
    met: bool


@dataclass(slots=True)
class Results:
    """The results of a run. The parts that it has not measured are empty."""

    date: datetime
    """The start of the run, UTC."""
    commit: str
    """Ten digits."""
    changed: bool
    """Files differed from the commit."""
    full: bool
    """False for the quick run, with fewer rounds and cases."""
    machine: Machine
    seconds: float = 0.0
    stolen_seconds: float = 0.0
    """Seconds that a hypervisor took from the cores during the run."""
    control: Control | None = None
    cases: tuple[Case, ...] = ()
    open_loop: tuple[OpenLoop, ...] = ()
    background: tuple[Background, ...] = ()
    memory: tuple[Memory, ...] = ()
    starts: tuple[Start, ...] = ()
    """Empty in results before 2026-12-01."""
    reference: ReferenceFootprint | None = None
    """None without REFERENCE_NMI."""
    budgets: tuple[Budget, ...] = ()
    left_out: tuple[str, ...] = ()
    """Sentences on the limits of the figures."""
    schema: int = SCHEMA


def file_name(results: Results) -> str:
    """Return the name. A plus means files that differed from the commit."""
    return f"{results.date:%Y-%m-%d}-{results.commit}{'+' if results.changed else ''}.json"


def write(results: Results, folder: Path = FOLDER) -> Path:
    """Write the file and return its path. It replaces an earlier run of the same day and commit."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / file_name(results)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return file


def read(file: Path) -> Results:
    """Read a file. Raises ValueError for a file of another type."""
    body = file.read_bytes()
    try:
        schema = msgspec.json.decode(body, type=dict[str, object]).get("schema")
        if schema == SCHEMA:
            return msgspec.json.decode(body, type=Results)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file.name} is no results file of this suite ({error}); run `make bench` again") from error
    raise ValueError(f"{file.name} has schema {schema}, this is {SCHEMA}: read it with the suite of its own commit")
