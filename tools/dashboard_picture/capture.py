"""The results of the dashboard's queries, while pods of a sandbox request tokens and IMDS fails for a while."""

import asyncio
import contextlib
import itertools
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import Settings
from tests.repository.observability.pack import dashboard
from tests.repository.observability.scraped import prometheus, substituted
from tests.support.identity_requests import NODE, TOKEN, run_bound_pod, run_pod

PODS: Final = 12
PAUSE_SECONDS: Final = 0.1
"""Between two requests of a pod, and between two new pods ten times as long."""
PART_SECONDS: Final = 60.0
"""The time before IMDS fails, and the time after it."""
FAULT_SECONDS: Final = 20.0
STEP: Final = 2
AUDIENCES: Final = tuple(
    f"https://{name}/" for name in ("management.azure.com", "vault.azure.net", "storage.azure.com")
)
HEADER: Final = {"Metadata": "true"}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel."""

    legend: str
    values: list[tuple[float, float]]
    """Time in seconds and value, without NaN."""


Results = dict[str, list[Series]]
"""The lines of each panel, by its title."""


def legend(template: str, labels: Mapping[str, str]) -> str:
    """Return the name of a line as Grafana does: *template* with the values of *labels*."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template).strip()


async def capture(folder: Path) -> Results:
    """Run a sandbox and a Prometheus with its data in *folder*, and return the results. Takes three minutes."""
    async with (
        Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox,
        prometheus(folder, sandbox) as server,
    ):
        start = time.time()
        users = asyncio.create_task(_use(sandbox), name="users")
        await asyncio.sleep(PART_SECONDS)
        fault = sandbox.azure.imds.faults.add(ResponseFault(status=503, times=math.inf, path=TOKEN))
        await asyncio.sleep(FAULT_SECONDS)
        sandbox.azure.imds.faults.remove(fault)
        await asyncio.sleep(PART_SECONDS)
        end = time.time()
        users.cancel()
        await asyncio.wait({users})
        return {panel["title"]: await _lines(server, panel, start, end) for panel in dashboard()["panels"]}


async def _lines(server: Any, panel: Mapping[str, Any], start: float, end: float) -> list[Series]:
    found = []
    for target in panel.get("targets", []):
        query = substituted(target["expr"])
        answer = await server.get("query_range", query=query, start=f"{start}", end=f"{end}", step=f"{STEP}")
        for series in answer["result"]:
            values = [(float(at) - start, float(value)) for at, value in series["values"]]
            kept = [(at, value) for at, value in values if not math.isnan(value)]
            found.append(Series(legend(target["legendFormat"], series["metric"]), kept))
    return found


async def _use(sandbox: Sandbox) -> None:
    """Create pods one after the other, each of which sends requests until the task is cancelled."""
    async with asyncio.TaskGroup() as group:
        stranger = await run_pod(sandbox, "unbound", {})
        group.create_task(_requests(sandbox, stranger, every=20 * PAUSE_SECONDS))
        for number in range(PODS):
            _, context = await run_bound_pod(sandbox, f"pod-{number}")
            group.create_task(_requests(sandbox, context, every=PAUSE_SECONDS))
            await asyncio.sleep(10 * PAUSE_SECONDS)


async def _requests(sandbox: Sandbox, context: ExecutionContext, every: float) -> None:
    """Send requests of one pod: mostly for tokens, some without the header or for an unknown path."""
    source = (context.environment["SANDBOX_SOURCE_ADDRESS"], 0)
    url = sandbox.nmis[NODE].url
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=source), trust_env=False) as session:
        for number in itertools.count():
            path = "/metadata/identity/unknown" if number % 50 == 0 else TOKEN
            asked = {"api-version": "2018-02-01", "resource": AUDIENCES[number // 200 % len(AUDIENCES)]}
            if number % 100 == 1:
                asked["bypass_cache"] = "true"
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}{path}", params=asked, headers={} if number % 37 == 0 else HEADER):
                    pass
            await asyncio.sleep(every)
