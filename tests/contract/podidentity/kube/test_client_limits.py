"""The client's reaction to servers that are slow, send without end, or are not API servers."""

import asyncio
import contextlib
import socket

import pytest

from podidentity.kube import response_limits, transport
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import (
    MESSAGE_MAX,
    ApiError,
    Forbidden,
    NoResponse,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unauthorized,
)
from podidentity.kube.lease import Elector
from podidentity.kube.sessions import OpenSession
from podidentity.resources import PODS
from tests.support.podidentity.kube.scripted import Reply, ScriptedServer, page, pod, status
from tests.support.waiting import until


async def test_a_response_that_does_not_arrive_is_unreachable(server: ScriptedServer, client: Client) -> None:
    server.others.append(None)
    with pytest.raises(TimedOut, match=r"no response from http://127\.0\.0\.1:\d+ within 0\.05 s"):
        await client.request("GET", "/slow", timeout_seconds=0.05)
    # On a busy machine the request can reach its time limit before the server has read it, or even received it.
    server.others.clear()
    server.others += [Reply(b"{}")] * 2
    assert await client.request("GET", "/quick") == b"{}"


async def test_a_refused_connection_is_unreachable(server: ScriptedServer, open_session: OpenSession) -> None:
    await server.stop()
    async with Client(ClusterAccess(server.url), user_agent="t", open_session=open_session) as lonely:
        with pytest.raises(NoResponse, match=r"cannot reach http://127\.0\.0\.1"):
            await lonely.get(PODS, "ns", "a")
    await server.start()


async def test_a_connection_that_is_not_established_is_no_slow_response(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.05)
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with Client(ClusterAccess(url), user_agent="t", open_session=open_session) as client:
            with pytest.raises(NoResponse, match=f"cannot reach {url}: ") as error:
                await client.get(PODS, "ns", "a")
    assert not isinstance(error.value, TimedOut)


