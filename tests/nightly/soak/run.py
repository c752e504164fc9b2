"""A soak: the real NMI under load for minutes, during all kinds of faults of pods, IMDS and API server.

`python -m tests.nightly.soak.run SECONDS` or `make soak` prints the results as JSON; exit code 1 if any promise was
broken. The promises: no response with another pod's token, no growth of memory, descriptors, threads or metric series,
most requests answered.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import Cores, commit
from podidentity_sandbox.processes import python
from tests.nightly.soak.pods import LEARN_SECONDS, Pods
from tests.nightly.soak.soak_node import Faults, SoakNode
from tests.support.checkout import ROOT
from tests.support.identity_requests import NODE, page

SAMPLE_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 3.0
"""After the load, until NMI has noticed that no client is connected any more."""
HOLD_SECONDS: Final = 8.0
"""NMI's --max-hold: a fifth of the usual, so that requests held in a fault end soon after it."""
RSS_GROWTH_MIB: Final = 4.0
SERIES_MAX: Final = 600
"""Those that depend on nothing that pods choose, and a histogram for each status with each of two resources."""
FEWEST_TOKENS: Final = 0.5
"""Share of the requests that must get a token. Faults leave ready responses alone, so it is much more; far fewer would
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

    rss_mib: float
    descriptors: int
    threads: int
    series: int


@dataclass(slots=True)
class Report:
    """The results."""

    plan: Plan
    commit: tuple[str, bool]
    """The tested commit, and whether files differ from it."""
    before: Sample
    """With pods and tokens in place, but without connections."""
    after: Sample
    """Without connections again."""
    growth_mib: float
    """Of the memory's median, from the tenth of the samples after the first third to the last tenth."""
    seconds: float
    cpu_seconds: float
    log_bytes: int
    changes: dict[str, int]
    faults: dict[str, int]
    undisturbed: int
    """Changes that NMI has learnt without a fault of the API server."""
    unknown: list[str]
    """Addresses of which NMI did not learn the last change, although all faults had ended."""
    counts: dict[str, int]
    latency: dict[str, float]
    """Seconds until a token, by percentile."""
    wrong: list[str]
    former_seconds: float
    """The longest time after the announcement of a change until a request was sent that still got a token of the former
    owner. Changes during a fault of the API server are excluded: NMI learns of them after it."""
    broken: list[str] = field(init=False)
    """A line for each promise that was not kept."""

    def __post_init__(self) -> None:
        requests, tokens = self.counts.get("requests", 0), self.counts.get("status 200", 0)
        promises = {
            f"{self.counts.get('wrong')} answers with another pod's token": not self.counts.get("wrong"),
            f"NMI has not learnt the changes of {', '.join(self.unknown)}": not self.unknown,
            f"only {tokens} of {requests} requests got a token": tokens > FEWEST_TOKENS * requests,
            "NMI answered with status 500: see the tracebacks in its log": not self.counts.get("status 500"),
            f"memory grew by {self.growth_mib:.1f} MiB after the first third": self.growth_mib <= RSS_GROWTH_MIB,
            "more descriptors without connections": self.after.descriptors <= self.before.descriptors + 6,
            "more threads without connections": self.after.threads <= self.before.threads + 2,
            f"there are {self.after.series} metric series": self.after.series <= SERIES_MAX,
        }
        self.broken = [broken for broken, kept in promises.items() if not kept]


class Generator:
    """The load's process."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin, self._stdout = stdin, stdout
        self._stdin.transport.set_write_buffer_limits(0)

    async def order(self, *order: Any) -> None:
        """Send a command. Returns when it is in the pipe: a reader of the pipe then receives it."""
        self._stdin.write(json.dumps(order).encode() + b"\n")
        await self._stdin.drain()

    async def report(self) -> dict[str, Any]:
        """Return the results since the last report. Raise JSONDecodeError if the process has ended."""
        await self.order("report")
        result: dict[str, Any] = json.loads(await self._stdout.readline())
        return result


@asynccontextmanager
async def generator(port: int) -> AsyncIterator[Generator]:
    """Yield a load on NMI's *port*, whose connections end with the block."""
    command, pipe = python("tests.nightly.soak.load", str(port)), asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 24)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Generator(process.stdin, process.stdout)
    finally:
        process.stdin.close()
        await process.wait()


