"""The request that IMDS receives from the proxy, and the response. A real HTTP server on loopback replaces IMDS.

Excluded: which targets may be proxied at all (test_targets), long and broken answers (test_long_answers).
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest
import pytest_asyncio
from aiohttp import web
from typing_extensions import override

from nmi.refusal import Reason, Refusal
from nmi.server.passthrough import ABSENT_SECONDS, QUERY_BYTES_MAX, MetadataProxy
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainResponse
from nmi.server.target import Action, ProxiedPaths, resolve
from nmi.tokens.fair_queue import Charged
from nmi.tokens.governor import CallPermit, CongestedError, Governor
from podidentity.http_client.session import HttpSession
from tests.support.nmi.server.fakes import Pieces

INSTANCE = "/metadata/instance"
Fields = tuple[tuple[str, str], ...]


def request(fields: Fields = (("metadata", "true"),), *, method: str = "GET", body: bytes = b"") -> Request:
    return Request(method, "", fields, http_1_0=False, keep_alive=True, body=body)


async def forwarded(
    proxy: MetadataProxy, target: str = INSTANCE, sent: Request | None = None
) -> PlainResponse | Refusal:
    """Return the response to a request of the pod shop/cart."""
    destination = resolve(target, ProxiedPaths(everything=True))
    assert destination.action is Action.PROXY
    response = await proxy.forward("shop/cart", sent or request(), destination, Pieces())
    assert isinstance(response, PlainResponse | Refusal)
    return response


class Imds:
    """An upstream that stores its requests, and a proxy to it."""

    def __init__(self, session: HttpSession) -> None:
        self.session = session
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", self.handle)
        self.runner = web.AppRunner(application)
        self.url = ""
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[], Awaitable[web.StreamResponse] | web.StreamResponse] = lambda: web.json_response(
            {"vmId": "1"}, headers={"x-ms-request-id": "r", "Connection": "etag", "X-Secret": "s", "ETag": "e"}
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.raw_path, headers, await request.read()))
        response = self.answer()
        return response if isinstance(response, web.StreamResponse) else await response

    async def get(self, target: str = INSTANCE, sent: Request | None = None) -> PlainResponse:
        """Return the response to a request that must be forwarded."""
        response = await forwarded(self.proxy(), target, sent)
        assert isinstance(response, PlainResponse)
        return response

    def proxy(self, policy: ServerPolicy | None = None) -> MetadataProxy:
        return MetadataProxy(self.session, self.url, policy or ServerPolicy())


@pytest_asyncio.fixture
async def imds() -> AsyncIterator[Imds]:
    async with HttpSession(connections=16, headers={}) as session:
        upstream = Imds(session)
        await upstream.runner.setup()
        await web.TCPSite(upstream.runner, "127.0.0.1", 0).start()
        upstream.url = "http://{}:{}/".format(*upstream.runner.addresses[0])
        try:
            yield upstream
        finally:
            await upstream.runner.cleanup()


async def test_only_the_normal_form_is_forwarded(imds: Imds) -> None:
    response = await imds.get("//METADATA/./instance;x/%63ompute?api-version=2021-02-01&format=a+b%2Fc&x")
    assert (response.status, response.body) == (200, b'{"vmId": "1"}')
    assert imds.requests[0][:2] == ("GET", "/metadata/instance/compute?api-version=2021-02-01&format=a%20b%2Fc&x=")


async def test_only_the_fields_that_imds_reads_are_forwarded(imds: Imds) -> None:
    fields = (
        ("host", "evil"),
        ("metadata", "True"),
        ("accept", "application/json"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("connection", "keep-alive, Content-Type"),
        ("content-type", "text/plain"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("authorization", "Bearer x"),
        ("accept-encoding", "gzip"),
        ("x-aad-pod-identity-hop", "pod"),
        ("x-custom", "y"),
    )
    await imds.get(sent=request(fields))
    await imds.get(sent=request(()))
    headers, without = [headers for _, _, headers, _ in imds.requests]
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers == {"metadata": "True", "accept": "application/json", "accept-encoding": "identity"}
    assert "metadata" not in without


async def test_a_field_with_a_non_ascii_value_is_emptied_in_both_directions(imds: Imds) -> None:
    imds.answer = lambda: web.Response(headers={"ETag": "\u20ac", "x-ms-request-id": "r"})
    response = await imds.get(sent=request((("user-agent", "\xff"),)))
    assert (dict(response.headers)["Etag"], dict(response.headers)["X-Ms-Request-Id"]) == ("", "r")
    assert response.render(0)
    assert imds.requests[0][2]["user-agent"] == ""


async def test_a_body_is_forwarded_with_its_own_length(imds: Imds) -> None:
    await imds.get("/metadata/scheduledevents", request(method="POST", body=b'{"StartRequests":[]}'))
    method, _, headers, body = imds.requests[0]
    assert (method, body, headers["content-length"]) == ("POST", b'{"StartRequests":[]}', "20")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_body_without_meaning_is_not_forwarded(imds: Imds, method: str) -> None:
    smuggled = b"GET /metadata/identity/oauth2/token HTTP/1.1\r\n\r\n"
    await imds.get(sent=request(method=method, body=smuggled))
    ((_, _, headers, body),) = imds.requests
    assert (body, "content-length" in headers, "transfer-encoding" in headers) == (b"", False, False)


async def test_hop_by_hop_fields_are_not_returned(imds: Imds) -> None:
    response = await imds.get()
    assert {name.lower() for name, _ in response.headers} == {"server", "date", "x-ms-request-id"}
    head = response.render(0).partition(b"\r\n\r\n")[0].decode()
    assert head.splitlines()[:3] == [
        "HTTP/1.1 200 OK",
        "Content-Type: application/json; charset=utf-8",
        "Content-Length: 13",
    ]


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500])
async def test_imds_errors_are_returned_unchanged(imds: Imds, status: int) -> None:
    imds.answer = lambda: web.Response(status=status, text="why", headers={"Retry-After": "7"})
    response = await imds.get()
    assert (response.status, response.body, dict(response.headers)["Retry-After"]) == (status, b"why", "7")


async def test_a_redirect_is_not_followed_and_its_location_is_not_returned(imds: Imds) -> None:
    imds.answer = lambda: web.Response(status=302, headers={"Location": "/metadata/identity/oauth2/token"})
    response = await imds.get()
    assert response.status == 302
    assert "location" not in {name.lower() for name, _ in response.headers}
    assert len(imds.requests) == 1


async def test_a_hanging_upstream_is_abandoned_after_the_time_limit(imds: Imds) -> None:
    released = asyncio.Event()

    async def hangs() -> web.StreamResponse:
        await released.wait()
        return web.Response()

    imds.answer = hangs
    response = await forwarded(imds.proxy(ServerPolicy(proxy_seconds=0.05)))
    released.set()
    assert isinstance(response, Refusal)
    assert response.reason is Reason.UPSTREAM_UNAVAILABLE


async def test_an_unreachable_upstream_is_reported_as_unreachable(imds: Imds) -> None:
    imds.url = "http://127.0.0.1:1"
    response = await forwarded(imds.proxy())
    assert isinstance(response, Refusal)
    assert response.reason is Reason.UPSTREAM_UNAVAILABLE
    assert "127.0.0.1" not in response.sentence, "the address is for the operator"


async def test_an_ambiguous_query_is_not_forwarded(imds: Imds) -> None:
    response = await forwarded(imds.proxy(), f"{INSTANCE}?a=1&a=2")
    assert isinstance(response, Refusal)
    assert response.reason is Reason.BAD_PARAMETERS
    assert imds.requests == []


async def test_a_query_that_is_longer_than_any_of_imds_is_not_forwarded_and_one_at_the_limit_is(imds: Imds) -> None:
    target = f"/metadata/instance?a=&b={'c' * (QUERY_BYTES_MAX - 7)}&d"
    assert len(target.partition("?")[2]) == QUERY_BYTES_MAX
    refused = await forwarded(imds.proxy(), f"{target}b")
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.BAD_PARAMETERS
    await imds.get(target)
    assert [path for _, path, _, _ in imds.requests] == [f"{target}="]


PLATFORM_FIELDS = ("authorization", "claims", "date", "key-guid", "signature", "new")
"""The ends of names of header fields that a proxy of the platform trusts. It may add further ones."""


@pytest.mark.parametrize("name", [f"x-ms-azure-host-{end}" for end in PLATFORM_FIELDS])
async def test_a_field_that_the_platforms_proxy_trusts_is_neither_forwarded_nor_returned(imds: Imds, name: str) -> None:
    imds.answer = lambda: web.json_response({}, headers={name: "secret", "x-ms-request-id": "r"})
    fields = (("metadata", "true"), (name, "a pod's"))
    responses = [
        await imds.get(f"{INSTANCE}?{name}=x", request((*fields, ("connection", name)))),
        await imds.get(f"{INSTANCE}?{name}=x", request(fields, method="POST", body=b"{}")),
    ]
    assert [field for _, _, headers, _ in imds.requests for field in headers if field.startswith("x-ms-azure")] == []
    for response in responses:
        assert dict(response.headers)["X-Ms-Request-Id"] == "r"
        assert b"secret" not in response.render(0)


async def test_each_call_takes_a_permit_charged_to_its_pod(imds: Imds) -> None:
    pods: list[str] = []

    class Refused(CallPermit):
        @override
        async def __aenter__(self) -> Self:
            raise CongestedError(3.0)

    class Full(Governor):
        @override
        def permit(self, charged: Charged) -> CallPermit:
            pods.append(str(charged))
            return Refused(self, charged)

    response = await forwarded(MetadataProxy(imds.session, imds.url, ServerPolicy(), governor=Full()))
    assert isinstance(response, Refusal)
    assert (response.reason, response.retry_after) == (Reason.OVERLOADED, 3.0)
    assert (pods, imds.requests) == (["shop/cart"], [])


async def test_after_a_failed_connection_no_other_one_is_tried_before_the_retry_after(imds: Imds) -> None:
    now, port = 1000.0, socket.socket()
    port.bind(("127.0.0.1", 0))  # connections are refused until it listens
    url = f"http://127.0.0.1:{port.getsockname()[1]}"
    proxy = MetadataProxy(imds.session, url, ServerPolicy(), clock=lambda: now)
    refused = await forwarded(proxy)
    await web.SockSite(imds.runner, port).start()
    early = await forwarded(proxy)
    assert isinstance(refused, Refusal)
    assert isinstance(early, Refusal)
    assert refused.reason is early.reason is Reason.UPSTREAM_UNAVAILABLE
    assert imds.requests == []
    now += ABSENT_SECONDS
    assert isinstance(await forwarded(proxy), PlainResponse)