async def test_a_cancelled_request_leaves_the_client_usable(server: ScriptedServer, client: Client) -> None:
    server.others += [None, Reply(b"{}")]
    task = asyncio.create_task(client.request("GET", "/slow"))
    await until(lambda: server.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.request("GET", "/quick") == b"{}"


async def test_an_error_body_is_read_up_to_a_limit(server: ScriptedServer, client: Client) -> None:
    server.others.append(Reply(b"x" * 2_000_000, 500))
    with pytest.raises(ServerError) as raised:
        await client.request("GET", "/big")
    assert raised.value.message == "x" * MESSAGE_MAX


async def test_an_error_body_nested_too_deeply_is_handled(server: ScriptedServer, client: Client) -> None:
    server.others.append(Reply(b'{"kind":"Status","details":' + b"[" * 60_000, 500))
    with pytest.raises(ServerError):
        await client.request("GET", "/deep")


async def test_a_leader_lock_nested_too_deeply_ends_no_candidate(
    server: ScriptedServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    server.others += [Reply(b'{"metadata":' + b"[" * 60_000)] * 100
    elector = Elector(client, namespace="ns", name="mic", identity="ours", duration_seconds=2.0)
    candidate = asyncio.create_task(elector.run())
    await until(lambda: any("cannot be read" in record.message for record in caplog.records))
    assert not candidate.done()
    candidate.cancel()
    with pytest.raises(asyncio.CancelledError):
        await candidate


async def test_an_oversized_response_is_rejected(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_limits, "BODY_MAX", 1000)
    server.others += [Reply(b"x" * 1001), Reply(b"x" * 1000)]
    with pytest.raises(ServerError, match="more than 1000 bytes"):
        await client.request("GET", "/big")
    assert len(await client.request("GET", "/fits")) == 1000


async def test_a_watch_that_ends_inside_a_line_is_unreachable(server: ScriptedServer, client: Client) -> None:
    async with client.stream("/watch", {"watch": "true"}) as lines:
        watch = await server.watch()
        watch.send_raw(b'{"type":')
        watch.end()
        with pytest.raises(NoResponse):
            await anext(lines)


@pytest.mark.parametrize(
    ("reply", "kind", "retry_after"),
    [
        (Reply({"kind": "Status", "code": 429}, 429, {"Retry-After": "7"}), TooManyRequests, 7.0),
        (Reply({"kind": "Status", "code": 429, "details": {"retryAfterSeconds": 3}}, 429), TooManyRequests, 3.0),
        (
            Reply({"kind": "Status", "code": 429}, 429, {"Retry-After": "Tue, 24 Nov 2026 17:00:00 GMT"}),
            TooManyRequests,
            None,
        ),
        (Reply(b"<html>Bad Gateway", 502), ServerError, None),
        (Reply(b"\xff\xfe", 503), ServerError, None),
        (Reply(b'{"kind": "Status", "code": "many"}', 403), Forbidden, None),
        (Reply(b"", 302, {"Location": "http://127.0.0.1:1/elsewhere"}), ApiError, None),
    ],
    ids=["header", "details", "date", "html", "not-utf8", "wrong-types", "redirect"],
)
async def test_every_rejection_becomes_one_error(
    server: ScriptedServer, client: Client, reply: Reply, kind: type[ApiError], retry_after: float | None
) -> None:
    server.others.append(reply)
    with pytest.raises(ApiError) as raised:
        await client.request("GET", "/any")
    assert type(raised.value) is kind
    assert (raised.value.status, raised.value.retry_after) == (reply.status, retry_after)


async def test_a_response_that_is_not_the_object_is_a_server_error(server: ScriptedServer, client: Client) -> None:
    server.others.append(Reply(b"<html>a login page</html>"))
    with pytest.raises(ServerError, match="cannot be read"):
        await client.get(PODS, "ns", "a")


async def test_an_unreadable_object_is_left_out_of_a_list(server: ScriptedServer, client: Client) -> None:
    server.lists.append(page(pod("a", "1", spec={"nodeName": []}), pod("b", "2"), version="3"))
    assert [entry.metadata.name for entry in await client.list(PODS)] == ["b"]


@pytest.mark.parametrize("name", ["", "a", "node-1.example.com", "system:node"])
async def test_valid_names_are_accepted(server: ScriptedServer, client: Client, name: str) -> None:
    server.others.append(Reply(pod("a", "1")))
    await client.get(PODS, "ns", name)
    assert server.requests[-1].path == "/api/v1/namespaces/ns/pods" + (f"/{name}" if name else "")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a?b", "a%2fb", "a\nb", "é", "x" * 254])
async def test_invalid_names_are_not_sent(server: ScriptedServer, client: Client, name: str) -> None:
    with pytest.raises(ApiError, match="is not the name"):
        await client.get(PODS, "ns", name)
    assert not server.requests


async def test_credentials_are_sent_and_read_again_once_after_a_401(
    server: ScriptedServer, open_session: OpenSession
) -> None:
    forgotten: list[bool] = []

    async def authorization() -> str:
        return f"Bearer {len(forgotten)}"

    access = ClusterAccess(server.url, authorization=authorization, forget=lambda: forgotten.append(True))
    server.others += [
        status(401, "Unauthorized"),
        Reply(b"{}"),
        status(401, "Unauthorized"),
        status(401, "Unauthorized"),
    ]
    async with Client(access, user_agent="nmi/1 test", open_session=open_session) as client:
        await client.request("GET", "/a")
        with pytest.raises(Unauthorized):
            await client.request("GET", "/b")
    sent = [(request.path, request.headers["authorization"]) for request in server.requests]
    assert sent == [("/a", "Bearer 0"), ("/a", "Bearer 1"), ("/b", "Bearer 1"), ("/b", "Bearer 2")]
    assert {request.headers["user-agent"] for request in server.requests} == {"nmi/1 test"}
