"""Events as both API servers accept and return them, and those of NMI about pods."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from mic.app import COMPONENT as MIC
from nmi.app import COMPONENT as NMI
from nmi.identity.pod_entry import PodEntry
from nmi.pod_events import PodEvents
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.events import EVENTS, EventRecorder
from podidentity.kube.paths import object_path
from podidentity.resources import BINDINGS, NODES, PODS, Meta, Node
from tests.contract.kube.servers import Server
from tests.support.waiting import LIMIT_SECONDS


async def events(client: Client, namespace: str) -> list[dict[str, Any]]:
    listed = msgspec.json.decode(await client.request("GET", object_path(EVENTS, namespace)))
    return list(listed["items"])


@asynccontextmanager
async def recording(client: Client, component: str) -> AsyncIterator[EventRecorder]:
    """Run a recorder, which has sent its events at the end."""
    recorder = EventRecorder(client, component, "node-1")
    task = asyncio.create_task(recorder.run())
    yield recorder
    await asyncio.wait_for(recorder.flushed(), LIMIT_SECONDS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=[MIC, NMI])
async def programs_client(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Client]:
    """That of a program, by its name."""
    async with Client(await server.access(), user_agent=f"{request.param}/contract") as opened:
        yield opened


async def test_repeats_become_one_event_with_a_count(client: Client, programs_client: Client, namespace: str) -> None:
    document = {"metadata": {"name": "b"}, "spec": {"azureIdentity": "i", "selector": "s"}}
    about = await client.create(BINDINGS, namespace, document)
    async with recording(programs_client, "mic") as recorder:
        for _ in range(3):
            recorder.record(about, BINDINGS, "Normal", "BindingApplied", "binding applied")
            await asyncio.wait_for(recorder.flushed(), LIMIT_SECONDS)
        recorder.record(about, BINDINGS, "Warning", "BindingApplyError", "no such identity")
    recorded = {entry["reason"]: entry for entry in await events(client, namespace)}
    assert {reason: (entry["type"], entry["count"]) for reason, entry in recorded.items()} == {
        "BindingApplied": ("Normal", 3),
        "BindingApplyError": ("Warning", 1),
    }
    assert recorded["BindingApplied"]["involvedObject"]["uid"] == about.metadata.uid
    assert recorded["BindingApplied"]["source"] == {"component": "mic", "host": "node-1"}
    assert recorder.dropped == 0


async def test_an_event_about_a_node_is_in_the_default_namespace(client: Client, namespace: str) -> None:
    async with recording(client, "mic") as recorder:
        recorder.record(Node(metadata=Meta(name=f"node-{namespace}", uid="u")), NODES, "Warning", "Odd", "an odd node")
    messages = [entry["message"] for entry in await events(client, "default") if namespace in entry["metadata"]["name"]]
    assert messages == ["an odd node"]


MANIFEST = {"metadata": {"name": "cart"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
REFUSAL = Refusal(Reason.NO_MATCHING_IDENTITY, "No.", "compare the label with the selector")


@pytest.mark.usefixtures("account")
async def test_a_repeated_refusal_is_recorded_once_on_its_pod(client: Client, namespace: str) -> None:
    entry = PodEntry(await client.create(PODS, namespace, MANIFEST))
    now = 0.0
    refusals = ((0.0, REFUSAL), (1.0, REFUSAL), (61.0, REFUSAL), (90.0, Refusal(Reason.OVERLOADED, "No.")))
    async with recording(client, "nmi") as recorder:
        pod_events = PodEvents(recorder, clock=lambda: now)
        for now, refusal in refusals:  # noqa: B007 - read by the clock
            pod_events.record(entry, refusal)
            await asyncio.wait_for(recorder.flushed(), LIMIT_SECONDS)
    (event,) = await events(client, namespace)
    assert recorder.dropped == 0
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Warning",
        "IdentityNotAssigned",
        REFUSAL.detail,
        2,
    )
    about = event["involvedObject"]
    assert (about["kind"], about["namespace"], about["name"], about["uid"]) == ("Pod", namespace, "cart", entry.uid)


@pytest.mark.usefixtures("account")
async def test_a_server_that_rejects_an_event_causes_a_warning_and_the_next_event_is_sent(
    client: Client, namespace: str
) -> None:
    entry = PodEntry(await client.create(PODS, namespace, MANIFEST))
    async with recording(client, "nmi") as recorder:
        recorder.record(entry.pod, PODS, "Warning", "No Word" * 100, "refused by the server")
        PodEvents(recorder).record(entry, REFUSAL)
    assert REFUSAL.detail in [event["message"] for event in await events(client, namespace)]
