"""Events as both API servers accept and return them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from mic.app import COMPONENT as MIC
from nmi.app import COMPONENT as NMI
from podidentity.kube.client import Client
from podidentity.kube.events import EVENTS, EventRecorder
from podidentity.kube.paths import object_path
from podidentity.resources import BINDINGS, NODES, Meta, Node
from tests.contract.servers import Server


async def events(client: Client, namespace: str) -> list[dict[str, Any]]:
    listed = msgspec.json.decode(await client.request("GET", object_path(EVENTS, namespace)))
    return list(listed["items"])


@pytest.fixture(params=[MIC, NMI])
async def programs_client(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Client]:
    """That of a program, by its name."""
    async with Client(await server.access(), user_agent=f"{request.param}/contract") as opened:
        yield opened


async def test_repeats_become_one_event_with_a_count(client: Client, programs_client: Client, namespace: str) -> None:
    document = {"metadata": {"name": "b"}, "spec": {"azureIdentity": "i", "selector": "s"}}
    about = await client.create(BINDINGS, namespace, document)
    recorder = EventRecorder(programs_client, "mic", "node-1")
    task = asyncio.create_task(recorder.run())
    for _ in range(3):
        recorder.record(about, BINDINGS, "Normal", "BindingApplied", "binding applied")
        await asyncio.wait_for(recorder.flushed(), 15)
    recorder.record(about, BINDINGS, "Warning", "BindingApplyError", "no such identity")
    await asyncio.wait_for(recorder.flushed(), 15)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    recorded = {entry["reason"]: entry for entry in await events(client, namespace)}
    assert {reason: (entry["type"], entry["count"]) for reason, entry in recorded.items()} == {
        "BindingApplied": ("Normal", 3),
        "BindingApplyError": ("Warning", 1),
    }
    assert recorded["BindingApplied"]["involvedObject"]["uid"] == about.metadata.uid
    assert recorded["BindingApplied"]["source"] == {"component": "mic", "host": "node-1"}
    assert recorder.dropped == 0


async def test_an_event_about_a_node_is_in_the_default_namespace(client: Client, namespace: str) -> None:
    recorder = EventRecorder(client, "mic", "node-1")
    task = asyncio.create_task(recorder.run())
    recorder.record(Node(metadata=Meta(name=f"node-{namespace}", uid="u")), NODES, "Warning", "Odd", "an odd node")
    await asyncio.wait_for(recorder.flushed(), 15)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    messages = [entry["message"] for entry in await events(client, "default") if namespace in entry["metadata"]["name"]]
    assert messages == ["an odd node"]
