"""The emulator's hooks for tests: pause, other sockets, its store.

Other tests use a restart, replaced responses and subscribers, and fail without them."""

import asyncio

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.serving import restartable_listener
from tests.support.sandbox.kubeapi.client import CONFIGMAPS, Caller, pod


async def test_a_paused_server_accepts_and_answers_nothing_until_it_is_resumed(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision) as watch:
        api.pause()
        request = asyncio.create_task(call("GET", CONFIGMAPS))
        api.store.create("configmaps", {"metadata": {"name": "a"}}, "default")
        done, _ = await asyncio.wait([request], timeout=0.05)
        assert not done
        api.resume()
        assert (await request).status == 200
        assert await watch.receive(1) == [("ADDED", "a")]


async def test_a_given_socket_is_served_and_closed_with_the_server(api: KubeApi, call: Caller) -> None:
    elsewhere = restartable_listener("127.0.0.1")
    port = elsewhere.getsockname()[1]
    await api.listen(elsewhere)
    caller = Caller(f"https://127.0.0.1:{port}", api.token, api.authority.client_context())
    assert (await caller("GET", "/healthz")).body == "ok"
    await caller.close()
    await api.stop()
    for stopped in (port, api.port):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", stopped)


def test_documents_from_the_store_belong_to_the_caller() -> None:
    store = KubeApi().store
    mine = pod("p", labels={"a": "b"})
    made = store.create("pods", mine, "default")
    mine["metadata"]["labels"]["a"] = made["metadata"]["labels"]["a"] = "changed"
    store.list("pods")[0]["metadata"]["labels"]["a"] = "changed"
    assert store.get("pods", "p", "default")["metadata"]["labels"] == {"a": "b"}
