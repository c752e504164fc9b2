"""Load on an HTTP server, and its results: the typed interface of generator.c, which describes the measurement.

The C program is compiled on demand in build/bench/ of the repository. All functions block; call them from an event loop
with asyncio.to_thread.
"""

import contextlib
import json
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.compiled import OUTPUT, compiled

HERE: Final = Path(__file__).parent
SOURCES: Final = tuple(HERE / name for name in ("generator.c", "response.c", "specification.c", "result.c"))
HEADERS: Final = (HERE / "generator.h", HERE / "times.h")
PROGRAM: Final = OUTPUT / "generator"
MANTISSA: Final = 7
"""As in times.h."""


class GeneratorError(Exception):
    """The load generator cannot run on this machine. The message names the missing part."""


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request without a body, and the offset of the 16 hexadecimal digits that differ in each copy.

    Hyphens among the digits, as in a UUID, are kept.
    """

    text: bytes
    ids: tuple[int, ...] = ()

    def closing(self) -> "Request":
        """Return the request with `Connection: close` in place of any other Connection field."""
        close = b"Connection: close\r\n"
        if not (field := re.search(rb"(?i)(?<=\r\n)connection:[^\r\n]*\r\n", self.text)):
            return replace(self, text=self.text[:-2] + close + b"\r\n")
        longer = len(close) - len(field[0])
        text = self.text[: field.start()] + close + self.text[field.end() :]
        return Request(text, tuple(at if at < field.start() else at + longer for at in self.ids))


@dataclass(frozen=True, slots=True)
class Group:
    """Clients of one kind. With *close* each request has a new connection, which the server closes; else connections
    are kept.

    *rate* is the number of requests per second of all clients together; latency starts at the time that a request was
    due (open loop). Without *rate* each client sends when it has its response (closed loop).
    """

    name: str
    connections: int
    first_source: str
    """Connections are bound round-robin to *sources* addresses that start here."""
    sources: int
    requests: tuple[Request, ...]
    """Used round-robin."""
    close: bool = False
    """Whether requests are sent with `Connection: close`."""
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of durations, each within 0.4 % or 1 ns."""

    max_us: float
    buckets: tuple[tuple[int, int], ...] = ()
    """Numbers of buckets in ascending order, and their counts. times.h defines the numbers."""

    @property
    def count(self) -> int:
        return sum(count for _, count in self.buckets)

    def quantile(self, share: float) -> float:
        """Return the quantile *share* (0 to 1) in µs. Raises ValueError without durations."""
        wanted = max(math.ceil(share * self.count), 1)
        for bucket, count in self.buckets:
            wanted -= count
            if wanted <= 0:
                return min(_middle_us(bucket), self.max_us)
        raise ValueError("nothing was measured, so it has no quantiles")

    def above(self, us: float) -> int:
        """Return the number of longer durations."""
        return sum(count for bucket, count in self.buckets if _middle_us(bucket) > us)


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one group: requests that were due (closed loop: sent) during counting, and got a response."""

    requests: int
    seconds: float
    """From the start of counting to its end, or to the last response, which may arrive up to 1 s later."""
    statuses: dict[int, int]
    errors: dict[str, int]
    """Only kinds that occurred: connect, no_port, send, reset, closed, short, framing, excess, unclosed, unanswered and
    given_up; result.c describes each. Failed requests are not included in *requests* or *latency*."""
    latency: Latency
    behind: Latency
    """Open loop: the delay of requests that were due although a connection was free, and of those that waited for a
    free connection. If this is a large part of *latency*, the generator or its core was the limit, not the server."""

    def rps(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run."""

    groups: dict[str, Measured]
    seconds: float
    """From the start of counting to the last response."""
    cpu_seconds: float
    """CPU time of the generator in that time. If it is almost all of it, the generator was the limit."""


