"""Every row of the refusal table: what must be refused, how, and a neighbour that passes.

Excluded: bytes that are no request (test_malformed_requests), the spellings of paths (test_targets).
"""

import asyncio
import json
import logging

import pytest

from nmi.refusal import Reason, Refusal
from nmi.server.policy import ServerPolicy
from nmi.server.responses import SENTENCE_CHARS, refused
from tests.nmi.server.fakes import TARGET, TOKEN_PATH, Reply, ServerUnderTest, refusing, request_bytes


def check(reply: Reply, status: int, error: str) -> None:
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"error", "error_description"}
    assert reply.json["error"] == error
    assert reply.json["error_description"]
    assert "unreachable" not in reply.body.decode().lower()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_get_requests_a_token(method: str) -> None:
    server_under_test = ServerUnderTest()
    reply = await server_under_test.ask(request_bytes(method=method))

    check(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET"
    assert server_under_test.issuer.asked == []
    assert (await server_under_test.ask(request_bytes())).status == 200


async def test_a_head_request_is_refused_without_a_body() -> None:
    reply = await ServerUnderTest().ask(request_bytes(method="HEAD"), heads_only=True)

    assert (reply.status, reply.body) == (405, b"")
    assert int(reply.headers["content-length"]) > 0


async def test_a_forwarded_request_is_refused_unless_allowed() -> None:
    forwarded = request_bytes(headers=("Metadata: true", "X-Forwarded-For: 10.0.0.1"))
    empty = request_bytes(headers=("Metadata: true", "x-forwarded-for:"))

    check(await ServerUnderTest().ask(forwarded), 400, "invalid_request")
    check(await ServerUnderTest().ask(empty), 400, "invalid_request")
    assert (await ServerUnderTest(ServerPolicy(allow_x_forwarded_for=True)).ask(forwarded)).status == 200


@pytest.mark.parametrize(
    "headers", [(), ("Metadata: false",), ("Metadata:",), ("Metadata: true, true",), ("Meta: true",)]
)
async def test_without_the_metadata_header_the_body_is_exactly_what_probes_expect(
    headers: tuple[str, ...],
) -> None:
    server_under_test = ServerUnderTest()
    server_under_test.lane.data_received(request_bytes(headers=headers))

    assert server_under_test.connection.written, "answered immediately, without a task"
    assert server_under_test.connection.written.endswith(
        b'{"error":"invalid_request","error_description":"Required metadata header not specified"}'
    )
    assert server_under_test.connection.written.startswith(b"HTTP/1.1 400 ")
    assert server_under_test.issuer.asked == []


@pytest.mark.parametrize("header", ["Metadata: true", "metadata: True", "METADATA: TRUE"])
async def test_the_metadata_header_matches_in_any_case(header: str) -> None:
    assert (await ServerUnderTest().ask(request_bytes(headers=(header,)))).status == 200


async def test_the_metadata_header_is_optional_if_the_operator_says_so() -> None:
    assert (
        await ServerUnderTest(ServerPolicy(require_metadata_header=False)).ask(request_bytes(headers=()))
    ).status == 200


@pytest.mark.parametrize("target", [TARGET, "/metadata/instance"])
@pytest.mark.parametrize("required", [True, False])
async def test_a_duplicate_metadata_header_is_refused(target: str, *, required: bool) -> None:
    server_under_test = ServerUnderTest(ServerPolicy(require_metadata_header=required))

    check(
        await server_under_test.ask(request_bytes(target, headers=("Metadata: true", "metadata: true"))),
        400,
        "invalid_request",
    )
    assert (server_under_test.issuer.asked, server_under_test.proxy.forwarded) == ([], [])
    assert (await server_under_test.ask(request_bytes(target))).status == 200


@pytest.mark.parametrize(
    "query",
    ["", "?", "?resource=", "?api-version=2018-02-01", "?resource=a&resource=a", "?resource=a&client_id=b&object_id=c"],
)
async def test_wrong_parameters_are_refused_before_any_lookup(query: str) -> None:
    server_under_test = ServerUnderTest()

    check(await server_under_test.ask(request_bytes(f"{TOKEN_PATH}{query}")), 400, "invalid_request")
    assert server_under_test.issuer.asked == []
    assert (await server_under_test.ask(request_bytes(f"{TOKEN_PATH}?resource=a&client_id=b"))).status == 200


async def test_a_disguised_token_path_is_refused() -> None:
    server_under_test = ServerUnderTest()

    check(await server_under_test.ask(request_bytes(TARGET.replace("token?", "%74oken?"))), 400, "invalid_request")
    assert (await server_under_test.ask(request_bytes(TARGET.replace("/metadata", "//Metadata")))).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers", [(), ("Metadata: true",), ("Metadata: true", "Metadata: false"), ("X-Forwarded-For: x",)]
)
@pytest.mark.parametrize("path", ["getplatformmetadata?cred-api-version=2.0", "issuecredential", "info", ""])
async def test_other_identity_paths_are_404_whatever_the_method_and_headers(
    path: str, headers: tuple[str, ...], method: str
) -> None:
    server_under_test = ServerUnderTest(ServerPolicy())

    check(
        await server_under_test.ask(request_bytes(f"/metadata/identity/{path}", method=method, headers=headers)),
        404,
        "not_found",
    )
    assert server_under_test.proxy.forwarded == []


