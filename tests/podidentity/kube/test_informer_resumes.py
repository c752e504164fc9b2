"""An interrupted watch resumes from the last resource version without a new list. Excluded: 410."""

import pytest

from podidentity.resources import Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import Reply, ScriptedServer, page, pod, status


async def test_a_watch_resumes_after_the_servers_regular_end(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(pod("a", "1"), version="7"))
    running = informer()
    watch = await server.watch()
    watch.send("MODIFIED", pod("a", "9"))
    watch.end()
    again = await server.watch()
    assert again.request.params["resourceVersion"] == "9"
    again.send("DELETED", pod("a", "10"))
    await recorder.received("+a 1", "+a 1->9", "-a 9")
    assert (running.restarts, running.lists) == (0, 1)


async def test_a_watch_resumes_after_a_broken_connection(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(version="7"))
    running = informer()
    watch = await server.watch()
    watch.send("ADDED", pod("a", "8"))
    watch.break_off()
    again = await server.watch()
    assert again.request.params["resourceVersion"] == "8"
    assert (running.restarts, running.lists) == (1, 1)


async def test_a_bookmark_moves_the_resource_version_to_resume_from(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(version="7"))
    informer()
    watch = await server.watch()
    watch.bookmark("50")
    watch.end()
    assert (await server.watch()).request.params["resourceVersion"] == "50"
    assert recorder.lines == []


@pytest.mark.parametrize(
    "refusal",
    [status(500, "InternalError"), status(429, "TooManyRequests"), status(403, "Forbidden"), Reply(b"<html>", 503)],
    ids=["500", "429", "403", "a proxy's page"],
)
async def test_a_watch_resumes_after_a_rejected_watch(
    server: ScriptedServer, informer: NewInformer, refusal: Reply
) -> None:
    server.lists.append(page(version="7"))
    server.watch_replies.append(refusal)
    running = informer()
    assert (await server.watch()).request.params["resourceVersion"] == "7"
    assert (running.restarts, running.lists) == (1, 1)


async def test_a_line_split_into_two_parts_is_one_event(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(version="7"))
    informer()
    watch = await server.watch()
    line = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}\n'
    watch.send_raw(line[:20])
    watch.send_raw(line[20:] + line.replace(b'"a"', b'"b"'))
    await recorder.received("+a 8", "+b 8")
