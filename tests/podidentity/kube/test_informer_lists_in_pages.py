"""How an informer's first list is read. Excluded: what happens when a page's token has expired."""

from podidentity.resources import Pod
from tests.podidentity.kube.conftest import NewInformer
from tests.podidentity.kube.recording import Recorder
from tests.podidentity.kube.scripted import ScriptedServer, page, pod


async def test_the_list_is_read_page_by_page(
    server: ScriptedServer, informer: NewInformer, recorder: Recorder[Pod]
) -> None:
    server.lists += [page(pod("a", "1"), version="7", token="t1"), page(pod("b", "2"), version="7")]
    running = informer(page_size=1, field_selector="spec.nodeName=n", label_selector="x=y")
    await running.synced()
    assert recorder.lines == ["+a 1", "+b 2"]
    assert set(running.store) == {("ns", "a"), ("ns", "b")}
    first, second = server.requests[:2]
    assert first.params == {"limit": "1", "fieldSelector": "spec.nodeName=n", "labelSelector": "x=y"}
    assert second.params == {**first.params, "continue": "t1"}


async def test_the_watch_starts_where_the_list_ended(server: ScriptedServer, informer: NewInformer) -> None:
    server.lists.append(page(version="7"))
    informer(field_selector="spec.nodeName=n")
    params = (await server.watch()).request.params
    assert params == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "timeoutSeconds": "240",
        "fieldSelector": "spec.nodeName=n",
    }


async def test_an_empty_list_of_null_items_is_synced(server: ScriptedServer, informer: NewInformer) -> None:
    empty = page(version="3")
    empty.body = {"metadata": {"resourceVersion": "3"}, "items": None}
    server.lists.append(empty)
    running = informer()
    await running.synced()
    assert not running.store


async def test_one_namespace_can_be_watched(server: ScriptedServer, informer: NewInformer) -> None:
    server.lists.append(page(version="3"))
    informer(namespace="kube-system")
    watch = await server.watch()
    assert {request.path for request in server.requests} == {"/api/v1/namespaces/kube-system/pods"}
    assert watch.request.path == "/api/v1/namespaces/kube-system/pods"
