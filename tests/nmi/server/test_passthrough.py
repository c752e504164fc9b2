"""The request that IMDS receives from the proxy, and the answer. A real HTTP server on loopback replaces IMDS.

Excluded: which targets may be proxied at all (test_targets).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import web

from nmi.refusal import Reason, Refusal
from nmi.server.passthrough import QUERY_BYTES_MAX, MetadataProxy
from nmi.server.policy import ServerPolicy
from nmi.server.request import Request
from nmi.server.responses import PlainAnswer
from nmi.server.target import Action, CanonicalPath, Destination, ProxiedPaths, resolve
from nmi.tokens.governor import CongestedError
from nmi.tokens.waiters import Charged
from podidentity.http_client.session import HttpSession
from tests.nmi.server.fakes import Pieces

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Imds:
    """An upstream that stores its requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Answering = self.ordinary

    async def ordinary(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"vmId": "1"}, headers={"x-ms-request-id": "r", "Connection": "etag", "X-Secret": "s", "ETag": "e"}
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers, await request.read()))
        return await self.answer(request)


@asynccontextmanager
async def proxy(imds: Imds, policy: ServerPolicy | None = None) -> AsyncIterator[MetadataProxy]:
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", imds.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with HttpSession(connections=16, headers={}) as session:
            yield MetadataProxy(session, f"http://{host}:{port}/", policy or ServerPolicy())
    finally:
        await runner.cleanup()


def request(*fields: tuple[str, str], method: str = "GET", body: bytes = b"") -> Request:
    return Request(method, "", fields, http_1_0=False, keep_alive=True, body=body)


def destination(target: str) -> Destination:
    found = resolve(target, ProxiedPaths(everything=True))
    assert found.action is Action.PROXY
    return found


async def test_only_the_normal_form_is_forwarded() -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        target = "//METADATA/./instance;x/%63ompute?api-version=2021-02-01&format=a+b%2Fc&x"
        answer = await metadata.forward("pod", request(("metadata", "true")), destination(target), Pieces())

    assert isinstance(answer, PlainAnswer)
    assert (answer.status, answer.body) == (200, b'{"vmId": "1"}')
    assert imds.asked[0][:2] == ("GET", "/metadata/instance/compute?api-version=2021-02-01&format=a%20b%2Fc&x=")


async def test_only_the_fields_that_imds_reads_are_forwarded() -> None:
    imds = Imds()
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
    async with proxy(imds) as metadata:
        await metadata.forward("pod", request(*fields), destination("/metadata/instance"), Pieces())
    ((_, _, headers, _),) = imds.asked

    host = headers.pop("host")
    assert host.startswith("127.0.0.1:")
    assert headers == {"metadata": "True", "accept": "application/json", "accept-encoding": "identity"}


async def test_a_field_with_a_non_ascii_value_is_emptied_in_both_directions() -> None:
    imds = Imds()

    async def odd(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"ETag": "\u20ac", "x-ms-request-id": "r"})

    imds.answer = odd
    async with proxy(imds) as metadata:
        answer = await metadata.forward(
            "pod", request(("user-agent", "\xff")), destination("/metadata/instance"), Pieces()
        )

    assert isinstance(answer, PlainAnswer)
    assert (dict(answer.headers)["Etag"], dict(answer.headers)["X-Ms-Request-Id"]) == ("", "r")
    assert answer.render(0)
    assert imds.asked[0][2]["user-agent"] == ""


async def test_a_request_without_metadata_header_is_forwarded_without_one() -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert "metadata" not in imds.asked[0][2]


async def test_a_body_is_forwarded_with_its_own_length() -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        await metadata.forward(
            "pod",
            request(method="POST", body=b'{"StartRequests":[]}'),
            destination("/metadata/scheduledevents"),
            Pieces(),
        )

    method, _, headers, body = imds.asked[0]
    assert (method, body, headers["content-length"]) == ("POST", b'{"StartRequests":[]}', "20")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_body_without_meaning_is_not_forwarded(method: str) -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        smuggled = b"GET /metadata/identity/oauth2/token HTTP/1.1\r\n\r\n"
        await metadata.forward(
            "pod", request(method=method, body=smuggled), destination("/metadata/instance"), Pieces()
        )

    ((_, _, headers, body),) = imds.asked
    assert (body, "content-length" in headers, "transfer-encoding" in headers) == (b"", False, False)


async def test_hop_by_hop_fields_are_not_returned() -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, PlainAnswer)
    assert {name.lower() for name, _ in answer.headers} == {"server", "date", "x-ms-request-id"}
    head = answer.render(0).partition(b"\r\n\r\n")[0].decode()
    assert head.splitlines()[:3] == [
        "HTTP/1.1 200 OK",
        "Content-Type: application/json; charset=utf-8",
        "Content-Length: 13",
    ]


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500])
async def test_imds_errors_are_returned_unchanged(status: int) -> None:
    imds = Imds()

    async def fails(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="why", headers={"Retry-After": "7"})

    imds.answer = fails
    async with proxy(imds) as metadata:
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, PlainAnswer)
    assert (answer.status, answer.body, dict(answer.headers)["Retry-After"]) == (status, b"why", "7")


