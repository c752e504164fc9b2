"""Every query of the panels and the alerts, on a real Prometheus that scrapes the real NMI and MIC.

Excluded: the waiting time of an alert (`for`), and faults that take minutes; promtool's cases test those.
"""

import asyncio
import contextlib
import functools
import math
import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.imds import TOKEN_PATH
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.settings import SandboxSettings
from tests.repository.observability.pack import RUNBOOKS, Alert, alerts, dashboard, expectations, queries, selectors
from tests.repository.observability.scraped import TEXT, prometheus, substituted
from tests.support.identity_requests import NODE, ask, binding, identity, run_bound_pod, run_pod
from tests.support.waiting import until

# The first of these tests waits for all results.

MAY_BE_EMPTY = {
    "Limits": "no limit is reached here, and only reached limits are shown",
}
"""Panels without data if there is no fault, with the reason. All others must have data."""

MAY_BE_MISSING = {
    'aadpodidentity_nmi_watch_staleness_seconds{watch="bindings"}': "NMI has it in managed mode alone",
}
"""Selectors of alerts without a series if there is no fault, with the reason."""

OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus creates itself."""

WANTED = {(panel, letter) for panel, letter, _ in queries() if panel not in MAY_BE_EMPTY}
MOVING = (
    "Requests by status",
    "Requests by namespace",
    "Latency",
    "Refusals",
    "Fast-lane share",
    "Calls",
    "Addresses known",
    "Reconcile passes",
    "Calls to Resource Manager",
    "Writes of AzureAssignedIdentities",
    "Memory",
    "CPU",
)
"""Panels whose first query is above zero after requests of pods."""


GONE = {"PodIdentityNMIDown", "PodIdentityNMIMissing", "PodIdentityMICLeaderMissing"}
"""Alerts that must fire after NMI and MIC were stopped."""

Bring = Callable[[Sandbox, Sequence[ExecutionContext]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Results of Prometheus for a sandbox without faults, and the alerts that were true after the faults."""

    idle: set[str]
    """Titles of panels without any value before the first request of a pod."""
    metrics: set[str]
    """Names of all series that the programs expose."""
    panels: dict[tuple[str, str], list[float]]
    """All values of the last seconds, by panel and query."""
    selected: dict[str, list[float]]
    """Values of the series that each selector of an alert finds."""
    rules: dict[str, dict[str, Any]]
    """Prometheus's own evaluation of each alert when no expression was true."""
    pages: dict[str, str]
    """Output of the runbooks' commands `ready`, `state` and `leads`, by program."""
    texts: dict[str, dict[str, str]]
    """Annotations of each alert as Prometheus renders them for targets without a label `node`."""
    fired: set[str]


