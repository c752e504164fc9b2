"""Objects and lines that cannot be read never stop an informer, and never keep an outdated grant valid."""

import json
from typing import Any

from podidentity.resources import Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import Reply, ScriptedServer, page, pod

DEEP = b'"metadata": {"name": "deep"', b'"metadata": {"managedFields": %b, "name": "deep"' % (b"[" * 9999 + b"]" * 9999)
"""The API server keeps what managedFields say, to ten thousand levels."""


def bad(name: str, version: str) -> dict[str, Any]:
    return pod(name, version, spec={"nodeName": 5})


async def test_an_unreadable_object_in_a_list_is_left_out(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(bad("bad", "1"), pod("good", "2"), version="7"))
    await informer().synced()
    assert recorder.lines == ["+good 2"]


async def test_an_object_that_becomes_unreadable_counts_as_deleted(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(page(pod("a", "1"), version="7"))
    informer()
    watch = await server.watch()
    watch.send("MODIFIED", bad("a", "8"))
    watch.send("MODIFIED", pod("a", "9"))
    await recorder.received("+a 1", "-a 1", "+a 9")
    watch.end()
    assert (await server.watch()).request.params["resourceVersion"] == "9"


async def test_a_malformed_line_causes_a_list(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists += [page(pod("a", "1"), version="7"), page(pod("b", "8"), version="9")]
    running = informer()
    (await server.watch()).send_raw(b'{"type":"MODIFIED","object":\xff}\n')
    await recorder.received("+a 1", "-a 1", "+b 8")
    assert running.lists == 2


async def test_a_response_that_is_not_a_list_is_requested_again(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists += [
        Reply(b"<html>a login page</html>"),
        Reply({"metadata": {}, "items": []}),
        page(pod("a", "1"), version="7"),
    ]
    running = informer()
    await running.synced()
    assert recorder.lines == ["+a 1"]
    assert running.restarts == 2


async def test_an_object_nested_too_deeply_hides_neither_itself_nor_the_others(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists.append(
        Reply(json.dumps(page(pod("deep", "1"), pod("a", "2"), version="7").body).encode().replace(*DEEP))
    )
    running = informer()
    watch = await server.watch()
    event = {"type": "MODIFIED", "object": pod("deep", "8")}
    watch.send_raw(json.dumps(event).encode().replace(*DEEP) + b"\n")
    watch.send("MODIFIED", pod("a", "9"))
    await recorder.received("+deep 1", "+a 2", "+deep 1->8", "+a 2->9")
    assert running.restarts == 0


async def test_an_empty_line_is_ignored(server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]) -> None:
    server.lists.append(page(version="7"))
    informer()
    watch = await server.watch()
    watch.send_raw(b"\n\n")
    watch.send("ADDED", pod("a", "8"))
    await recorder.received("+a 8")