class Load:
    """A run in progress. As a context manager it ends with the block at the latest."""

    def __init__(self, process: subprocess.Popen[bytes], names: Sequence[str]) -> None:
        self._process = process
        self._names = names
        self._first: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def counting(self) -> None:
        """Wait until the warm-up has ended and counting starts. Raises the same errors as wait()."""
        assert self._process.stdout
        if self._first is None:
            self._first = self._process.stdout.readline()
        if not self._first:
            self._explain()

    def wait(self) -> Run:
        """Wait for the end, at most 1 s longer than the requested duration.

        Raises ValueError for impossible groups, GeneratorError if the generator cannot run or was stopped.
        """
        self.counting()
        assert self._process.stdout
        result = self._process.stdout.readline()
        if not result.endswith(b"\n"):
            self._explain()
        self.stop()
        return _run(json.loads(result), self._names)

    def stop(self) -> None:
        """Stop the run, if it has not ended."""
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def _explain(self) -> None:
        assert self._process.stderr
        message = self._process.stderr.read().decode().strip()
        status = self._process.wait()
        self.stop()
        if status == 2:
            raise ValueError(message)
        raise GeneratorError(message or f"the load generator has ended with status {status}: start it again")


def built() -> Path:
    """Return the C program, which is compiled if it is missing or older than its source. Raises GeneratorError."""
    try:
        return compiled(PROGRAM, SOURCES, "-std=gnu11", inputs=HEADERS)
    except FileNotFoundError:
        raise GeneratorError(
            "no C compiler for the load generator: install gcc or clang, so that there is a cc"
        ) from None
    except subprocess.CalledProcessError as error:
        raise GeneratorError(f"the load generator does not compile: {error.stderr.strip()}") from error


def start(
    address: str,
    port: int,
    groups: Sequence[Group],
    seconds: float,
    *,
    core: int | None = None,
    warm_seconds: float = 0.5,
) -> Load:
    """Start the load of all *groups* on a server: *warm_seconds* without counting, then *seconds* with counting.

    Connections are opened during the warm-up, 32 per millisecond. Limits: both times together 60 s, 20,000 connections.
    Raises ValueError if two groups have the same name, GeneratorError without a compiler. Load reports other errors.
    """
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ValueError(f"each group needs a name of its own, not {', '.join(names)}")
    wanted = _specification(address, port, groups, seconds=seconds, core=core, warm_seconds=warm_seconds)
    pipe = subprocess.PIPE
    process = subprocess.Popen([built()], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin
    with contextlib.suppress(BrokenPipeError), process.stdin:  # a process that has ended has reported the reason
        process.stdin.write(wanted)
    return Load(process, names)


def run(
    address: str,
    port: int,
    groups: Sequence[Group],
    seconds: float,
    *,
    core: int | None = None,
    warm_seconds: float = 0.5,
) -> Run:
    """Call start() and Load.wait()."""
    with start(address, port, groups, seconds, core=core, warm_seconds=warm_seconds) as load:
        return load.wait()


def _specification(
    address: str, port: int, groups: Sequence[Group], *, seconds: float, core: int | None, warm_seconds: float
) -> bytes:
    lines = [
        f"server {address} {port}".encode(),
        f"core {-1 if core is None else core}".encode(),
        f"microseconds {round(warm_seconds * 1e6)} {round(seconds * 1e6)}".encode(),
        f"groups {len(groups)}".encode(),
    ]
    for group in groups:
        how = f"{'close' if group.close else 'keep'} {'closed' if group.rate is None else round(group.rate * 1000)}"
        clients = f"{group.connections} {group.first_source} {group.sources}"
        lines.append(f"group {clients} {how} {len(group.requests)}".encode())
        for request in group.requests:
            sent = request.closing() if group.close else request
            numbers = (len(sent.text), len(sent.ids), *sent.ids)
            lines += [f"request {' '.join(map(str, numbers))}".encode(), sent.text]
    return b"\n".join([*lines, b"end\n"])


def _run(result: dict[str, Any], names: Sequence[str]) -> Run:
    groups = {name: _measured(group) for name, group in zip(names, result["groups"], strict=True)}
    return Run(groups, result["nanoseconds"] / 1e9, result["cpu_seconds"])


def _measured(result: dict[str, Any]) -> Measured:
    return Measured(
        requests=result["requests"],
        seconds=result["nanoseconds"] / 1e9,
        statuses={int(status): count for status, count in result["statuses"].items()},
        errors=result["errors"],
        latency=_latency(result["latency"]),
        behind=_latency(result["behind"]),
    )


def _latency(result: dict[str, Any]) -> Latency:
    return Latency(result["max"] / 1e3, tuple((bucket, count) for bucket, count in result["buckets"]))


def _middle_us(bucket: int) -> float:
    shift = max((bucket >> MANTISSA) - 1, 0)
    first = (bucket - (shift << MANTISSA)) << shift
    return (first + ((1 << shift) - 1) / 2) / 1e3
