"""The whole token server over loopback: fast lane, general lane, and stop. Fakes replace the token service and IMDS."""

import asyncio
import json
import logging
import socket
from types import SimpleNamespace

import pytest

from _native.ready_responses import Usage
from nmi.refusal import Reason, Refusal
from nmi.server import server as server_module
from nmi.server.decisions import PERIOD_SECONDS
from nmi.server.policy import ServerPolicy
from tests.contract.native.serving import admit, ready
from tests.support.nmi.server.fakes import RESOURCE, TOKEN_PATH, request_bytes
from tests.support.nmi.server.running import Client, Running, serving
from tests.support.waiting import until


async def test_the_first_answer_is_general_the_next_is_ready_and_both_are_equal(
    running: Running, client: Client
) -> None:
    first, second = await client.ask(request_bytes()), await client.ask(request_bytes())
    assert (len(running.token_service.requests), running.fast) == (1, 1)
    general_body, ready_body = first.json, second.json
    for body in (general_body, ready_body):
        assert 3590 <= int(body.pop("expires_in")) <= 3600
    assert general_body == ready_body
    assert list(first.headers) == list(second.headers)


async def test_a_revoked_grant_is_requested_again_on_the_same_connection(running: Running, client: Client) -> None:
    await client.ask(request_bytes())
    running.entry.bump()
    running.token_service.respond = lambda _: Refusal(Reason.NOTHING_ASSIGNED, "Identity not found")
    reply = await client.ask(request_bytes())
    assert (reply.status, reply.json["error_description"]) == (400, "Identity not found")


async def test_hostile_bytes_end_their_connection_and_affect_no_other(running: Running, client: Client) -> None:
    async with running.client() as bad:
        bad.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await bad.rest()).startswith(b"HTTP/1.1 400 ")
        assert (await client.ask(request_bytes())).status == 200


async def test_draining_answers_pending_requests_closes_idle_connections_and_accepts_none(
    running: Running, client: Client
) -> None:
    async with running.client() as idle:
        release = running.hold()
        assert (await idle.ask(request_bytes("/nothing"))).status == 404
        client.send(request_bytes())
        await until(lambda: len(running.token_service.requests) == 1)
        draining = asyncio.create_task(running.server.drain(5))
        assert await idle.rest() == b""
        release.set()
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.rest() == b""
        assert await draining == 0


async def test_a_request_that_arrives_shortly_after_its_connection_was_accepted_is_answered_by_a_drain(
    monkeypatch: pytest.MonkeyPatch, running: Running, client: Client
) -> None:
    monkeypatch.setattr(server_module, "FIRST_BYTE_SECONDS", 2.0)
    async with running.client() as silent:
        await until(lambda: running.count("accepted") == 2)
        draining = asyncio.create_task(running.server.drain(5))
        await until(lambda: running.server.draining)
        reply = await client.ask(request_bytes("/nothing"))
        assert (reply.status, reply.headers["connection"]) == (404, "close")
        assert await silent.rest() == b""
        assert await draining == 0


async def test_open_requests_are_completed_while_new_ones_are_served(running: Running, client: Client) -> None:
    async with running.client() as later:
        release = running.hold()
        assert await running.server.complete_open_requests(60) > 50, "nothing to wait for"
        assert await running.server.complete_open_requests(0) == 0
        client.send(request_bytes())
        await until(lambda: len(running.token_service.requests) == 1)
        assert await running.server.complete_open_requests(0.01) == 0, "the request takes longer"
        completing = asyncio.create_task(running.server.complete_open_requests(60))
        await asyncio.sleep(0)
        later.send(request_bytes())
        await until(lambda: len(running.token_service.requests) == 2)
        assert not completing.done()
        async with running.client() as new:
            assert (await new.ask(request_bytes("/nothing"))).status == 404
        release.set()
        assert 0 < await completing < 60
        assert (await client.reply()).headers.get("connection") is None


async def test_a_request_that_a_drain_cannot_wait_for_gets_503_and_leaves_no_task(
    running: Running, client: Client
) -> None:
    async with running.client() as half:
        running.hold()
        client.send(request_bytes())
        await until(lambda: len(running.token_service.requests) == 1)
        half.send(b"GET ")
        await until(lambda: running.count("handed_over") == 2)
        assert await running.server.drain(0.01) == 1, "who has sent half a request"
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert "retry-after" in reply.headers
        assert [labels[:2] for labels in running.labels()] == [(TOKEN_PATH, "503")], "counted at the answering lane"
        assert b"stops; try again" in reply.body
        await running.server.aclose()
        assert await half.rest() == b""
        assert running.server._tasks == set()
        assert len(running.server.waiting) == 0
        await running.server.aclose()


