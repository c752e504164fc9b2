"""A soak: the real NMI under load for minutes, during all kinds of faults of pods, IMDS and API server.

`python -m tests.nightly.soak.run SECONDS [REPORT]` or `make soak`; exit code 1 if any promise was broken. The promises:
no response with another pod's token, no growth of memory, descriptors, threads or metric series, most requests
answered.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.nightly.soak.pods import Pods
from tests.nightly.soak.soak_node import Faults, SoakNode, fetched
from tests.support.checkout import ROOT

SAMPLE_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 3.0
"""After the load, until NMI has noticed that no client is connected any more."""
HOLD_SECONDS: Final = 8.0
"""NMI's --max-hold: a fifth of the usual, so that requests held in a fault end soon after it."""
RSS_GROWTH_MIB: Final = 4.0
SERIES_MAX: Final = 600
"""Those that depend on nothing that pods choose, and a histogram for each status with each of two resources."""
FEWEST_TOKENS: Final = 0.5
"""Share of the requests that must get a token. Faults leave ready answers alone, so it is much more; far fewer would
mean that nothing was tested."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a soak."""

    seconds: float
    pods: int = 250
    identities: int = 24
    rate: float = 5000.0
    """Requests a second."""
    changes: float = 4.0
    """Addresses that change hands in a second."""
    fault_seconds: float = 10.0
    """The average time from one fault to the next, on either side."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """NMI at one moment."""

    seconds: float
    rss_kib: int
    descriptors: int
    threads: int
    series: int


@dataclass(slots=True)
class Report:
    """The results."""

    plan: dict[str, Any]
    commit: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    """Seconds until a token, by percentile."""
    wrong: list[dict[str, Any]] = field(default_factory=list)
    former_seconds: float = 0.0
    """The longest time after the announcement of a change until a request was sent that still got a token of the former
    owner. Changes during a fault of the API server are excluded: NMI learns of them after it."""
    changes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    before: Sample | None = None
    """With pods and tokens in place, but without connections."""
    after: Sample | None = None
    """Without connections again."""
    samples: list[Sample] = field(default_factory=list)
    log_bytes: int = 0
    cpu_seconds: float = 0.0
    """NMI's processor time."""

    def broken(self) -> list[str]:
        """A line for each promise that was not kept."""
        wrong = self.counts.get("wrong", 0)
        tokens = self.counts.get("status 200", 0)
        found = [f"{wrong} answers with another pod's token: {self.wrong[:3]}"] if wrong else []
        if tokens < FEWEST_TOKENS * self.counts.get("requests", 0) or not tokens:
            found.append(f"only {tokens} of {self.counts.get('requests', 0)} requests got a token")
        if failed := self.counts.get("status 500", 0):
            found.append(f"{failed} requests met a defect: see the tracebacks in NMI's log")
        if self.before is None or self.after is None:
            return [*found, "it did not come to its end"]
        if self.growth_mib() > RSS_GROWTH_MIB:
            found.append(f"memory grew by {self.growth_mib():.1f} MiB after the first third")
        for name, slack in (("descriptors", 6), ("threads", 2)):
            first, last = getattr(self.before, name), getattr(self.after, name)
            if last > first + slack:
                found.append(f"{name} went from {first} to {last} without connections")
        if self.after.series > SERIES_MAX:
            found.append(f"there are {self.after.series} metric series")
        return found

    def growth_mib(self) -> float:
        """Median of the last tenth of the samples over that of the tenth after the first third, memory in MiB."""
        tenth = max(1, len(self.samples) // 10)
        third = len(self.samples) // 3
        early = statistics.median(sample.rss_kib for sample in self.samples[third : third + tenth])
        late = statistics.median(sample.rss_kib for sample in self.samples[-tenth:])
        return (late - early) / 1024

    def summary(self) -> str:
        """Return the results without the samples, as JSON."""
        shown = {name: value for name, value in asdict(self).items() if name != "samples"}
        return json.dumps({**shown, "growth_mib": self.growth_mib(), "broken": self.broken()}, indent=1)


class Generator:
    """The load's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, port: int) -> "Generator":
        command = (sys.executable, "-m", "tests.nightly.soak.load", "127.0.0.1", str(port))
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 24))

    async def order(self, what: list[Any]) -> None:
        """Send a command. Returns when it is in the pipe: a reader of the pipe then receives it."""
        if self._process.stdin is None:
            raise RuntimeError("it was started with a pipe")
        self._process.stdin.transport.set_write_buffer_limits(0)
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def report(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("it was started with a pipe")
        await self.order(["report"])
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load has ended with code {await self._process.wait()}: see its traceback")
        result: dict[str, Any] = json.loads(line)
        return result

    async def stop(self) -> None:
        """Close its connections with resets and end it. Does nothing when it has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


async def soak(plan: Plan) -> Report:
    """Run the soak. Raises the sandbox's errors if it cannot be set up."""
    report = Report(asdict(plan), await asyncio.to_thread(commit))
    async with SoakNode(plan.identities, flags=(f"--max-hold={HOLD_SECONDS:g}s",)) as soak_node:
        faults = Faults(soak_node, plan.seed, every_seconds=plan.fault_seconds)
        load = await Generator.start(soak_node.port)
        try:
            pods = Pods(soak_node, faults, load.order, count=plan.pods, seed=plan.seed)
            await pods.fill()
            await warm(load, plan)
            report.before = await sample(soak_node, 0.0)
            await under_way(plan, soak_node, pods, load, report)
        finally:
            await load.stop()
        await asyncio.sleep(QUIET_SECONDS)
        report.after = await sample(soak_node, report.seconds)
        report.cpu_seconds = cpu_seconds(soak_node.nmi.pid)
        report.log_bytes = soak_node.nmi.log.stat().st_size
        report.changes, report.faults = pods.changes, faults.suffered
    return report


async def warm(load: Generator, plan: Plan) -> None:
    """Run until most tokens have been fetched once (IMDS gives 20 a second), and the number of held requests has
    reached its maximum.
    """
    await load.order(["rate", 200.0])
    await asyncio.sleep(min(20.0, plan.identities * 2 / 15))
    await load.order(["rate", 0.0])
    await load.order(["hold"])
    await asyncio.sleep(HOLD_SECONDS + QUIET_SECONDS)
    await load.order(["rest"])
    await load.report()
    await asyncio.sleep(QUIET_SECONDS)


async def under_way(plan: Plan, soak_node: SoakNode, pods: Pods, load: Generator, report: Report) -> None:
    """Run the soak itself; any early end of a part ends it."""
    faults = pods.faults
    await load.order(["rate", plan.rate])
    began = time.monotonic()
    around = [
        asyncio.create_task(pods.churn(plan.changes), name="pods come and go"),
        asyncio.create_task(faults.of_imds(), name="faults of IMDS"),
        asyncio.create_task(faults.of_the_api_server(), name="faults of the API server"),
    ]
    try:
        while (left := began + plan.seconds - time.monotonic()) > 0:
            await asyncio.wait(around, timeout=min(SAMPLE_SECONDS, left), return_when=asyncio.FIRST_COMPLETED)
            for task in around:
                if task.done():
                    await task
            if soak_node.nmi.returncode is not None:
                raise soak_node.nmi.exit_error()
            report.samples.append(await sample(soak_node, time.monotonic() - began))
    finally:
        for task in around:
            task.cancel()
        await asyncio.wait(around)
    result = await load.report()
    report.seconds = time.monotonic() - began
    report.counts, report.latency, report.wrong = result["counts"], result["latency"], result["wrong"]
    report.former_seconds = result["former_seconds"]


async def sample(soak_node: SoakNode, seconds: float) -> Sample:
    metrics = await asyncio.to_thread(fetched, soak_node.metrics_port, "/metrics")
    lines = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    process = Path(f"/proc/{soak_node.nmi.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(
        round(seconds, 1),
        int(status["VmRSS"].split()[0]),
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        len(lines),
    )


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of the process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def commit() -> str:
    """Return the tested commit, with a mark if the work tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "no repository"


def main() -> int:
    seconds = float(sys.argv[1])
    report = asyncio.run(soak(Plan(seconds)))
    sys.stdout.write(report.summary() + "\n")
    if len(sys.argv) > 2:
        result = Path(sys.argv[2])
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps({**asdict(report), "broken": report.broken()}, indent=1) + "\n")
    for line in report.broken():
        sys.stdout.write(f"BROKEN: {line}\n")
    return 1 if report.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
