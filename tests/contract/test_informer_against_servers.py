"""The informer against faults of a real API server and of the network in front of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podidentity.kube.client import Client
from podidentity.kube.decoding import LongLine, WatchEvent, decode_event
from podidentity.kube.errors import Gone
from podidentity.kube.informer import Informer
from podidentity.kube.paths import object_path
from podidentity.resources import BINDINGS, PODS, AzureIdentityBinding, Kind, Pod, Resource
from podidentity_sandbox.faults.connections import FaultProxy, Mode
from tests.contract.conftest import new_namespace, through
from tests.contract.servers import Server, address
from tests.podidentity.kube.recording import Recorder
from tests.support.waiting import until

SERVICE_ACCOUNTS: Kind[Resource] = Kind("ServiceAccount", "serviceaccounts", Resource)


def pod_on(name: str, node: str) -> dict[str, Any]:
    spec = {"nodeName": node, "automountServiceAccountToken": False, "containers": [{"name": "c", "image": "none"}]}
    return {"metadata": {"name": name}, "spec": spec}


def binding(name: str, selector: str = "s") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"azureIdentity": "i", "selector": selector}}


class Mirror:
    """An informer of one namespace's bindings behind a proxy, and a client that goes past the proxy."""

    def __init__(self, client: Client, proxy: FaultProxy, mirrored: Client, namespace: str) -> None:
        self.client, self.proxy, self.namespace = client, proxy, namespace
        self.recorder: Recorder[AzureIdentityBinding] = Recorder(versions=False)
        self.informer = Informer(
            mirrored,
            BINDINGS,
            self.recorder,
            namespace=namespace,
            page_size=2,
            silence_seconds=1.5,
            random=lambda: 0.02,
        )
        self.task = asyncio.create_task(self.informer.run())

    async def received(self, *lines: str) -> None:
        await self.recorder.received(*lines, seconds=15)

    async def create(self, name: str) -> None:
        await self.client.create(BINDINGS, self.namespace, binding(name))

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def mirror_of(server: Server) -> AsyncIterator[Mirror]:
    proxy = FaultProxy(*address(server))
    async with (
        Client(await server.access(), user_agent="direct") as client,
        Client(await through(proxy, server), user_agent="mirrored", timeout_seconds=1) as mirrored,
    ):
        namespace = await new_namespace(client)
        for name in ("a", "b", "c"):
            await client.create(BINDINGS, namespace, binding(name))
        mirror = Mirror(client, proxy, mirrored, namespace)
        await asyncio.wait_for(mirror.informer.synced(), 15)
        yield mirror
        await mirror.close()
    await proxy.stop()


@pytest.fixture
async def mirror(server: Server) -> AsyncIterator[Mirror]:
    async for made in mirror_of(server):
        yield made


@pytest.fixture
async def frail(frail_server: Server) -> AsyncIterator[Mirror]:
    async for made in mirror_of(frail_server):
        yield made


async def test_the_informer_lists_in_pages_and_then_follows_every_change(mirror: Mirror) -> None:
    client, namespace = mirror.client, mirror.namespace
    await mirror.create("d")
    await client.patch_merge(BINDINGS, namespace, "a", {"spec": {"selector": "other"}})
    await client.delete(BINDINGS, namespace, "b")
    await mirror.received("+a", "+b", "+c", "+d", "~a", "-b")
    assert mirror.informer.store[namespace, "a"].spec.selector == "other"


async def test_a_reset_connection_resumes_at_its_resource_version(mirror: Mirror) -> None:
    await mirror.proxy.set_mode(Mode.REFUSE)
    await mirror.proxy.reset_connections()
    await mirror.create("d")
    await mirror.client.delete(BINDINGS, mirror.namespace, "a")
    await mirror.proxy.set_mode(Mode.PASS)
    await mirror.received("+a", "+b", "+c", "+d", "-a")
    assert mirror.informer.lists == 1
    assert mirror.informer.restarts >= 1


async def test_a_half_open_watch_is_detected_and_replaced(mirror: Mirror) -> None:
    await mirror.create("d")
    await mirror.received("+a", "+b", "+c", "+d")  # so the watch is open
    await mirror.proxy.set_mode(Mode.SILENT)
    await mirror.create("e")
    await until(lambda: mirror.informer.restarts)
    await mirror.proxy.set_mode(Mode.PASS)
    await mirror.received("+a", "+b", "+c", "+d", "+e")
    assert mirror.informer.lists == 1


async def test_after_a_server_restart_the_watch_resumes_at_its_resource_version(
    frail: Mirror, frail_server: Server
) -> None:
    await frail_server.kill()
    try:
        await until(lambda: frail.informer.restarts)
    finally:
        await frail_server.start_again()
    await frail.create("d")
    await frail.received("+a", "+b", "+c", "+d")
    assert frail.informer.lists == 1


