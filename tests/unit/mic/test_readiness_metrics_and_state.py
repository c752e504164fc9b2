"""/readyz, /debug/state and the gauges, from the objects that they show. Whole pages: `test_the_real_program`."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from azure.core.credentials_async import AsyncTokenCredential
from prometheus_client import CollectorRegistry

import mic.reconciliation.host_reconciler
from mic.azure.compute import Compute
from mic.azure.errors import Throttled
from mic.azure.identities import HostIdentities
from mic.endpoints import Endpoints
from mic.metrics import MicMetrics
from mic.reconciliation.controller import Controller
from mic.startup.settings import MicSettings
from podidentity.azure.clouds import Cloud
from podidentity.telemetry.metrics import expose
from tests.support.mic.world import MicWorld, refused_for
from tests.support.objects import identity_id, pod

REFUSED = refused_for(frozenset([identity_id("bad").lower()]))


@dataclass
class Lease:
    left: float = 10.0

    def remaining_seconds(self) -> float:
        return self.left


@dataclass
class Contact:
    problem: str | None = None


@dataclass
class Watch:
    age: float = 0.0
    restarts: int = 0

    def staleness_seconds(self) -> float:
        return self.age


@dataclass
class ReportModel:
    world: MicWorld
    compute: Compute
    endpoints: Endpoints
    lease: Lease
    contact: Contact
    watches: dict[str, Watch]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def gauge(self, name: str) -> float:
        page = expose(self.registry).decode()
        (line,) = [text for text in page.splitlines() if text.startswith(f"aadpodidentity_mic_{name} ")]
        return float(line.rpartition(" ")[2])


@pytest.fixture
async def shown() -> AsyncIterator[ReportModel]:
    async with MicWorld() as world:
        registry, lease, contact = CollectorRegistry(), Lease(), Contact()
        watches = {"pods": Watch(), "nodes": Watch()}
        cloud = Cloud("sandbox", "https://sign.in", "https://arm", "https://arm/", frozenset())
        compute = Compute(cast("AsyncTokenCredential", None), cloud, user_agent="test")
        endpoints = Endpoints(
            MicSettings(namespace="default"),
            registry,
            MicMetrics(registry),
            lease_client=world.client,
            lease=lease,
            contact=contact,
            watches=watches,
            view=world.view,
            host_reconciler=world.host_reconciler,
            controller=Controller(world.view, world.host_reconciler, look_seconds=600.0, resync_seconds=600.0),
            compute=compute,
            recorder=world.recorder,
        )
        await world.client.request("GET", "/version")
        yield ReportModel(world, compute, endpoints, lease, contact, watches, registry)
        await compute.aclose()


def failing(shown: ReportModel) -> dict[str, str]:
    return {name: reason for name, reason in shown.endpoints.checks().items() if reason is not None}


async def test_all_checks_pass_while_all_servers_respond(shown: ReportModel) -> None:
    assert list(shown.endpoints.checks()) == ["api server", "watches", "azure"]
    assert failing(shown) == {}


async def test_a_silent_api_server_makes_it_not_ready(shown: ReportModel) -> None:
    await asyncio.sleep(30.0)
    assert failing(shown) == {}
    await asyncio.sleep(1.0)
    assert list(failing(shown)) == ["api server"]
    assert "no answer for 31 s from http://" in failing(shown)["api server"]


async def test_what_is_unusable_is_named_with_what_to_check(shown: ReportModel) -> None:
    shown.contact.problem = "no contact with the API server: cannot reach it; check the network"
    shown.watches["nodes"].age = 101.0
    shown.compute.sign_in_problem = "the secret has expired"
    assert failing(shown) == {
        "api server": shown.contact.problem,
        "watches": "silent: nodes; see the log for why they cannot be watched",
        "azure": "the secret has expired",
    }
    shown.watches["nodes"].age = 100.0
    assert "watches" not in failing(shown)


async def test_a_leader_in_the_type_upgrade_reports_it(shown: ReportModel) -> None:
    for watch in shown.watches.values():
        watch.age = float("inf")
    assert "type upgrade" in failing(shown)["watches"]
    shown.watches["pods"].age = 0.0
    assert failing(shown)["watches"].startswith("silent: ")


async def test_a_candidate_waiting_for_the_lease_watches_nothing_and_is_ready(shown: ReportModel) -> None:
    shown.lease.left = 0.0
    shown.watches["nodes"].age = float("inf")
    assert failing(shown) == {}
    assert shown.gauge("lease_held") == 0.0
    shown.lease.left = 1.0
    assert shown.gauge("lease_held") == 1.0


async def test_the_age_of_the_oldest_waiting_assignment_is_shown(shown: ReportModel) -> None:
    world = shown.world
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 0.0
    world.bind()
    await asyncio.sleep(40.0)
    world.bind("later")
    await asyncio.sleep(2.0)
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 42.0
    await world.reconcile()
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 0.0


async def test_a_deleted_pod_and_a_changed_one_do_not_age(shown: ReportModel) -> None:
    world = shown.world
    world.bind("gone")
    world.bind("kept")
    world.unbind("gone")
    await world.reconcile()
    await asyncio.sleep(50.0)
    world.add(pod("kept", label="kept", uid="second"))
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 0.0


async def test_an_assignment_waiting_for_a_refused_identity_is_counted_there_only(shown: ReportModel) -> None:
    world = shown.world
    world.bind("bad", "good")
    world.fail("update", REFUSED, Throttled("slow down", status=429, retry_after=77.0))
    await world.reconcile()
    await asyncio.sleep(10.0)
    assert shown.gauge("quarantined_identities") == 1.0
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 11.0, "the good one's"
    await world.later(70.0)
    assert world.statuses()["good-default-good"] == "Assigned"
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 0.0


async def test_a_scrape_visits_few_quarantined_assignments(shown: ReportModel, monkeypatch: pytest.MonkeyPatch) -> None:
    world = shown.world
    world.bind("bad")
    for number in range(3):
        await asyncio.sleep(1.0)
        world.add(pod(f"p{number}", label="bad"))
    world.fail("update", REFUSED)
    await world.reconcile()
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 0.0
    monkeypatch.setattr(mic.reconciliation.host_reconciler, "BLOCKED_SCAN_MAX", 2)
    assert shown.gauge("oldest_pending_assignment_age_seconds") == 2.0, "the third one's; a second went by in the round"


async def test_the_state_shows_waits_and_refusals_and_no_secret(shown: ReportModel) -> None:
    world = shown.world
    world.bind("bad")
    world.fail("update", REFUSED)
    await world.reconcile()
    world.bind("good")
    world.fail("update", Throttled("slow down", status=429, retry_after=77.0))
    await world.reconcile()
    state = json.loads(json.dumps(shown.endpoints.state()))
    (host,) = state["hosts"]["first"].values()
    assert list(host["quarantined"]) == [identity_id("bad").lower()]
    assert host["no write for"] == pytest.approx(77.0)
    assert state["cluster"]["bound pods"] == 2
    assert state["lease"] == {"seconds": 10.0}
    assert world.api.token not in json.dumps(state)


async def test_a_host_without_findings_is_only_counted(shown: ReportModel) -> None:
    shown.world.bind()
    await shown.world.reconcile()
    assert shown.endpoints.state()["hosts"] == {"known": 1, "noted": 0, "first": {}}
    shown.world.hosts.state = HostIdentities(gone=True)
    await asyncio.sleep(1.0)
    shown.world.host_reconciler.request_read(next(iter(shown.world.host_reconciler._memories)))
    await shown.world.reconcile()
    await asyncio.sleep(5.0)
    (host,) = shown.world.host_reconciler.state()["first"].values()  # type: ignore[attr-defined]  # a page's document
    assert host["unknown to Azure for"] == 5.0


async def test_names_in_the_cluster_make_no_metric_series(world: MicWorld) -> None:
    def series() -> set[str]:
        lines = expose(world.registry).decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    def names(count: int) -> list[str]:
        return [f"invented{number}" for number in range(count)]

    world.bind()
    await world.settle()
    before = series()
    world.refuse("invented0")
    world.bind(*names(50))
    await world.settle()
    world.unbind(*names(50))
    await world.settle()
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert series() == before