@pytest.mark.parametrize("client_leaves", [True, False])
async def test_only_a_client_that_disconnects_and_no_end_of_nmi_is_recorded(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, client_leaves: bool
) -> None:
    monkeypatch.setattr("nmi.server.outcomes.UNANSWERED_SECONDS_MIN", 0.0)
    running.hold()
    async with running.client() as client:
        client.send(request_bytes())
        await until(lambda: len(running.token_service.requests) == 1)
        if not client_leaves:
            await running.server.aclose()
    await until(lambda: running.server._tasks == set())
    assert ("client disconnected" in caplog.text) is client_leaves


async def test_the_state_is_json_and_contains_nothing_that_a_pod_chose(running: Running, client: Client) -> None:
    await client.ask(request_bytes("/made-up-path"))
    await client.ask(request_bytes())
    state = running.server.state()
    text = json.dumps(state)
    assert (state["draining"], state["waiting_requests"], state["refusals"]) == (False, 0, {"unknown_path": 1})
    assert "made-up" not in text
    assert "secret" not in text
    assert len(text) < 4000
    names = {metric.name for metric in running.measures.collect()}
    assert {"aadpodidentity_nmi_connections_open", "aadpodidentity_nmi_lane_handed_over"} <= names


async def test_the_lane_is_configured_to_accept_only_redirected_connections() -> None:
    # A connection to the port itself was meant for another address, so neither lane may serve it.
    async with serving(ServerPolicy(redirected_from=("169.254.169.254", 80))) as running, running.client() as client:
        answer = ready(b"a token", running.measures.series(TOKEN_PATH, 200, "", ""), Usage())
        assert admit(running.entry.record, answer, RESOURCE.encode())
        for _ in range(3):
            reply = await client.ask(request_bytes())
            assert (reply.status, reply.json["error"]) == (403, "access_denied")
        assert (running.fast, running.token_service.requests) == (0, [])


async def test_the_fast_lane_respects_the_optional_metadata_header() -> None:
    async with serving(ServerPolicy(require_metadata_header=False)) as running, running.client() as client:
        assert await client.statuses(request_bytes(headers=()), 3) == [200] * 3
        assert running.fast == 2


async def test_at_verbosity_4_each_request_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nmi.server.general.requests")
    async with serving(ServerPolicy(log_each_request=True)) as running, running.client() as client:
        for data in (request_bytes(), request_bytes(headers=())):
            await client.statuses(data, 3)
        assert running.fast == 0
    assert [record.getMessage() for record in caplog.records].count("request answered") == 6


async def test_any_number_of_direct_connections_causes_one_line_per_period(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert PERIOD_SECONDS == 60.0, "docs/threats.md promises one line a minute"
    caplog.set_level(logging.WARNING, server_module.__name__)
    periods: asyncio.Queue[None] = asyncio.Queue()
    ends_period = SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: periods.get()})
    monkeypatch.setattr(server_module, "asyncio", ends_period)

    def lines() -> list[tuple[object, object]]:
        records = [vars(record) for record in caplog.records if "were closed unread" in record.getMessage()]
        return [(record["peer"], record["count"]) for record in records]

    async with serving() as running:
        with socket.create_server(("127.0.0.9", 0), backlog=128) as listener:
            listener.setblocking(False)
            running.server.listen_on_node(listener, ("169.254.169.254", 80))
            for opened in (100, 50):
                closed = running.count("closed_unread") + opened
                for _ in range(opened):
                    socket.create_connection(listener.getsockname()).close()
                await until(lambda closed=closed: running.count("closed_unread") == closed)  # type: ignore[misc]
                logged = len(lines())
                periods.put_nowait(None)
                await until(lambda logged=logged: len(lines()) > logged)  # type: ignore[misc]
            periods.put_nowait(None)
            await until(periods.empty)
            await asyncio.sleep(0)
            running.server.stop_accepting()
    assert lines() == [("127.0.0.1", 100), ("127.0.0.1", 50)], "a period without such connections has no line"