async def test_after_a_compaction_the_objects_are_listed_again_and_compared(
    frail: Mirror, frail_server: Server
) -> None:
    await frail.proxy.set_mode(Mode.REFUSE)
    await frail.proxy.reset_connections()
    await frail.create("d")
    await frail.client.delete(BINDINGS, frail.namespace, "a")
    await frail_server.compact()
    await frail.create("e")
    await frail.proxy.set_mode(Mode.PASS)
    await frail.received("+a", "+b", "+c", "-a", "+d", "+e")
    assert frail.informer.lists == 2


async def test_an_expired_continue_token_is_an_http_status_and_restarts_the_list(frail_server: Server) -> None:
    async with Client(await frail_server.access(), user_agent="pager") as client:
        namespace = await new_namespace(client)
        for name in ("a", "b", "c"):
            await client.create(BINDINGS, namespace, binding(name))
        first = await client.request("GET", object_path(BINDINGS, namespace), params={"limit": "1"})
        await client.delete(BINDINGS, namespace, "a")
        await frail_server.compact()
        token = first.split(b'"continue":"')[1].split(b'"')[0].decode()
        with pytest.raises(Gone) as raised:
            await client.request("GET", object_path(BINDINGS, namespace), params={"limit": "1", "continue": token})
        assert (raised.value.status, raised.value.reason) == (410, "Expired")

        seen: list[tuple[bool, int]] = []
        async for page in client.pages(BINDINGS, namespace, page_size=1):
            seen.append((page.first, len(page.items)))
            if len(seen) == 1:
                await client.create(BINDINGS, namespace, binding("d"))
                await frail_server.compact()
        assert seen == [(True, 1), (True, 1), (False, 1), (False, 1)]


def event_of(line: bytes | LongLine) -> WatchEvent[AzureIdentityBinding]:
    assert isinstance(line, bytes)
    return decode_event(BINDINGS, line)


async def test_too_old_a_watch_is_an_error_event(frail_server: Server) -> None:
    async with Client(await frail_server.access(), user_agent="old") as client:
        namespace = await new_namespace(client)
        stored = await client.create(BINDINGS, namespace, binding("a"))
        for name in ("b", "c", "d"):
            await client.create(BINDINGS, namespace, binding(name))
        await frail_server.compact()
        params = {"watch": "true", "resourceVersion": stored.metadata.resource_version, "timeoutSeconds": "5"}
        async with client.stream(object_path(BINDINGS, namespace), params) as lines:
            events = [event_of(line) async for line in lines]
        assert [event.type for event in events] == ["ERROR"]
        assert isinstance(events[0].error, Gone)


async def test_a_bookmark_precedes_the_end_and_can_be_resumed_from(client: Client, namespace: str) -> None:
    """A watch without events receives, before its end, the current resource version of its kind, which advances in
    other namespaces.

    A real server sends the bookmark about two seconds before the end, and only if its cache of the kind has advanced
    since the watch began. Without a write of the kind this requires a progress message of etcd, which a consistent read
    causes. A watch of an idle kind on an idle server gets none.
    """
    path, elsewhere = object_path(BINDINGS, namespace), await new_namespace(client)
    begin = (await client.create(BINDINGS, namespace, binding("a"))).metadata.resource_version
    params = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": begin, "timeoutSeconds": "4"}
    events: list[WatchEvent[AzureIdentityBinding]] = []
    async with asyncio.timeout(60):
        while not events:  # the write of a slow machine may come only after the moment of the bookmark
            async with client.stream(path, params) as lines:
                await client.create(BINDINGS, elsewhere, {**binding(""), "metadata": {"generateName": "moves-on-"}})
                events = [event_of(line) async for line in lines]
    assert {event.type for event in events} == {"BOOKMARK"}
    assert int(events[-1].resource_version) > int(begin)
    await client.create(BINDINGS, namespace, binding("b"))
    params["resourceVersion"] = events[-1].resource_version
    async with asyncio.timeout(15), client.stream(path, params) as lines:
        event = event_of(await anext(lines))
    assert (event.type, event.key) == ("ADDED", (namespace, "b"))


async def test_pods_are_selected_by_their_node(client: Client, namespace: str) -> None:
    await until(lambda: client.list(SERVICE_ACCOUNTS, namespace), "the account of pods, which a controller makes")
    recorder: Recorder[Pod] = Recorder(versions=False)
    for name, node in (("here", f"n-{namespace}"), ("there", "elsewhere")):
        await client.create(PODS, namespace, pod_on(name, node))
    informer = Informer(client, PODS, recorder, field_selector=f"spec.nodeName=n-{namespace}")
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced(), 15)
    assert recorder.lines == ["+here"]
    await client.create(PODS, namespace, pod_on("there-too", "elsewhere"))
    await client.create(PODS, namespace, pod_on("here-too", f"n-{namespace}"))
    await recorder.received("+here", "+here-too", seconds=15)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