async def a_token_about_to_expire(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Azure issues a token of 200 seconds to a pod that requests it repeatedly."""
    sandbox.azure.imds.token_seconds = 200
    _, context = await run_bound_pod(sandbox, "short")
    for _ in range(2):
        assert (await ask(sandbox, context)).status == 200


async def an_identity_that_azure_refuses(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """MIC has no permission to assign it."""
    added = sandbox.azure.directory.add_identity(identity_id("forbidden"))
    sandbox.azure.arm.marked.unauthorized.add(added.resource_id.lower())
    await sandbox.cluster.apply(identity("forbidden", type=0, resourceID=added.resource_id, clientID=added.client_id))
    await sandbox.cluster.apply(binding("forbidden", "forbidden"))
    await run_pod(sandbox, "forbidden", {"aadpodidbinding": "forbidden"})


async def a_pod_with_too_many_connections(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """A pod opens a hundred connections and sends nothing."""
    source = contexts[0].environment["SANDBOX_SOURCE_ADDRESS"]
    port = int(sandbox.nmis[NODE].url.rpartition(":")[2])
    with contextlib.ExitStack() as opened:
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", port), source_address=(source, 0)))


async def an_imds_that_throttles(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Two pods request tokens that are not in the cache; IMDS answers the first calls with 429."""
    await _request_during(
        sandbox, contexts, ResponseFault(status=429, headers={"Retry-After": "1"}, times=7, path=TOKEN_PATH)
    )


async def an_imds_that_fails(sandbox: Sandbox, contexts: Sequence[ExecutionContext]) -> None:
    """Two pods request tokens that are not in the cache; IMDS answers all calls with 500."""
    await _request_during(sandbox, contexts, ResponseFault(status=500, times=math.inf, path=TOKEN_PATH))


async def _request_during(sandbox: Sandbox, contexts: Sequence[ExecutionContext], fault: ResponseFault) -> None:
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


async def look(folder: Path) -> Seen:
    """Start everything, send requests until the panels have data, cause the faults, and stop everything."""
    settings = SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=("--max-connections-per-pod=8",))
    async with Sandbox(settings) as sandbox, prometheus(folder, sandbox) as server:
        panels: dict[tuple[str, str], list[float]] = {}
        contexts: list[ExecutionContext] = []

        async def scraped_twice() -> bool:
            return len(await server.values(substituted("rate(process_cpu_seconds_total[$__rate_interval])"))) == 2

        await until(scraped_twice, "two scrapes of NMI and MIC")
        with_values = {panel for panel, _, query in queries() if await server.graph(substituted(query))}
        idle = {panel for panel, _, _ in queries()} - with_values

        async def without_data() -> list[tuple[str, str]]:
            """Create a pod that sends accepted and refused requests. Return the panels that show none so far."""
            _, context = await run_bound_pod(sandbox, f"pod-{len(contexts)}")
            contexts.append(context)
            for _ in range(3):
                assert (await ask(sandbox, context)).status == 200
            assert (await ask(sandbox, context, path="/metadata/identity/nothing")).status == 404
            for panel, letter, query in queries():
                panels[panel, letter] = await server.graph(substituted(query))
            still = [(panel, "A") for panel in MOVING if max(panels[panel, "A"], default=0) <= 0]
            return still + [key for key in WANTED if not panels[key]]

        await until(without_data, "all panels have data", holds=lambda left: not left and len(contexts) > 1)

        async def true() -> list[str]:
            rules.update(await server.alerts())
            return [alert.name for alert in alerts() if rules[alert.name]["state"] != "inactive"] + [
                alert.name for alert in alerts() if await server.values(alert.expr)
            ]

        rules: dict[str, dict[str, Any]] = {}
        # A scrape can be late, and then an alert is true for a while.
        await until(true, "no alert is true without a fault", holds=lambda names: not names)
        selected = {selector: await server.values(selector) for alert in alerts() for selector in selectors(alert)}
        firing = (await server.get("alerts"))["alerts"]
        texts = {alert["labels"]["alertname"].removeprefix(TEXT): alert["annotations"] for alert in firing}
        metrics = set(await server.get("label/__name__/values", **{"match[]": '{job=~"nmi|mic"}'}))
        pages = {
            "nmi": await by_the_runbooks("$NMI", sandbox.nmis[NODE].probe_port),
            "mic": await by_the_runbooks("$MIC", sandbox.mic_ports.probes),
        }

        expressions = {alert.name: alert.expr for alert in alerts()}
        fired = set()
        for bring, names in FAULTS.items():
            for name in names:
                assert not await server.values(expressions[name]), f"{name} was true before {bring.__name__}"
            await bring(sandbox, contexts)
            for name in names:
                await until(functools.partial(server.values, expressions[name]), f"{name} after {bring.__name__}")
                fired.add(name)
        await sandbox.nmis[NODE].program.stop()
        assert sandbox.mic is not None
        await sandbox.mic.stop()

        async def not_inactive() -> set[str]:
            return {name for name, rule in (await server.alerts()).items() if rule["state"] != "inactive"}

        await until(not_inactive, "alerts after the programs were stopped", holds=GONE.issubset)
    return Seen(idle, metrics, panels, selected, rules, pages, texts, fired)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Results that all tests of this module share."""
    return asyncio.run(look(tmp_path_factory.mktemp("prometheus")))


def named(expression: str) -> set[str]:
    """Return the metrics of an expression: names of this project, and series that Prometheus creates."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:aadpodidentity|process)_\w+", bare)) | {
        word for word in OF_PROMETHEUS if re.search(rf"\b{word}\b", bare)
    }


