"""The ids and fields by which a request is found in its answer, the audit line, the line of -v 4, and JSON."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nmi.refusal import Reason, Refusal
from nmi.server.call import CLIENT_REQUEST_CHARS, Call
from nmi.server.request import Request
from podidentity.azure.imds import RawAnswer
from podidentity.telemetry.logs import JsonFormatter
from tests.nmi.server.fakes import PEER, RESOURCE, TARGET, FakeConnection, ServerUnderTest, grant, request_bytes

THEIRS = "x-ms-client-request-id: 0f0f-their-id"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The lines of the server's loggers, one JSON object per line."""
    stream, log = io.StringIO(), logging.getLogger("nmi.server")
    handler, level = logging.StreamHandler(stream), log.level
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    log.setLevel(level)


def lines(written: io.StringIO, message: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in written.getvalue().splitlines()]
    return [
        {name: line[name] for name in line if name not in {"time", "logger"}}
        for line in found
        if message in line["message"]
    ]


async def test_a_refusal_has_one_line_with_the_facts_that_an_operator_needs(
    server: ServerUnderTest, written: io.StringIO
) -> None:
    server.issuer.answer = lambda _: Refusal(
        Reason.UPSTREAM_REFUSED, "No.", "check the client id", identity="shop/id", correlation="azure-id"
    )
    reply = await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    (line,) = lines(written, "request refused")

    assert line == {
        "level": "warning",
        "message": "request refused; follow the field error",
        "pod": "shop/cart",
        "namespace": "shop",
        "uid": "uid-cart",
        "identity": "shop/id",
        "status": 403,
        "outcome": "refused",
        "reason": "upstream_refused",
        "error": "check the client id",
        "request": reply.headers["x-ms-request-id"],
        "client_request": "0f0f-their-id",
        "correlation": "azure-id",
        "path": "/metadata/identity/oauth2/token",
        "peer": PEER,
        "resource": RESOURCE,
    }
    assert server.measures.refusals(Reason.UPSTREAM_REFUSED) == 1
    await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    assert len(lines(written, "request refused")) == 1, "a repeat is counted"


async def test_a_grant_has_one_line_without_the_token(server: ServerUnderTest, written: io.StringIO) -> None:
    server.issuer.answer = lambda _: replace(grant(server.entry.record), correlation="azure-id")
    await server.ask(request_bytes(headers=("Metadata: true", THEIRS)))
    (line,) = lines(written, "token granted")

    assert isinstance(line.pop("request"), str)
    assert line == {
        "level": "info",
        "message": "token granted; repeats are summarized once a minute",
        "pod": "shop/cart",
        "namespace": "shop",
        "uid": "uid-cart",
        "identity": "shop/cart-identity",
        "outcome": "granted",
        "client_request": "0f0f-their-id",
        "correlation": "azure-id",
        "peer": PEER,
        "resource": RESOURCE,
    }
    assert "secret" not in written.getvalue()


async def test_an_exempt_pods_answer_has_a_line_too(server: ServerUnderTest, written: io.StringIO) -> None:
    server.issuer.answer = lambda _: RawAnswer(400, b"{}", "application/json")
    reply = await server.ask(request_bytes())
    (line,) = lines(written, "token request forwarded to IMDS")

    assert (line["outcome"], line["status"], line["pod"]) == ("exempt", 400, "shop/cart")
    assert line["request"] == reply.headers["x-ms-request-id"]


async def test_each_request_has_a_line_with_its_id_at_verbosity_4(
    server: ServerUnderTest, written: io.StringIO
) -> None:
    first = await server.ask(request_bytes("/nothing", headers=(THEIRS,)))
    await server.ask(request_bytes())
    refused, granted = lines(written, "request answered")

    assert (refused["request"], refused["client_request"]) == (first.headers["x-ms-request-id"], "0f0f-their-id")
    assert refused["status"] == 404
    assert (granted["status"], granted["path"]) == (200, "/metadata/identity/oauth2/token")
    assert granted["request"] not in {None, refused["request"]}
    assert "client_request" not in granted


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ((), ""),
        (("a-b",), "a-b"),
        (("a" * 500,), "a" * CLIENT_REQUEST_CHARS),
        (("caf\xe9",), ""),
        (("a\tb",), ""),
        (("first", "second"), "first"),
    ],
)
def test_a_clients_request_id_is_truncated_and_sanitised(sent: tuple[str, ...], kept: str) -> None:
    fields = tuple(("x-ms-client-request-id", each) for each in sent)
    request = Request("GET", TARGET, fields, http_1_0=False, keep_alive=True)

    assert Call.of(FakeConnection(), request).client_request == kept


async def test_malformed_bytes_have_a_request_id_too(written: io.StringIO) -> None:
    reply = await ServerUnderTest().ask(b"\x16\x03\x01\0\0\0")
    (line,) = lines(written, "request refused")

    assert line["request"] == reply.headers["x-ms-request-id"]
    assert (line["reason"], line["path"]) == ("bad_syntax", "other")
