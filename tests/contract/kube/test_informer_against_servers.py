"""The informer against faults of a server and of the network in front of it, and against large objects."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from podidentity.kube import response_limits
from podidentity.kube.client import Client
from podidentity.kube.decoding import LongLine, WatchEvent, decode_event
from podidentity.kube.errors import Gone, ServerError
from podidentity.kube.informer import Informer
from podidentity.kube.paths import object_path
from podidentity.resources import BINDINGS, PODS, AzureIdentityBinding, Kind
from tests.contract.kube.conftest import new_namespace, through
from tests.contract.kube.servers import Server, address
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.podidentity.kube.recording import Recorder
from tests.support.waiting import LIMIT_SECONDS, until

Run = Callable[[Coroutine[Any, Any, None]], None]


@asynccontextmanager
async def running() -> AsyncIterator[Run]:
    """A function that runs a task until the end of the block."""
    tasks: list[asyncio.Task[None]] = []
    yield lambda work: tasks.append(asyncio.create_task(work))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def run(client: Client) -> AsyncIterator[Run]:
    del client  # it is closed after the tasks have ended
    async with running() as made:
        yield made


async def followed(run: Run, client: Client, kind: Kind[Any], **options: Any) -> tuple[Informer[Any], Recorder[Any]]:
    """Return an informer that has its first list, and what it reports."""
    recorder: Recorder[Any] = Recorder(versions=False)
    informer = Informer(client, kind, recorder, **options)
    run(informer.run())
    await asyncio.wait_for(informer.synced(), LIMIT_SECONDS)
    return informer, recorder


def pod_on(name: str, node: str) -> dict[str, Any]:
    spec = {"nodeName": node, "automountServiceAccountToken": False, "containers": [{"name": "c", "image": "none"}]}
    return {"metadata": {"name": name}, "spec": spec}


def binding(name: str, selector: str = "s") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"azureIdentity": "i", "selector": selector}}


@dataclass
class Mirror:
    """An informer of one namespace's bindings behind a proxy, and a client that goes past the proxy."""

    client: Client
    proxy: FaultProxy
    namespace: str
    informer: Informer[AzureIdentityBinding]
    recorder: Recorder[AzureIdentityBinding]

    async def received(self, *lines: str) -> None:
        await self.recorder.received(*lines)

    async def create(self, name: str) -> None:
        await self.client.create(BINDINGS, self.namespace, binding(name))


async def mirror_of(server: Server) -> AsyncIterator[Mirror]:
    proxy = FaultProxy(*address(server))
    async with (
        Client(await server.access(), user_agent="direct") as client,
        Client(await through(proxy, server), user_agent="mirrored", timeout_seconds=1) as mirrored,
    ):
        namespace = await new_namespace(client)
        for name in ("a", "b", "c"):
            await client.create(BINDINGS, namespace, binding(name))
        options: dict[str, Any] = {"page_size": 2, "silence_seconds": 1.5, "random": lambda: 0.02}
        async with running() as run:
            informer, recorder = await followed(run, mirrored, BINDINGS, namespace=namespace, **options)
            yield Mirror(client, proxy, namespace, informer, recorder)
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
    async with asyncio.timeout(LIMIT_SECONDS), client.stream(path, params) as lines:
        event = event_of(await anext(lines))
    assert (event.type, event.key) == ("ADDED", (namespace, "b"))


@pytest.mark.usefixtures("account")
async def test_pods_are_selected_by_their_node(client: Client, namespace: str, run: Run) -> None:
    for name, node in (("here", f"n-{namespace}"), ("there", "elsewhere")):
        await client.create(PODS, namespace, pod_on(name, node))
    _, recorder = await followed(run, client, PODS, field_selector=f"spec.nodeName=n-{namespace}")
    assert recorder.lines == ["+here"]
    await client.create(PODS, namespace, pod_on("there-too", "elsewhere"))
    await client.create(PODS, namespace, pod_on("here-too", f"n-{namespace}"))
    await recorder.received("+here", "+here-too")


SMALL, LARGE = 100, 30_000
KINDS = [pytest.param(PODS, id="pods"), pytest.param(BINDINGS, id="custom-resources")]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small that a test makes objects over them fast."""
    with monkeypatch.context() as small:
        for name, value in (("BODY_MAX", 20_000), ("OBJECT_MAX", 20_000), ("LINE_MAX", 20_000), ("PIECE", 1000)):
            small.setattr(response_limits, name, value)
        yield


async def write(writing: Awaitable[Any]) -> None:
    """The write has happened, also where the response to it is over the limit."""
    with suppress(ServerError):
        await writing


def document(kind: Kind[Any], name: str, size: int) -> dict[str, Any]:
    annotations = {"padding": "x" * size}
    if kind is PODS:
        spec: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False}
    else:
        spec = {"azureIdentity": "i", "selector": "s"}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": spec}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("account", "limits")
async def test_lists_leave_out_only_oversized_objects(client: Client, namespace: str, kind: Kind[Any]) -> None:
    large = {"b", "e"}
    for name in "abcdef":
        await write(client.create(kind, namespace, document(kind, name, LARGE if name in large else 6000)))
    assert [item.metadata.name for item in await client.list(kind, namespace)] == ["a", "c", "d", "f"]
    assert client.skipped.counts == {(kind.plural, "size"): 2}
    skipped = [item async for page in client.pages(kind, namespace) for item in page.skipped]
    assert [(item.meta.namespace, item.meta.name) for item in skipped] == [(namespace, "b"), (namespace, "e")]
    assert all(item.meta.uid and item.meta.resource_version.isdigit() for item in skipped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("account", "limits")
async def test_watches_continue_after_an_oversized_object(
    client: Client, namespace: str, kind: Kind[Any], run: Run
) -> None:
    informer, recorder = await followed(run, client, kind, namespace=namespace)
    for name, size in (("a", SMALL), ("b", LARGE), ("c", SMALL)):
        await write(client.create(kind, namespace, document(kind, name, size)))
    await recorder.received("+a", "+c")
    for name, size in (("a", LARGE), ("b", 0)):
        change = {"metadata": {"annotations": {"padding": "x" * size}}}
        await write(client.patch_merge(kind, namespace, name, change))
    await recorder.received("+a", "+c", "-a", "+b")
    assert (informer.lists, informer.restarts) == (1, 0)
    assert client.skipped.counts == {(kind.plural, "size"): 2}


@pytest.mark.usefixtures("account")
async def test_a_pod_appears_in_a_watch_of_scheduled_pods_when_it_is_scheduled(
    client: Client, namespace: str, run: Run
) -> None:
    for name in ("waits", "goes"):
        await client.create(PODS, namespace, document(PODS, name, SMALL))
    informer, recorder = await followed(run, client, PODS, namespace=namespace, field_selector="spec.nodeName!=")
    assert recorder.lines == []
    path = f"{PODS.path(namespace, 'goes')}/binding"
    body = b'{"apiVersion":"v1","kind":"Binding","metadata":{"name":"goes"},"target":{"kind":"Node","name":"n"}}'
    await client.request("POST", path, body=body)
    await recorder.received("+goes")
    (pod,) = informer.store.values()
    assert pod.spec.node_name == "n"
