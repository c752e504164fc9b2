"""A real Prometheus on the node, which scrapes the installation's pods as it would in a cluster."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

import yaml

from podidentity_sandbox.processes import Program
from tests.e2e.e2e_cluster import NAMESPACE, Cluster
from tests.integration.identity_requests import NODE
from tests.observability.pack import FILES, program
from tests.support.waiting import until

PORT: Final = 9999
"""The port on the node, which no other program uses."""
METRICS: Final = {"nmi": 9090, "mic": 8888}


class Prometheus:
    """Its HTTP API, asked from the node."""

    def __init__(self, here: Cluster) -> None:
        self._here = here

    async def get(self, path: str, **query: str) -> Any:
        """Return the `data` of the response."""
        url = f"http://127.0.0.1:{PORT}/api/v1/{path}?{urlencode(query)}"
        return json.loads(await self._here.on_node("curl", "--silent", "--show-error", "--fail", url))["data"]

    async def values(self, query: str) -> list[float]:
        """The value of each series that *query* brings now."""
        return [float(series["value"][1]) for series in (await self.get("query", query=query))["result"]]

    async def rules(self) -> list[dict[str, Any]]:
        """How it evaluates our alerts."""
        return [rule for group in (await self.get("rules"))["groups"] for rule in group["rules"]]


@asynccontextmanager
async def prometheus(here: Cluster) -> AsyncIterator[Prometheus]:
    """One that has scraped every pod of the installation, and evaluated every rule of the chart."""
    jobs = [await _job(here, component, port) for component, port in METRICS.items()]
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
        "rule_files": [str(FILES / "alerts.yaml")],
        "scrape_configs": jobs,
    }
    file = here.folder / "prometheus.yaml"
    await asyncio.to_thread(file.write_text, yaml.safe_dump(configuration))
    process = await Program.start(
        "prometheus",
        [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={here.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{PORT}",
            "--log.level=warn",
        ],
        context=here.sandbox.contexts[NODE],
        log=here.folder / "prometheus.log",
        environment=here.sandbox.commands.inherited(),
    )
    made = Prometheus(here)

    async def knows_all() -> bool:
        assert process.returncode is None, str(process.exit_error())
        try:
            up, rules = await made.values("up"), await made.rules()
        except AssertionError:
            return False  # it does not listen, or does not serve yet
        return up == [1.0] * sum(len(job["static_configs"]) for job in jobs) and all(
            rule["health"] == "ok" for rule in rules
        )

    try:
        await until(knows_all)
        yield made
    finally:
        await process.stop()


async def _job(here: Cluster, component: str, port: int) -> dict[str, Any]:
    """The scrape of each pod, with the labels that the chart's monitors give."""
    selector = ("--namespace", NAMESPACE, "--selector", f"app.kubernetes.io/component={component}")
    pods = json.loads(await here.kubectl("get", "pods", "--output=json", *selector))["items"]
    targets = [
        {
            "targets": [f"{pod['status']['podIP']}:{port}"],
            "labels": {"namespace": NAMESPACE, "pod": pod["metadata"]["name"], "node": pod["spec"]["nodeName"]},
        }
        for pod in pods
    ]
    return {"job_name": component, "static_configs": targets}
