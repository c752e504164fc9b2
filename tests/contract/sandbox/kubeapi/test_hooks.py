"""The emulator's hooks for tests: stop, restart, pause, replaced responses, its store."""

import asyncio
import datetime

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.serving import restartable_listener
from tests.support.sandbox.kubeapi.client import CONFIGMAPS, PODS, Caller, pod

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


async def test_after_a_restart_the_data_and_the_port_are_the_same_and_watches_resume(
    api: KubeApi, call: Caller
) -> None:
    server, revision = api.server, api.store.revision
    async with call.watch(CONFIGMAPS, resourceVersion=revision) as watch:
        await api.stop()
        assert await watch.ends()
    api.store.create("configmaps", {"metadata": {"name": "while-down"}}, "default")
    await api.start()
    assert api.server == server
    async with call.watch(CONFIGMAPS, resourceVersion=revision) as watch:
        assert await watch.receive(1) == [("ADDED", "while-down")]


async def test_a_paused_server_accepts_and_answers_nothing_until_it_is_resumed(api: KubeApi, call: Caller) -> None:
    async with call.watch(CONFIGMAPS, resourceVersion=api.store.revision) as watch:
        api.pause()
        asked = asyncio.create_task(call("GET", CONFIGMAPS))
        api.store.create("configmaps", {"metadata": {"name": "a"}}, "default")
        done, _ = await asyncio.wait([asked], timeout=0.05)
        assert not done
        api.resume()
        assert (await asked).status == 200
        assert await watch.receive(1) == [("ADDED", "a")]


async def test_a_request_can_be_answered_by_a_hook(api: KubeApi, call: Caller) -> None:
    busy = StatusError(429, "TooManyRequests", "slow down", retry_after=2)
    api.intercept = lambda request: busy if request.path.startswith(PODS) else None
    refused, passed = await call("GET", PODS), await call("GET", CONFIGMAPS)
    assert (refused.status, refused.headers["Retry-After"], passed.status) == (429, "2", 200)
    api.intercept = None
    assert (await call("GET", PODS)).status == 200


async def test_a_given_socket_is_served_and_closed_with_the_server(api: KubeApi, call: Caller) -> None:
    elsewhere = restartable_listener("127.0.0.1")
    port = elsewhere.getsockname()[1]
    await api.add_socket(elsewhere)
    other = Caller(f"https://127.0.0.1:{port}", api.token, api.authority.client_context())
    assert (await other("GET", "/healthz")).body == "ok"
    await other.close()
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


def test_a_subscriber_gets_each_change_until_it_unsubscribes() -> None:
    store = KubeApi().store
    changes: list[tuple[str, str]] = []
    end = store.subscribe("pods", lambda change: changes.append((change.type, change.key[1])))
    store.create("pods", pod("p", node="n"), "default")
    store.patch("pods", "p", {"status": {"phase": "Running"}}, "default", subresource="status")
    assert not store.delete("pods", "p", "default")
    assert store.delete("pods", "p", "default", grace_seconds=0)
    end()
    store.create("pods", pod("q"), "default")
    assert changes == [("ADDED", "p"), ("MODIFIED", "p"), ("MODIFIED", "p"), ("DELETED", "p")]