async def test_a_redirect_is_not_followed_and_its_location_is_not_returned() -> None:
    imds = Imds()

    async def redirects(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/metadata/identity/oauth2/token"})

    imds.answer = redirects
    async with proxy(imds) as metadata:
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, PlainAnswer)
    assert answer.status == 302
    assert "location" not in {name.lower() for name, _ in answer.headers}
    assert len(imds.asked) == 1


async def test_an_answer_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    imds = Imds()
    size = 100

    async def answers(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    imds.answer = answers
    async with proxy(imds, ServerPolicy(proxy_body_bytes=100)) as metadata:
        fits = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())
        size = 101
        large = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(fits, PlainAnswer)
    assert isinstance(large, Refusal)
    assert large.reason is Reason.UPSTREAM_UNAVAILABLE


async def test_a_hanging_upstream_is_abandoned_after_the_time_limit() -> None:
    imds = Imds()
    released = asyncio.Event()

    async def hangs(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    imds.answer = hangs
    async with proxy(imds, ServerPolicy(proxy_seconds=0.05)) as metadata:
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())
        released.set()

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.UPSTREAM_UNAVAILABLE


async def test_an_unreachable_upstream_is_reported_as_unreachable() -> None:
    async with HttpSession(connections=16, headers={}) as session:
        metadata = MetadataProxy(session, "http://127.0.0.1:1", ServerPolicy())
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.UPSTREAM_UNAVAILABLE
    assert "127.0.0.1" not in answer.sentence, "the address is for the operator"


async def test_an_upstream_without_http_is_not_reported_as_an_internal_error() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server, HttpSession(connections=16, headers={}) as session:
        port = server.sockets[0].getsockname()[1]
        metadata = MetadataProxy(session, f"http://127.0.0.1:{port}", ServerPolicy())
        answer = await metadata.forward("pod", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.UPSTREAM_UNAVAILABLE


async def test_an_ambiguous_query_is_not_forwarded() -> None:
    imds = Imds()
    async with proxy(imds) as metadata:
        answer = await metadata.forward("pod", request(), destination("/metadata/instance?a=1&a=2"), Pieces())

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.BAD_PARAMETERS
    assert imds.asked == []


async def test_a_query_that_is_longer_than_any_of_imds_is_not_forwarded_and_one_at_the_limit_is() -> None:
    imds = Imds()
    target = f"/metadata/instance?a=&b={'c' * (QUERY_BYTES_MAX - 7)}&d"
    assert len(target.partition("?")[2]) == QUERY_BYTES_MAX
    async with proxy(imds) as metadata:
        refused = await metadata.forward("pod", request(), destination(f"{target}b"), Pieces())
        answer = await metadata.forward("pod", request(), destination(target), Pieces())

    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.BAD_PARAMETERS
    assert isinstance(answer, PlainAnswer)
    assert [path for _, path, _, _ in imds.asked] == [f"{target}="]


PLATFORM_FIELDS = ("authorization", "claims", "date", "key-guid", "signature", "new")
"""The ends of names of header fields that a proxy of the platform trusts. It may add further ones."""


@pytest.mark.parametrize("name", [f"x-ms-azure-host-{end}" for end in PLATFORM_FIELDS])
async def test_a_field_that_the_platforms_proxy_trusts_is_neither_forwarded_nor_returned(name: str) -> None:
    imds = Imds()

    async def trusted(_: web.Request) -> web.StreamResponse:
        return web.json_response({}, headers={name: "secret", "x-ms-request-id": "r"})

    imds.answer = trusted
    named = request(("metadata", "true"), (name, "a pod's"), ("connection", name))
    written = request(("metadata", "true"), (name, "a pod's"), method="POST", body=b"{}")
    async with proxy(imds) as metadata:
        answers = [
            await metadata.forward("pod", each, destination(f"/metadata/instance?{name}=x"), Pieces())
            for each in (named, written)
        ]

    assert [[field for field in headers if field.startswith("x-ms-azure")] for _, _, headers, _ in imds.asked] == [
        [],
        [],
    ]
    for answer in answers:
        assert isinstance(answer, PlainAnswer)
        assert dict(answer.headers)["X-Ms-Request-Id"] == "r"
        assert b"secret" not in answer.render(0)


async def test_each_call_takes_a_permit_charged_to_its_pod() -> None:
    pods: list[str] = []

    class Full:
        def permit(self, charged: Charged) -> AbstractAsyncContextManager[None]:
            pods.append(str(charged))
            return self.full()

        @asynccontextmanager
        async def full(self) -> AsyncIterator[None]:
            if pods:
                raise CongestedError(3.0)
            yield

    async with HttpSession(connections=16, headers={}) as session:
        metadata = MetadataProxy(session, "http://127.0.0.1:1", ServerPolicy(), limiter=Full())
        answer = await metadata.forward("shop/cart", request(), destination("/metadata/instance"), Pieces())

    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.retry_after) == (Reason.OVERLOADED, 3.0)
    assert pods == ["shop/cart"]


def test_the_instance_route_has_its_own_label() -> None:
    assert destination("/metadata/instance").canonical_path is CanonicalPath.INSTANCE
    assert destination("/metadata/versions").canonical_path is CanonicalPath.METADATA
