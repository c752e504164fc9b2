"""410 in each of its three forms: everything is listed again, and the handler receives only the differences."""

from typing import Any

import msgspec
import pytest

from podidentity.kube import informer as module
from podidentity.kube.decoding import decode_object
from podidentity.kube.informer import Informer
from podidentity.resources import Kind, Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer, page, pod, status

EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 7 (99)"}


async def lists_again(server: ScriptedServer, running: Informer[Pod], recorder: Recorder[Pod]) -> None:
    await recorder.received("+same 1", "+changed 2", "+gone 3", "-gone 3", "+changed 2->20", "+fresh 21")
    assert (await server.watch()).request.params["resourceVersion"] == "99"
    assert running.lists == 2


@pytest.fixture
def two_lists(server: ScriptedServer) -> None:
    server.lists += [
        page(pod("same", "1"), pod("changed", "2"), pod("gone", "3"), version="7"),
        page(pod("same", "1"), pod("changed", "20"), pod("fresh", "21"), version="99"),
    ]


@pytest.mark.usefixtures("two_lists")
async def test_a_gone_history_as_an_http_status_causes_a_list(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.watch_replies.append(status(410, "Expired", "too old resource version"))
    await lists_again(server, informer(), recorder)


@pytest.mark.usefixtures("two_lists")
async def test_a_gone_history_as_an_error_event_causes_a_list(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    running = informer()
    (await server.watch()).send("ERROR", EXPIRED)
    await lists_again(server, running, recorder)


@pytest.mark.usefixtures("two_lists")
async def test_an_unchanged_object_of_a_repeated_list_is_not_decoded(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(kind: Kind[Pod], raw: msgspec.Raw, **options: Any) -> Pod:
        made = decode_object(kind, raw, **options)
        read.append(f"{made.metadata.name} {made.metadata.resource_version}")
        return made

    monkeypatch.setattr(module, "decode_object", reading)
    server.watch_replies.append(status(410, "Expired"))
    await lists_again(server, informer(), recorder)
    assert read == ["changed 20", "fresh 21"]


async def test_a_namesake_of_the_same_resource_version_is_another_object(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists += [page(pod("a", "1", uid="one"), version="7"), page(pod("a", "1", uid="two"), version="9")]
    server.watch_replies.append(status(410, "Expired"))
    running = informer()
    await recorder.received("+a 1", "-a 1", "+a 1")
    assert running.store["ns", "a"].metadata.uid == "two"


async def test_an_error_event_of_another_kind_causes_no_list(server: ScriptedServer, informer: NewInformer) -> None:
    server.lists.append(page(version="7"))
    running = informer()
    (await server.watch()).send("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError"})
    assert (await server.watch()).request.params["resourceVersion"] == "7"
    assert running.lists == 1


async def test_a_repeated_error_event_at_the_same_resource_version_causes_another_list(
    server: ScriptedServer, informer: NewInformer
) -> None:
    server.lists += [page(version="7"), page(version="9")]
    running = informer()
    trouble = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "PrevKv=nil"}
    (await server.watch()).send("ERROR", trouble)
    again = await server.watch()
    again.bookmark("8")
    again.send("ERROR", trouble)
    at_eight = await server.watch()
    assert (at_eight.request.params["resourceVersion"], running.lists) == ("8", 1)
    at_eight.send("ERROR", trouble)
    assert (await server.watch()).request.params["resourceVersion"] == "9"
    assert running.lists == 2


async def test_an_expired_continue_token_restarts_the_list(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    gone = status(410, "Expired", metadata={"continue": "the server's inconsistent offer"})
    server.lists += [
        page(pod("old", "1"), version="7", token="t1"),
        gone,
        page(pod("a", "8"), version="9", token="t2"),
        page(pod("b", "9"), version="9"),
    ]
    await informer(page_size=1).synced()
    assert recorder.lines == ["+a 8", "+b 9"]
    assert [request.params.get("continue") for request in server.requests[:4]] == [None, "t1", None, "t2"]


async def test_a_second_expired_continue_token_causes_a_list_in_one_piece(
    server: ScriptedServer, informer: NewInformer
) -> None:
    gone = status(410, "Expired")
    first = page(pod("a", "1"), version="7", token="t1")
    server.lists += [first, gone, first, gone, page(pod("b", "9"), version="9")]
    running = informer(page_size=1)
    await running.synced()
    assert set(running.store) == {("ns", "b")}
    assert [request.params.get("limit") for request in server.requests[:5]] == ["1", "1", "1", "1", None]
