"""A real Prometheus on loopback that scrapes the real NMI and MIC of a sandbox."""

import contextlib
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from tests.repository.observability.pack import FILES, alerts, expectations, program
from tests.support.identity_requests import NODE
from tests.support.waiting import until

RATE_INTERVAL = "12s"
"""Value for Grafana's $__rate_interval: a few scrapes."""
TEXT = "Text"
"""Prefix of the names of alerts that always fire, to test their texts."""


class Prometheus:
    """Client of Prometheus's HTTP API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """Return `data` of the response. Fail with Prometheus's error if it refuses the query."""
        async with self._session.get(f"/api/v1/{path}", params=query) as response:
            document = await response.json(content_type=None)
        assert document["status"] == "success", (path, query, document)
        return document["data"]

    async def values(self, query: str) -> list[float]:
        """Return the current value of each series of *query*."""
        return [float(series["value"][1]) for series in (await self.get("query", query=query))["result"]]

    async def graph(self, query: str) -> list[float]:
        """Return all values of *query* in the last seconds, without NaN, requested as a panel does."""
        now = time.time()
        response = await self.get("query_range", query=query, start=f"{now - 10:.3f}", end=f"{now:.3f}", step="1")
        values = [float(value) for series in response["result"] for _, value in series["values"]]
        return [value for value in values if not math.isnan(value)]

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """Return the evaluation of the rules, by the alert's name."""
        groups = (await self.get("rules"))["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}


def _always_firing() -> list[dict[str, Any]]:
    """Return rules with every alert's texts, whose expressions are always true and have the alert's labels."""
    made = []
    for alert in alerts():
        labels = max(expectations(alert), key=len)[0]
        expr = "vector(400)"
        for name, value in labels.items():
            if name not in {"severity", "node"}:
                expr = f'label_replace({expr}, "{name}", "{value}", "", "")'
        made.append({"alert": f"{TEXT}{alert.name}", "expr": expr, "annotations": alert.annotations})
    return made


@contextlib.asynccontextmanager
async def prometheus(folder: Path, sandbox: Sandbox) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that has scraped the sandbox's programs and evaluates the rules, with its data in *folder*."""
    targets = [
        ("nmi", sandbox.nmis[NODE].metrics_port, {"pod": "nmi-x7k2p", "node": NODE}),
        ("mic", sandbox.mic_ports.metrics, {"pod": "mic-6d5f-abcde", "node": NODE}),
    ]
    configuration = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "500ms"},
        "rule_files": [str(FILES / "alerts.yaml"), "texts.yaml"],
        "scrape_configs": [
            # The labels that the Prometheus operator sets. The target's `namespace` replaces the one of the metric.
            {
                "job_name": job,
                "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "kube-system", **own}}],
            }
            for job, port, own in targets
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    (folder / "texts.yaml").write_text(yaml.safe_dump({"groups": [{"name": "texts", "rules": _always_firing()}]}))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    process = await Program.start(
        "prometheus",
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ],
        context=ExecutionContext("127.0.0.1"),
        log=folder / "prometheus.log",
        environment=sandbox.commands.inherited(),
    )
    try:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            server = Prometheus(session)

            async def is_scraped() -> bool:
                if process.returncode is not None:
                    raise RuntimeError(process.exit_error())
                return await server.values("up") == [1.0, 1.0]

            await until(is_scraped, process.output, ignoring=(aiohttp.ClientError, AssertionError, ValueError))
            yield server
    finally:
        await process.stop()


def substituted(query: str) -> str:
    """Return *query* as Grafana sends it with every variable set to All."""
    for name, value in (("$__rate_interval", RATE_INTERVAL), ("$node", ".*"), ("$namespace", ".*")):
        query = query.replace(name, value)
    return query
