"""An exempt pod receives IMDS's response unchanged. Excluded: which pods are exempt, and the request to IMDS."""

import time

import pytest

from podidentity.azure.imds import RawAnswer
from tests.nmi.server.fakes import RESOURCE, TOKEN_PATH, ServerUnderTest, request_bytes

BODY = b'{ "access_token" : "x", "odd": [1] }\n'


async def test_status_body_type_and_header_fields_are_those_of_imds(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: RawAnswer(
        429, BODY, "application/json; charset=utf-8", (("Retry-After", "7"), ("x-ms-request-id", "theirs"))
    )
    reply = await server.ask(request_bytes())

    assert (reply.status, reply.body) == (429, BODY)
    assert reply.headers == {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(BODY)),
        "retry-after": "7",
        "x-ms-request-id": "theirs",
    }


@pytest.mark.parametrize(("status", "ours"), [(200, False), (400, True), (500, True)])
async def test_only_an_error_without_an_id_gets_one(server: ServerUnderTest, status: int, *, ours: bool) -> None:
    server.issuer.answer = lambda _: RawAnswer(status, BODY, "application/json")

    assert ("x-ms-request-id" in (await server.ask(request_bytes())).headers) is ours


async def test_an_exempt_pods_answer_never_becomes_a_ready_answer(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: RawAnswer(200, BODY, "application/json")
    for _ in range(2):
        await server.ask(request_bytes())

    assert len(server.issuer.asked) == 2
    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", time.monotonic_ns()) is None
    labels = {series.labels for series in server.measures.histogram.all_series()}
    assert labels == {(TOKEN_PATH, "200", "shop", RESOURCE)}
