"""The shape of a results file of `python -m benchmarks.run`: values here, JSON on disk.

A file is `benchmarks/results/<date>-<commit>.json`; its plots stand in a folder of the same name beside it. Results of
`benchmarks.controller.run` (`controller-….json`) have a shape of their own.
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


@dataclass(frozen=True, slots=True)
class Quartiles:
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures depend on, and nothing that names the machine."""

    cpu: str
    cores: int
    kernel: str
    memory_gib: int
    virtual: bool
    """Runs under a hypervisor, which can take time away."""
    governor: str | None
    """None: the kernel does not tell."""
    turbo: bool | None
    load: float
    """Mean over the minute before."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Of each round, ours through theirs. Requests a second: more is better; the others: less is."""

    rps: Quartiles
    cpu: Quartiles
    p50: Quartiles
    p99: Quartiles


@dataclass(frozen=True, slots=True)
class Control:
    """The same server measured as if it were two: how far apart chance alone puts them."""

    case: str
    rounds: int
    redone: int
    dirty: int
    ratios: Ratios
    agrees: bool
    """Each ratio's median is within `paired.AGREEMENT` of one."""


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
    """What kept a request from its right answer, also a status that the case does not expect."""
    against: Ratios | None
    """Compared with nginx; None for nginx itself and where it was not measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """A closed loop: each connection asks again as soon as it is answered."""

    key: str
    title: str
    description: str
    mode: Literal["keep-alive", "close"]
    connections: int
    pods: int
    series: tuple[Literal["connections", "pods"], ...]
    """Which curves it is a point of."""
    rounds: int
    redone: int
    """Measurements thrown away because something else used the cores meanwhile."""
    dirty: int
    """Measurements that count although the machine did not become quiet."""
    servers: dict[str, Served]


@dataclass(frozen=True, slots=True)
class Timely:
    """Latency counted from when each request was due."""

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    errors: int
    late_us: float
    """How late the generator itself sent, at p99: latency below this is the generator's."""


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests that come at a fixed rate, whether or not earlier ones are answered."""

    rate: int
    connections: int
    servers: dict[str, Timely]


@dataclass(frozen=True, slots=True)
class Background:
    """NMI answering while something else goes on in it or beside it."""

    key: str
    title: str
    meanwhile: str
    requests: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    stalls: int
    """Requests that took over 5 ms."""
    errors: int


@dataclass(frozen=True, slots=True)
class Memory:
    """NMI's resident memory."""

    pods: int
    idle_mib: float
    load_mib: float
    """The most that it ever had, start and load included; until commit e15db5da8a, what it had after the load."""


@dataclass(frozen=True, slots=True)
class Micro:
    """One compiled function, ns a call; None where there is no counterpart."""

    function: str
    corpus: str
    native: Quartiles
    oracle: Quartiles | None
    httptools: Quartiles | None


@dataclass(frozen=True, slots=True)
class Controller:
    """MIC's reading of so many pods, all assigned already: without HTTP and TLS."""

    pods: int
    cold_cpu_s: float
    """Reading all of it."""
    event_us: float
    """One event that changes nothing."""
    memory_mib: float
    arm_calls: int | None
    """In one interval while nothing changes; None in results of before that was counted."""


@dataclass(frozen=True, slots=True)
class Budget:
    what: str
    unit: str
    direction: Literal["at most", "at least"]
    limit: float
    aim: float | None
    got: float | None
    """None: not measured."""
    met: bool


@dataclass(frozen=True, slots=True)
class Results:
    date: datetime
    """UTC, when the run began."""
    commit: str
    """Ten digits."""
    changed: bool
    """Files differed from the commit."""
    full: bool
    """False: the quick run, with fewer rounds and cases."""
    seconds: float
    stolen_seconds: float
    """What a hypervisor took from the cores meanwhile."""
    machine: Machine
    control: Control | None
    cases: tuple[Case, ...]
    open_loop: tuple[OpenLoop, ...]
    background: tuple[Background, ...]
    memory: tuple[Memory, ...]
    micro: tuple[Micro, ...]
    controller: tuple[Controller, ...]
    budgets: tuple[Budget, ...]
    left_out: tuple[str, ...]
    """Sentences: what the figures do not tell."""
    schema: int = SCHEMA


def file_name(found: Results) -> str:
    """A plus stands for files that differed from the commit."""
    return f"{found.date:%Y-%m-%d}-{found.commit}{'+' if found.changed else ''}.json"


def write(found: Results, folder: Path = FOLDER) -> Path:
    """The file it is in. An earlier run of the same day and commit is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / file_name(found)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return file


def read(file: Path) -> Results:
    """Raises ValueError for a file of another shape."""
    body = file.read_bytes()
    try:
        schema = msgspec.json.decode(body, type=dict[str, object]).get("schema")
        if schema == SCHEMA:
            return msgspec.json.decode(body, type=Results)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file.name} is no results file of this suite ({error}); run `make bench` anew") from error
    raise ValueError(f"{file.name} has schema {schema}, this is {SCHEMA}: read it with the suite of its own commit")
