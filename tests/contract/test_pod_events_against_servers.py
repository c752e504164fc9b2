"""Events about pods as both API servers accept and return them."""

import asyncio
from typing import Any

import msgspec
import pytest

from nmi.identity.pods import PodEntry
from nmi.pod_events import PodEvents
from nmi.refusal import Reason, Refusal
from podidentity.kube.client import Client
from podidentity.kube.events import EVENTS, EventRecorder
from podidentity.kube.paths import object_path
from podidentity.resources import PODS, Kind, Resource
from tests.support.waiting import until

MANIFEST = {"metadata": {"name": "cart"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
REFUSAL = Refusal(Reason.NO_MATCHING_IDENTITY, "No.", "compare the label with the selector")


@pytest.fixture(autouse=True)
async def account(client: Client, namespace: str) -> None:
    """Pods need their namespace's service account, which a controller makes."""
    accounts: Kind[Resource] = Kind("ServiceAccount", "serviceaccounts", Resource)
    await until(lambda: client.list(accounts, namespace))


async def events(client: Client, namespace: str) -> list[dict[str, Any]]:
    listed = msgspec.json.decode(await client.request("GET", object_path(EVENTS, namespace)))
    return list(listed["items"])


async def test_a_repeated_refusal_is_recorded_once_on_its_pod(client: Client, namespace: str) -> None:
    entry = PodEntry(await client.create(PODS, namespace, MANIFEST))
    recorder = EventRecorder(client, "nmi", "node-1")
    sending = asyncio.create_task(recorder.run())
    now = 0.0
    pod_events = PodEvents(recorder, clock=lambda: now)
    for now, refusal in ((0.0, REFUSAL), (1.0, REFUSAL), (61.0, REFUSAL), (90.0, Refusal(Reason.OVERLOADED, "No."))):  # noqa: B007 - read by the clock
        pod_events.record(entry, refusal)
        await asyncio.wait_for(recorder.flushed(), 15)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
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


async def test_a_server_that_rejects_an_event_causes_a_warning_and_the_next_event_is_sent(
    client: Client, namespace: str
) -> None:
    entry = PodEntry(await client.create(PODS, namespace, MANIFEST))
    recorder = EventRecorder(client, "nmi", "node-1")
    sending = asyncio.create_task(recorder.run())
    recorder.record(
        await client.get(PODS, namespace, "cart"), PODS, "Warning", "No Word" * 100, "refused by the server"
    )
    PodEvents(recorder).record(entry, REFUSAL)
    await asyncio.wait_for(recorder.flushed(), 15)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)

    assert REFUSAL.detail in [each["message"] for each in await events(client, namespace)]
