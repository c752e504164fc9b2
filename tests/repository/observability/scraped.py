"""A real Prometheus on loopback that scrapes the real NMI and MIC of a sandbox without and with faults.

Excluded: the waiting time of an alert (`for`), and faults that take minutes; promtool's cases test those.
"""

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.imds import TOKEN_PATH
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault, free_ports
from podidentity_sandbox.settings import Settings
from tests.repository.observability.pack import FILES, RUNBOOKS, alerts, expectations, program, queries, selectors
from tests.support.identity_requests import NODE, ask, binding, identity, run_bound_pod, run_pod
from tests.support.waiting import until

RATE_INTERVAL = "12s"
"""Value for Grafana's $__rate_interval: a few scrapes."""
CONNECTIONS_OF_ONE_POD = 8
"""A low limit for NMI."""
TEXT = "Text"
"""Prefix of the names of alerts that always fire, to test their texts."""
GONE = {"PodIdentityNMIDown", "PodIdentityNMIMissing", "PodIdentityMICLeaderMissing"}
"""Alerts that must fire after NMI and MIC were stopped."""
SECONDS = 60.0
"""Time limit for operations that take a second or two on an idle machine."""
Bring = Callable[[Sandbox, Sequence[ExecutionContext]], Awaitable[None]]


@dataclass
class Seen:
    """Results of Prometheus for a sandbox without faults, and then for one whose programs were stopped."""

    metrics: set[str] = field(default_factory=set)
    """Names of all series that the programs expose."""
    panels: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """All values of the last seconds, by panel and query."""
    expressions: dict[str, list[float]] = field(default_factory=dict)
    """Result of each alert's expression without faults."""
    selected: dict[str, list[float]] = field(default_factory=dict)
    """Values of the series that each selector of an alert finds without faults."""
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Prometheus's own evaluation of each alert without faults."""
    pages: dict[str, str] = field(default_factory=dict)
    """Output of the runbooks' commands `ready`, `state` and `leads`, by program."""
    noticed: dict[str, bool] = field(default_factory=dict)
    """Whether the expression of each alert became true after its fault."""
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Annotations of each alert as Prometheus renders them for targets without a label `node`."""
    pending: set[str] = field(default_factory=set)
    """Alerts whose expressions became true after NMI and MIC were stopped."""


class Prometheus:
    """Client of Prometheus's HTTP API."""

    def __init__(self, port: int, process: Program) -> None:
        self._port = port
        self.process = process

    async def get(self, path: str, **query: str) -> Any:
        """Return `data` of the response. Fail with Prometheus's error if it refuses the query."""
        answer = await asyncio.to_thread(self._get, f"/api/v1/{path}?{urlencode(query)}")
        assert answer["status"] == "success", (path, query, answer)
        return answer["data"]

    async def values(self, query: str) -> list[float]:
        """Return the current value of each series of *query*."""
        return [float(series["value"][1]) for series in (await self.get("query", query=query))["result"]]

    async def graph(self, query: str) -> list[float]:
        """Return all values of *query* in the last seconds, without NaN, requested as a panel does."""
        now = time.time()
        response = await self.get("query_range", query=query, start=f"{now - 10:.3f}", end=f"{now:.3f}", step="1")
        found = [float(value) for series in response["result"] for _, value in series["values"]]
        return [value for value in found if not math.isnan(value)]

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """Return the evaluation of the rules, by the alert's name."""
        groups = (await self.get("rules"))["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def _get(self, target: str) -> Any:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}{target}", timeout=10) as answer:
                return json.load(answer)
        except HTTPError as refused:
            with refused:
                return {"status": "error", "error": refused.read().decode(errors="replace")}
        except URLError as unreached:
            return {"status": "error", "error": str(unreached)}


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
    """Run a Prometheus that scrapes the sandbox's programs and evaluates the rules, with its data in *folder*."""
    nmi = sandbox.nmis[NODE]
    targets = [
        ("nmi", nmi.metrics_port, {"pod": "nmi-x7k2p", "node": NODE}),
        ("mic", sandbox.mic_metrics_port, {"pod": "mic-6d5f-abcde", "node": NODE}),
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
    port = free_ports(1)[0]
    process = await Program.start(
        "prometheus",
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        context=ExecutionContext("127.0.0.1"),
        log=folder / "prometheus.log",
        environment=sandbox.commands.inherited(),
    )
    try:
        yield Prometheus(port, process)
    finally:
        await process.stop()


async def a_token_about_to_expire(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Azure issues a token of 200 seconds to a pod that requests it repeatedly."""
    sandbox.azure.imds.token_seconds = 200
    _, context = await run_bound_pod(sandbox, "short")
    for _ in range(2):
        assert (await ask(sandbox, context)).status == 200


async def an_identity_that_azure_refuses(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """MIC has no permission to assign it."""
    known = sandbox.azure.directory.add_identity(identity_id("forbidden"))
    sandbox.azure.arm.marked.unauthorized.add(known.resource_id.lower())
    await sandbox.cluster.apply(identity("forbidden", type=0, resourceID=known.resource_id, clientID=known.client_id))
    await sandbox.cluster.apply(binding("forbidden", "forbidden"))
    await run_pod(sandbox, "forbidden", {"aadpodidbinding": "forbidden"})


async def a_pod_with_too_many_connections(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """A pod opens a hundred connections and sends nothing."""
    source = contexts[0].environment["SANDBOX_SOURCE_ADDRESS"]
    port = int(sandbox.nmis[NODE].url.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)) for _ in range(100)]
    for _, writer in opened:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def an_imds_that_throttles(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Two pods request tokens that are not in the cache; IMDS answers the first calls with 429."""
    await _asked_amid(
        sandbox, contexts, ResponseFault(status=429, headers={"Retry-After": "1"}, times=7, path=TOKEN_PATH)
    )


async def an_imds_that_fails(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Two pods request tokens that are not in the cache; IMDS answers all calls with 500."""
    await _asked_amid(sandbox, contexts, ResponseFault(status=500, times=math.inf, path=TOKEN_PATH))


async def _asked_amid(sandbox: Sandbox, contexts: Sequence[ExecutionContext], fault: ResponseFault) -> None:
    """Apply *fault* while two pods request eight new tokens; it stays in force afterwards."""
    sandbox.azure.imds.faults.clear()
    sandbox.azure.imds.faults.add(fault)
    some = f"https://{fault.status}-"
    await asyncio.gather(
        *(ask(sandbox, context, resource=f"{some}{number}.example/") for context in contexts[:2] for number in range(4))
    )


FAULTS: dict[Bring, set[str]] = {
    a_token_about_to_expire: {"PodIdentityTokenExpiring"},
    an_identity_that_azure_refuses: {"PodIdentityIdentitiesQuarantined"},
    a_pod_with_too_many_connections: {"PodIdentityLimitsHit"},
    an_imds_that_throttles: {"PodIdentityIMDSThrottling"},
    an_imds_that_fails: {"PodIdentityIMDSUnavailable", "PodIdentityTokensUnavailable"},
}
"""Faults, and the alerts that must fire."""


async def look(folder: Path, enough: Callable[[Seen], bool]) -> Seen:
    """Start everything, send requests until the panels show *enough* (or the time limit ends), and stop everything.

    Raise AssertionError if Prometheus refuses a query.
    """
    seen = Seen()
    async with (
        Sandbox(
            Settings(
                namespaces=False,
                environment=os.environ,
                nmi_flags=(f"--max-connections-per-pod={CONNECTIONS_OF_ONE_POD}",),
            )
        ) as sandbox,
        prometheus(folder, sandbox) as server,
    ):
        await _ready(server)
        contexts = await _use(sandbox, server, seen, enough)
        await _quiet(server, seen)
        for selector in {each for alert in alerts() for each in selectors(alert)}:
            seen.selected[selector] = await server.values(selector)
        firing = (await server.get("alerts"))["alerts"]
        seen.texts = {
            alert["labels"]["alertname"].removeprefix(TEXT): alert["annotations"]
            for alert in firing
            if alert["labels"]["alertname"].startswith(TEXT)
        }
        names = await server.get("label/__name__/values", **{"match[]": '{job=~"nmi|mic"}'})
        seen.metrics = set(names)
        seen.pages["nmi"] = await by_the_runbooks("$NMI", sandbox.nmis[NODE].probe_port)
        seen.pages["mic"] = await by_the_runbooks("$MIC", sandbox.mic_probe_port)
        await _faults(sandbox, server, contexts, seen, {alert.name: alert.expr for alert in alerts()})
        await sandbox.nmis[NODE].program.stop()
        assert sandbox.mic is not None
        await sandbox.mic.stop()
        deadline = time.monotonic() + SECONDS
        while not seen.pending and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            states = await server.alerts()
            stopped = {name for name, rule in states.items() if rule["state"] != "inactive"}
            if stopped >= GONE:
                seen.pending = stopped
    return seen


async def _faults(
    sandbox: Sandbox, server: Prometheus, contexts: Sequence[ExecutionContext], seen: Seen, expressions: dict[str, str]
) -> None:
    """Cause each fault, and record whether the expressions of its alerts became true after it only."""
    for bring, names in FAULTS.items():
        for name in names:
            assert not await server.values(expressions[name]), f"{name} was true before there was any trouble"
        await bring(sandbox, contexts)
        deadline = time.monotonic() + SECONDS
        for name in sorted(names):
            while not (fired := await server.values(expressions[name])) and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            seen.noticed[name] = bool(fired)


async def by_the_runbooks(pod: str, port: int) -> str:
    """Return the output of `ready`, `state` and `leads` as the runbooks define them.

    A replacement of kubectl runs commands here instead of in a pod, and names each pod `it`.
    """
    here = 'kubectl() { if [ "$1" = exec ]; then while [ "$1" != -- ]; do shift; done; shift; "$@"; else echo it; fi; }'
    _, definitions, _ = (RUNBOOKS / "README.md").read_text().split("```")
    commands = f"ready {pod} {port} && state {pod} {port} && leads {port}"
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        f"{here}\n{definitions}\n{commands}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,  # contains the error of the port on which no MIC runs
    )
    output, wrong = await shell.communicate()
    assert shell.returncode == 0, (output + wrong).decode()
    return output.decode()


async def _ready(server: Prometheus) -> None:
    """Wait until Prometheus responds and has scraped both programs."""

    async def is_scraped() -> bool:
        assert server.process.returncode is None, str(server.process.exit_error())
        with contextlib.suppress(AssertionError):
            return await server.values("up") == [1.0, 1.0]
        return False

    await until(is_scraped, server.process.output)


async def _quiet(server: Prometheus, seen: Seen) -> None:
    """Evaluate every alert's expression and state. Repeat while one is true, because a scrape can be late."""
    deadline = time.monotonic() + SECONDS
    while True:
        for alert in alerts():
            seen.expressions[alert.name] = await server.values(alert.expr)
        seen.rules = await server.alerts()
        inactive = all(seen.rules[alert.name]["state"] == "inactive" for alert in alerts())
        if (inactive and not any(seen.expressions.values())) or time.monotonic() > deadline:
            return
        await asyncio.sleep(0.2)


async def _use(
    sandbox: Sandbox, server: Prometheus, seen: Seen, enough: Callable[[Seen], bool]
) -> list[ExecutionContext]:
    """Create pods that send accepted and refused requests until the results are *enough*. Return their contexts."""
    asked = {(panel, letter): substituted(query) for panel, letter, query in queries()}
    deadline = time.monotonic() + SECONDS
    contexts: list[ExecutionContext] = []
    while len(contexts) < 2 or (not enough(seen) and time.monotonic() < deadline):
        _, context = await run_bound_pod(sandbox, f"pod-{len(contexts)}")
        contexts.append(context)
        for _ in range(3):
            assert (await ask(sandbox, context)).status == 200
        assert (await ask(sandbox, context, path="/metadata/identity/nothing")).status == 404
        for key, query in asked.items():
            seen.panels[key] = await server.graph(query)
    return contexts


def substituted(query: str) -> str:
    """Return *query* as Grafana sends it with every variable set to All."""
    for name, value in (("$__rate_interval", RATE_INTERVAL), ("$node", ".*"), ("$namespace", ".*")):
        query = query.replace(name, value)
    return query
