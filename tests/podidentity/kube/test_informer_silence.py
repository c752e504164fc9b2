"""A watch without data for longer than the interval of bookmarks is replaced; staleness is the time since its data."""

import math

from podidentity.resources import Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer, page, pod


async def test_a_half_open_watch_is_replaced_at_its_resource_version(
    server: ScriptedServer, informer: NewInformer
) -> None:
    server.lists.append(page(version="7"))
    running = informer(silence_seconds=0.05)
    await server.watch()
    assert (await server.watch()).request.params["resourceVersion"] == "7"
    assert running.restarts >= 1
    assert running.lists == 1


async def test_staleness_is_the_age_of_the_last_received_data(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    clock = [100.0]
    running = informer(clock=lambda: clock[0])
    assert running.staleness_seconds() == math.inf
    server.lists.append(page(version="7"))
    watch = await server.watch()
    clock[0] = 160.0
    assert running.staleness_seconds() == 60.0
    watch.send("ADDED", pod("a", "8"))
    await recorder.received("+a 8")
    assert running.staleness_seconds() == 0.0
