"""Large objects in lists and watches of both API servers, and the limit on their size."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from podidentity.kube import response_limits
from podidentity.kube.client import Client
from podidentity.kube.errors import ServerError
from podidentity.kube.events import EVENTS, EventRecorder
from podidentity.kube.informer import Informer
from podidentity.resources import BINDINGS, PODS, Kind, Pod
from tests.podidentity.kube.recording import Recorder
from tests.support.waiting import until

SMALL, LARGE = 100, 30_000
KINDS = [pytest.param(PODS, id="pods"), pytest.param(BINDINGS, id="custom-resources")]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small that a test makes objects over them fast."""
    with monkeypatch.context() as small:
        for name, value in (("BODY_MAX", 20_000), ("OBJECT_MAX", 20_000), ("LINE_MAX", 20_000), ("PIECE", 1000)):
            small.setattr(response_limits, name, value)
        yield


async def write(answer: Awaitable[Any]) -> None:
    """The write has happened, also where the answer to it is over the limit."""
    with suppress(ServerError):
        await answer


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
    assert [each.metadata.name for each in await client.list(kind, namespace)] == ["a", "c", "d", "f"]
    assert client.skipped.counts == {(kind.plural, "size"): 2}
    skipped = [each async for page in client.pages(kind, namespace) for each in page.skipped]
    assert [(each.meta.namespace, each.meta.name) for each in skipped] == [(namespace, "b"), (namespace, "e")]
    assert all(each.meta.uid and each.meta.resource_version.isdigit() for each in skipped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("account", "limits")
async def test_watches_continue_after_an_oversized_object(client: Client, namespace: str, kind: Kind[Any]) -> None:
    recorder: Recorder[Any] = Recorder(versions=False)
    informer = Informer(client, kind, recorder, namespace=namespace)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced(), 15)
    for name, size in (("a", SMALL), ("b", LARGE), ("c", SMALL)):
        await write(client.create(kind, namespace, document(kind, name, size)))
    await recorder.received("+a", "+c", seconds=15)
    for name, size in (("a", LARGE), ("b", 0)):
        change = {"metadata": {"annotations": {"padding": "x" * size}}}
        await write(client.patch_merge(kind, namespace, name, change))
    await recorder.received("+a", "+c", "-a", "+b", seconds=15)
    assert (informer.lists, informer.restarts) == (1, 0)
    assert client.skipped.counts == {(kind.plural, "size"): 2}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("account", "limits")
async def test_the_event_is_on_the_object_in_its_namespace(client: Client, namespace: str, kind: Kind[Any]) -> None:
    recorder = EventRecorder(client, "test", "here")
    client.skipped.record_with(recorder.record)
    task = asyncio.create_task(recorder.run())
    await write(client.create(kind, namespace, document(kind, "a", LARGE)))
    assert await client.list(kind, namespace) == []
    ((skipped,),) = [page.skipped async for page in client.pages(kind, namespace)]
    await asyncio.wait_for(recorder.flushed(), 15)
    selector = f"involvedObject.uid={skipped.meta.uid}"
    (event,) = await client.list(EVENTS, namespace, field_selector=selector)
    assert event.metadata.namespace == namespace
    assert recorder.dropped == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("account")
async def test_a_pod_appears_in_a_watch_of_scheduled_pods_when_it_is_scheduled(client: Client, namespace: str) -> None:
    recorder: Recorder[Pod] = Recorder()
    for name in ("waits", "goes"):
        await client.create(PODS, namespace, document(PODS, name, SMALL))
    informer = Informer(client, PODS, recorder, namespace=namespace, field_selector="spec.nodeName!=")
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced(), 15)
    assert recorder.lines == []
    path = f"{PODS.path(namespace, 'goes')}/binding"
    body = b'{"apiVersion":"v1","kind":"Binding","metadata":{"name":"goes"},"target":{"kind":"Node","name":"n"}}'
    await client.request("POST", path, body=body)
    await until(lambda: recorder.lines)
    assert [line.split()[0] for line in recorder.lines] == ["+goes"]
    (pod,) = informer.store.values()
    assert pod.spec.node_name == "n"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
