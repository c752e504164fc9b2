"""The calls of a handler, and their order."""

import asyncio

import pytest

from podidentity.kube.client import Client
from podidentity.kube.informer import Informer
from podidentity.resources import PODS, Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer, page, pod, status
from tests.virtual_time import now


async def test_a_recreated_namesake_is_reported_as_deleted_and_then_added(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists += [page(pod("a", "1", uid="one"), version="7"), page(pod("a", "8", uid="two"), version="9")]
    server.watch_replies.append(status(410, "Expired"))
    informer()
    await recorder.received("+a 1", "-a 1", "+a 8")


async def test_an_already_known_event_is_not_reported(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(pod("a", "1"), version="7"))
    informer()
    watch = await server.watch()
    watch.send("ADDED", pod("a", "1"))
    watch.send("DELETED", pod("never-seen", "8"))
    watch.send("ADDED", pod("b", "9"))
    await recorder.received("+a 1", "+b 9")


async def test_the_store_has_changed_before_the_handler_is_called(server: ScriptedServer, client: Client) -> None:
    seen: list[bool] = []
    done = asyncio.Event()

    class Looking:
        def upserted(self, old: Pod | None, new: Pod) -> None:
            seen.append(running.store[new.key] is new)

        def deleted(self, old: Pod) -> None:
            seen.append(old.key not in running.store)
            done.set()

    running = Informer(client, PODS, Looking(), random=lambda: 0.0, clock=now)
    server.lists.append(page(pod("a", "1"), version="7"))
    task = asyncio.create_task(running.run())
    (await server.watch()).send("DELETED", pod("a", "8"))
    await asyncio.wait_for(done.wait(), 60)
    assert seen == [True, True]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_cancelled_informer_releases_its_connection(
    server: ScriptedServer, client: Client, recorder: Recorder[Pod]
) -> None:
    server.lists += [page(version="7"), page(pod("a", "1"), version="8")]
    first = asyncio.create_task(Informer(client, PODS, recorder, clock=now).run())
    await server.watch()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert [entry.metadata.name for entry in await client.list(PODS)] == ["a"]
