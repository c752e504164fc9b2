"""Refusals of the general lane beyond the rows of their table: variants, faults of NMI, and what they may contain.

Excluded: the rows of the table (test_refusals_in_the_specified_order), bytes that are no request
(test_malformed_requests), the spellings of paths (test_targets).
"""

import asyncio
import json
import logging

import pytest

from nmi.refusal import Reason, Refusal
from nmi.server.policy import ServerPolicy
from nmi.server.responses import SENTENCE_CHARS, refused
from tests.nmi.server.fakes import TOKEN_PATH, Reply, ServerUnderTest, refusing, request_bytes


def check(reply: Reply, status: int, error: str) -> None:
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"error", "error_description"}
    assert reply.json["error"] == error
    assert reply.json["error_description"]
    assert "unreachable" not in reply.body.decode().lower()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_get_requests_a_token(server: ServerUnderTest, method: str) -> None:
    reply = await server.ask(request_bytes(method=method))

    check(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET"
    assert server.issuer.asked == []
    assert (await server.ask(request_bytes())).status == 200


async def test_a_head_request_is_refused_without_a_body() -> None:
    reply = await ServerUnderTest().ask(request_bytes(method="HEAD"), heads_only=True)

    assert (reply.status, reply.body) == (405, b"")
    assert int(reply.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "headers", [(), ("Metadata: false",), ("Metadata:",), ("Metadata: true, true",), ("Meta: true",)]
)
async def test_without_the_metadata_header_the_body_is_exactly_what_probes_expect(
    server: ServerUnderTest, headers: tuple[str, ...]
) -> None:
    server.lane.data_received(request_bytes(headers=headers))

    assert server.connection.written, "answered immediately, without a task"
    assert server.connection.written.endswith(
        b'{"error":"invalid_request","error_description":"Required metadata header not specified"}'
    )
    assert server.connection.written.startswith(b"HTTP/1.1 400 ")
    assert server.issuer.asked == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers", [(), ("Metadata: true",), ("Metadata: true", "Metadata: false"), ("X-Forwarded-For: x",)]
)
@pytest.mark.parametrize("path", ["getplatformmetadata?cred-api-version=2.0", "issuecredential", "info", ""])
async def test_other_identity_paths_are_404_whatever_the_method_and_headers(
    path: str, headers: tuple[str, ...], method: str
) -> None:
    server = ServerUnderTest(ServerPolicy())

    check(
        await server.ask(request_bytes(f"/metadata/identity/{path}", method=method, headers=headers)),
        404,
        "not_found",
    )
    assert server.proxy.forwarded == []


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_answer(reason: Reason) -> None:
    answer = refused(Refusal(reason, "No."))

    assert answer.status >= 400
    assert json.loads(answer.body)["error_description"] == "No."


@pytest.mark.parametrize(("retry_after", "header"), [(None, "5"), (0.0, "1"), (1.2, "2"), (70.0, "70")])
async def test_retry_after_is_forwarded_or_set_by_nmi(
    server: ServerUnderTest, retry_after: float | None, header: str
) -> None:
    server.issuer.answer = refusing(Reason.UPSTREAM_UNAVAILABLE, retry_after=retry_after)

    assert (await server.ask(request_bytes())).headers["retry-after"] == header


async def test_the_word_that_makes_sdks_stop_retrying_is_never_returned(server: ServerUnderTest) -> None:
    server.issuer.answer = refusing(Reason.UPSTREAM_REFUSED, sentence="AADSTS1: Unreachable, UNREACHABLE.")
    reply = await server.ask(request_bytes())

    check(reply, 403, "access_denied")
    assert reply.json["error_description"] == "AADSTS1: not answering, not answering."


async def test_a_message_is_truncated_and_stays_valid_json_whatever_it_contains(server: ServerUnderTest) -> None:
    server.issuer.answer = refusing(Reason.UPSTREAM_REFUSED, sentence='"\r\n\x00\u2028' + "x" * 5000)
    reply = await server.ask(request_bytes())

    assert len(reply.json["error_description"]) == SENTENCE_CHARS
    assert b"\n" not in reply.body


async def test_an_internal_error_is_a_500_and_the_next_request_succeeds(server: ServerUnderTest) -> None:
    good = server.issuer.answer

    def broken(_: object) -> Refusal:
        raise KeyError("secret detail")

    server.issuer.answer = broken
    reply = await server.ask(request_bytes())

    check(reply, 500, "server_error")
    assert b"secret" not in reply.body
    server.issuer.answer = good
    assert (await server.ask(request_bytes())).status == 200


async def test_a_fault_while_an_answer_is_written_ends_its_connection_and_is_logged_once(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = server.connection

    def broken(_: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(connection, "write", broken)
    server.lane.data_received(request_bytes())
    await server.settle()
    assert not connection.open
    logged = [record for record in caplog.records if record.name == "nmi.server.decisions"]
    (line,) = (record for record in logged if record.levelno >= logging.ERROR)
    assert "defect" in line.getMessage()
    assert (await server.ask(request_bytes())).status == 200


async def test_an_answer_that_does_not_arrive_is_a_503() -> None:
    server = ServerUnderTest(ServerPolicy(answer_seconds=0.01))

    async def never(_: object) -> Refusal:
        await asyncio.Event().wait()
        raise AssertionError

    server.issuer.answer = never

    check(await server.ask(request_bytes()), 503, "temporarily_unavailable")


async def test_a_timeout_inside_the_issuer_is_an_internal_error_and_not_the_servers_own_timeout(
    server: ServerUnderTest,
) -> None:

    async def times_out(_: object) -> Refusal:
        raise TimeoutError

    server.issuer.answer = times_out

    check(await server.ask(request_bytes()), 500, "server_error")


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (request_bytes(method="POST", headers=("X-Forwarded-For: x",)), "method before X-Forwarded-For", 405),
        (request_bytes(headers=("X-Forwarded-For: x",)), "X-Forwarded-For before Metadata", 400),
        (request_bytes(TOKEN_PATH, headers=()), "Metadata before parameters", 400),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_checks_run_in_the_specified_order(first: bytes, second: str, status: int) -> None:
    reply = await ServerUnderTest().ask(first)
    words = {"method": "GET", "X-Forwarded-For": "X-Forwarded-For", "Metadata": "metadata header"}

    assert reply.status == status
    assert words[second.partition(" ")[0]] in reply.json["error_description"]