def test_panels_show_requests_of_pods_and_plausible_values(seen: Seen) -> None:
    assert [key for key in WANTED if not seen.panels[key]] == []
    assert [panel for panel in MOVING if max(seen.panels[panel, "A"]) <= 0] == []
    assert 0 < max(seen.panels["Fast-lane share", "A"]) < 1
    assert max(seen.panels["MIC leads", "A"]) == 1
    assert max(seen.panels["Nodes without redirect", "A"]) == 0


def test_a_panel_without_values_on_an_idle_cluster_says_what_that_means(seen: Seen) -> None:
    settings = {panel["title"]: panel.get("fieldConfig") for panel in dashboard()["panels"]}
    texts = {title: fields["defaults"].get("noValue") for title, fields in settings.items() if fields}
    assert {"Refusals", "Limits"} <= seen.idle
    of_mic = {panel for panel, _, expr in queries() if named(expr) and all("_mic_" in name for name in named(expr))}
    assert "Leader" in of_mic, "managed mode has no MIC"
    assert {panel for panel in seen.idle | of_mic if not texts[panel]} == set()


def test_every_metric_that_a_panel_or_an_alert_names_exists(seen: Seen) -> None:
    expressions = [expr for _, _, expr in queries()] + [alert.expr for alert in alerts()]
    expressions += [
        variable["definition"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"
    ]
    for expression in expressions:
        assert named(expression), expression
        assert named(expression) - OF_PROMETHEUS <= seen.metrics, expression


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_the_series_of_an_alert_exist_without_a_fault_and_it_neither_fires_nor_fails(seen: Seen, alert: Alert) -> None:
    assert [
        selector for selector in selectors(alert) if not seen.selected[selector] and selector not in MAY_BE_MISSING
    ] == []
    rule = seen.rules[alert.name]
    assert (rule["health"], rule["state"], rule.get("lastError", "")) == ("ok", "inactive", "")


def test_the_output_of_the_runbooks_commands_contains_the_parts_that_they_search(seen: Seen) -> None:
    begin = (
        r"\[\+\]active ok\n\[\+\]api server ok\n\[\+\]watches ok\n\[\+\]redirect ok \(none to loopback: .+\)\nready\n"
    )
    assert re.match(begin, seen.pages["nmi"])
    assert seen.pages["mic"].startswith("[+]api server ok\n[+]watches ok\n[+]azure ok\nready\n")
    assert seen.pages["mic"].endswith("\nit\n"), "the MIC that leads is not found"
    looked = {
        (program, word)
        for page in RUNBOOKS.glob("*.md")
        for program, name in (("nmi", r"\$NMI"), ("mic", r"\$POD 8080"))
        for word in re.findall(rf"state {name} \| grep .*'(\"\w+\")", page.read_text())
    }
    assert len(looked) > 5
    assert {(program, word) for program, word in looked if word not in seen.pages[program]} == set()


def test_the_runbooks_name_no_metric_that_does_not_exist(seen: Seen) -> None:
    text = " ".join(page.read_text() for page in RUNBOOKS.glob("*.md"))
    named = set(re.findall(r"\baadpodidentity_\w+", text))
    assert named
    assert named <= seen.metrics


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_texts_are_rendered_for_targets_without_a_node(seen: Seen, alert: Alert) -> None:
    filled = seen.texts[alert.name]
    assert filled.keys() == alert.annotations.keys()
    for text in filled.values():
        assert "{{" not in text
        assert "<error" not in text
        assert "<no value>" not in text
    if "$labels.instance" in alert.annotations["summary"]:
        assert max(expectations(alert), key=len)[0]["instance"] in filled["summary"]


def test_alerts_fire_after_their_faults(seen: Seen) -> None:
    assert seen.fired == set().union(*FAULTS.values())


def test_the_panels_that_the_runbooks_name_exist() -> None:
    titles = {panel for panel, _, _ in queries()}
    text = " ".join(page.read_text() for page in RUNBOOKS.glob("*.md"))
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text))
    assert len(named) > 5
    assert {" ".join(title.split()) for title in named} <= titles