async def soak(plan: Plan) -> Report:
    """Run the soak. Raises the sandbox's errors if it cannot be set up."""
    async with SoakNode(plan.identities, flags=(f"--max-hold={HOLD_SECONDS:g}s",)) as soak_node:
        faults = Faults(soak_node, plan.seed, every_seconds=plan.fault_seconds)
        async with generator(soak_node.port) as load:
            pods = Pods(soak_node, faults, load.order, count=plan.pods, seed=plan.seed)
            await pods.fill()
            await warm_up(load, plan)
            before = await sample(soak_node)
            await load.order("rate", plan.rate)
            began = time.monotonic()
            memory = await samples(plan, soak_node, pods, faults)
            unknown = pods.unknown
            results = await load.report()
            seconds = time.monotonic() - began
        await asyncio.sleep(QUIET_SECONDS)
        tenth, third = max(1, len(memory) // 10), len(memory) // 3
        return Report(
            plan,
            await asyncio.to_thread(commit),
            before=before,
            after=await sample(soak_node),
            growth_mib=statistics.median(memory[-tenth:]) - statistics.median(memory[third : third + tenth]),
            seconds=seconds,
            cpu_seconds=Cores().used([soak_node.nmi.pid]),
            log_bytes=soak_node.nmi.log.stat().st_size,
            changes=dict(pods.changes),
            faults=dict(faults.suffered),
            undisturbed=pods.undisturbed,
            unknown=unknown,
            **results,
        )


async def warm_up(load: Generator, plan: Plan) -> None:
    """Run until most tokens have been fetched once (IMDS gives 20 a second), and the number of held requests has
    reached its maximum.
    """
    await load.order("rate", 200.0)
    await asyncio.sleep(min(20.0, plan.identities * 2 / 15))
    await load.order("rate", 0.0)
    await load.order("hold")
    await asyncio.sleep(HOLD_SECONDS + QUIET_SECONDS)
    await load.order("rest")
    await load.report()
    await asyncio.sleep(QUIET_SECONDS)


async def samples(plan: Plan, soak_node: SoakNode, pods: Pods, faults: Faults) -> list[float]:
    """Change pods and cause faults for as long as planned, and then wait until NMI has learnt of all changes. Return
    NMI's memory at times, MiB. Raise what ends a part early."""
    stop = asyncio.Event()
    churn = asyncio.create_task(pods.churn(plan.changes, stop), name="pods come and go")
    failing = [
        asyncio.create_task(faults.of_imds(), name="faults of IMDS"),
        asyncio.create_task(faults.of_the_api_server(), name="faults of the API server"),
    ]
    around = [churn, *failing, asyncio.create_task(soak_node.nmi.wait(), name="NMI")]
    memory = []
    end = time.monotonic() + plan.seconds
    try:
        while (left := end - time.monotonic()) > 0:
            ended, _ = await asyncio.wait(around, timeout=min(SAMPLE_SECONDS, left), return_when="FIRST_COMPLETED")
            for task in ended:
                await task
                raise soak_node.nmi.exit_error()
            memory.append((await sample(soak_node)).rss_mib)
        stop.set()
        for task in failing:
            task.cancel()
        await asyncio.wait(failing)
        ended, _ = await asyncio.wait([churn], timeout=LEARN_SECONDS)
        for task in ended:
            await task
    finally:
        for task in around:
            task.cancel()
        await asyncio.wait(around)
    return memory


async def sample(soak_node: SoakNode) -> Sample:
    metrics = await page(soak_node.sandbox, soak_node.sandbox.nmis[NODE].metrics_port, "/metrics")
    process = Path(f"/proc/{soak_node.nmi.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(
        rss_mib=round(int(status["VmRSS"].split()[0]) / 1024, 1),
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        series=sum(not line.startswith("#") for line in metrics.splitlines()),
    )


def main() -> str:
    """Print the results. Return the broken promises, for sys.exit()."""
    report = asyncio.run(soak(Plan(float(sys.argv[1]))))
    print(json.dumps(asdict(report), indent=1))  # noqa: T201
    return "\n".join(report.broken)


if __name__ == "__main__":
    sys.exit(main() or 0)