async def test_instance_metadata_is_blocked_if_the_operator_says_so() -> None:
    blocking = ServerUnderTest(ServerPolicy(block_instance_metadata=True))

    check(await blocking.ask(request_bytes("/metadata/instance?api-version=1")), 403, "access_denied")
    assert blocking.proxy.forwarded == []
    assert (await ServerUnderTest().ask(request_bytes("/metadata/instance?api-version=1"))).status == 200


async def test_instance_metadata_is_read_only() -> None:
    reply = await ServerUnderTest().ask(request_bytes("/metadata/instance", method="POST"))

    check(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"


async def test_a_forwarded_request_is_not_proxied_either() -> None:
    forwarded = request_bytes("/metadata/instance", headers=("X-Forwarded-For: x",))

    check(await ServerUnderTest().ask(forwarded), 400, "invalid_request")
    assert (await ServerUnderTest(ServerPolicy(allow_x_forwarded_for=True)).ask(forwarded)).status == 200


async def test_another_path_is_unknown() -> None:
    check(await ServerUnderTest().ask(request_bytes("/metadata/versions")), 404, "not_found")


ISSUER: dict[Reason, tuple[int, str]] = {
    Reason.UNKNOWN_ADDRESS: (404, "not_found"),
    Reason.SUSPENDED: (404, "not_found"),
    Reason.NOTHING_ASSIGNED: (400, "invalid_request"),
    Reason.STILL_ASSIGNING: (404, "not_found"),
    Reason.NO_MATCHING_IDENTITY: (404, "not_found"),
    Reason.UNKNOWN_OBJECT_ID: (400, "invalid_request"),
    Reason.UPSTREAM_REFUSED: (403, "access_denied"),
    Reason.UPSTREAM_UNAVAILABLE: (503, "temporarily_unavailable"),
    Reason.UPSTREAM_THROTTLED: (429, "too_many_requests"),
    Reason.POLICY: (403, "access_denied"),
    Reason.TIMED_OUT: (503, "temporarily_unavailable"),
    Reason.OVERLOADED: (503, "temporarily_unavailable"),
}


@pytest.mark.parametrize(("reason", "status", "error"), [(reason, *form) for reason, form in ISSUER.items()])
async def test_what_the_issuer_refuses_gets_its_status(reason: Reason, status: int, error: str) -> None:
    server_under_test = ServerUnderTest()
    server_under_test.issuer.answer = refusing(reason)
    reply = await server_under_test.ask(request_bytes())

    check(reply, status, error)
    assert reply.json["error_description"] == "No."
    assert ("retry-after" in reply.headers) is (status in {429, 503})
    assert "connection" not in reply.headers, "the connection continues"
    assert server_under_test.measures.refusals(reason) == 1


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_answer(reason: Reason) -> None:
    answer = refused(Refusal(reason, "No."))

    assert answer.status >= 400
    assert json.loads(answer.body)["error_description"] == "No."


@pytest.mark.parametrize("reason", [Reason.STILL_ASSIGNING, Reason.NO_MATCHING_IDENTITY])
async def test_a_pending_identity_is_a_503_if_the_operator_wants_retry_after(reason: Reason) -> None:
    server_under_test = ServerUnderTest(ServerPolicy(set_retry_after=True))
    server_under_test.issuer.answer = refusing(reason)
    reply = await server_under_test.ask(request_bytes())

    check(reply, 503, "temporarily_unavailable")
    assert reply.headers["retry-after"] == "20"


async def test_that_flag_turns_no_other_refusal_into_a_503() -> None:
    server_under_test = ServerUnderTest(ServerPolicy(set_retry_after=True))
    server_under_test.issuer.answer = refusing(Reason.UNKNOWN_ADDRESS)

    check(await server_under_test.ask(request_bytes()), 404, "not_found")


@pytest.mark.parametrize(("retry_after", "header"), [(None, "5"), (0.0, "1"), (1.2, "2"), (70.0, "70")])
async def test_retry_after_is_forwarded_or_set_by_nmi(retry_after: float | None, header: str) -> None:
    server_under_test = ServerUnderTest()
    server_under_test.issuer.answer = refusing(Reason.UPSTREAM_UNAVAILABLE, retry_after=retry_after)

    assert (await server_under_test.ask(request_bytes())).headers["retry-after"] == header


async def test_the_word_that_makes_sdks_stop_retrying_is_never_returned() -> None:
    server_under_test = ServerUnderTest()
    server_under_test.issuer.answer = refusing(Reason.UPSTREAM_REFUSED, sentence="AADSTS1: Unreachable, UNREACHABLE.")
    reply = await server_under_test.ask(request_bytes())

    check(reply, 403, "access_denied")
    assert reply.json["error_description"] == "AADSTS1: not answering, not answering."


async def test_a_message_is_truncated_and_stays_valid_json_whatever_it_contains() -> None:
    server_under_test = ServerUnderTest()
    server_under_test.issuer.answer = refusing(Reason.UPSTREAM_REFUSED, sentence='"\r\n\x00\u2028' + "x" * 5000)
    reply = await server_under_test.ask(request_bytes())

    assert len(reply.json["error_description"]) == SENTENCE_CHARS
    assert b"\n" not in reply.body


async def test_an_internal_error_is_a_500_and_the_next_request_succeeds() -> None:
    server_under_test = ServerUnderTest()
    good = server_under_test.issuer.answer

    def broken(_: object) -> Refusal:
        raise KeyError("secret detail")

    server_under_test.issuer.answer = broken
    reply = await server_under_test.ask(request_bytes())

    check(reply, 500, "server_error")
    assert b"secret" not in reply.body
    server_under_test.issuer.answer = good
    assert (await server_under_test.ask(request_bytes())).status == 200


async def test_a_fault_while_an_answer_is_written_ends_its_connection_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server_under_test = ServerUnderTest()
    connection = server_under_test.connection

    def broken(_: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(connection, "write", broken)
    server_under_test.lane.data_received(request_bytes())
    await server_under_test.settle()
    assert not connection.open
    logged = [record for record in caplog.records if record.name == "nmi.server.decisions"]
    (line,) = (record for record in logged if record.levelno >= logging.ERROR)
    assert "defect" in line.getMessage()
    assert (await server_under_test.ask(request_bytes())).status == 200


async def test_an_answer_that_does_not_arrive_is_a_503() -> None:
    server_under_test = ServerUnderTest(ServerPolicy(answer_seconds=0.01))

    async def never(_: object) -> Refusal:
        await asyncio.Event().wait()
        raise AssertionError

    server_under_test.issuer.answer = never

    check(await server_under_test.ask(request_bytes()), 503, "temporarily_unavailable")


async def test_a_timeout_inside_the_issuer_is_an_internal_error_and_not_the_servers_own_timeout() -> None:
    server_under_test = ServerUnderTest()

    async def times_out(_: object) -> Refusal:
        raise TimeoutError

    server_under_test.issuer.answer = times_out

    check(await server_under_test.ask(request_bytes()), 500, "server_error")


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
