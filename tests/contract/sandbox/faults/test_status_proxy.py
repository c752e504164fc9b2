"""Answers that the HTTP proxy gives in the server's place, and that everything else passes unchanged."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.faults import FakeResponse, StatusProxy

AUTHORITY = Authority()


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    body = await request.read()
    return web.Response(status=201, body=request.path_qs.encode() + b" " + body, headers={"X-Seen": "yes"})


@pytest.fixture(params=[False, True], ids=["http", "https"])
async def proxy(request: pytest.FixtureRequest) -> AsyncIterator[StatusProxy]:
    serving = AUTHORITY.server_context() if request.param else None
    runner = web.ServerRunner(web.Server(echo))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving).start()
    upstream = f"http{'s' if serving else ''}://127.0.0.1:{runner.addresses[0][1]}"
    made = StatusProxy(upstream, upstream_tls=AUTHORITY.client_context() if serving else None, serving_tls=serving)
    await made.start()
    yield made
    await made.stop()
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=AUTHORITY.client_context())) as made:
        yield made


async def test_without_a_rule_all_requests_are_forwarded(proxy: StatusProxy, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{proxy.url}/a%2Fb?c=d%20e", data=b"body") as response:
        assert response.status == 201
        assert await response.read() == b"/a%2Fb?c=d%20e body"
        assert response.headers["X-Seen"] == "yes"
    assert proxy.passed == 1


async def test_a_status_is_returned_the_requested_number_of_times(
    proxy: StatusProxy, session: aiohttp.ClientSession
) -> None:
    proxy.respond(FakeResponse(429, b"slow down", {"Retry-After": "3"}), times=2)
    seen = []
    for _ in range(3):
        async with session.get(f"{proxy.url}/x") as response:
            seen.append((response.status, response.headers.get("Retry-After")))
    assert seen == [(429, "3"), (429, "3"), (201, None)]
    assert proxy.responses == {429: 2}


async def test_a_rule_selects_its_requests(proxy: StatusProxy, session: aiohttp.ClientSession) -> None:
    proxy.respond(FakeResponse(500), matching=lambda method, path: method == "GET" and path.startswith("/bad"))
    async with session.get(f"{proxy.url}/bad?x=1") as refused, session.get(f"{proxy.url}/good") as passed:
        assert (refused.status, passed.status) == (500, 201)
    proxy.clear()
    async with session.get(f"{proxy.url}/bad") as response:
        assert response.status == 201


async def test_a_server_that_is_down_ends_the_clients_connection(session: aiohttp.ClientSession) -> None:
    proxy = StatusProxy("http://127.0.0.1:1")
    await proxy.start()
    with pytest.raises(aiohttp.ClientError):
        await session.get(f"{proxy.url}/x")
    await proxy.stop()
