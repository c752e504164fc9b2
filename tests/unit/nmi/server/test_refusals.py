"""The refusals of the general lane: the table row by row in its order, variants, faults of NMI, and their content.

A row is a request, its refusal, and an accepted neighbour. The test sets the decision. Excluded: bytes that are
no request (test_malformed_requests; tests/support/corpus, by both lanes and the oracle), the forms of paths
(test_targets).
"""

import importlib
import json
import logging
import pkgutil
import re
from dataclasses import dataclass, field

import pytest

import nmi
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.head import bad, too_large
from nmi.server.parameters import parse_query, token_request
from nmi.server.policy import ServerPolicy
from nmi.server.reading import body_too_large
from nmi.server.responses import SENTENCE_CHARS, refused
from tests.support.nmi.server.fakes import QUERY, TARGET, TOKEN_PATH, ServerUnderTest, refusing, request_bytes

UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
FLAG = ServerPolicy(set_retry_after=True)
BAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


def ask(target: str = TARGET, *headers: str, method: str = "GET") -> bytes:
    return request_bytes(target, method=method, headers=headers)


VALID = ask(TARGET, "Metadata: true")


@dataclass(frozen=True)
class Row:
    """One row of the table: a request and its refusal."""

    name: str
    status: int
    error: str
    text: str
    """A text that error_description contains."""
    data: bytes = VALID
    decided: Reason | None = None
    """The token service's response."""
    policy: ServerPolicy = field(default_factory=ServerPolicy)
    headers: tuple[tuple[str, str], ...] = ()
    """The required header fields in addition to Content-Type, Content-Length and the id."""
    passes: bytes | None = VALID
    """A similar request that is accepted."""
    passing_policy: ServerPolicy | None = None
    """The policy that it needs, if not the default."""
    waits: bool = False
    """Whether it may take a task."""


def decided(name: str, reason: Reason, status: int, error: str, *headers: tuple[str, str], flag: bool = False) -> Row:
    policy = FLAG if flag else ServerPolicy()
    return Row(name, status, error, "No.", decided=reason, headers=headers, waits=True, policy=policy)


INVALID, AWAY = "invalid_request", "temporarily_unavailable"
CLOSE = (("connection", "close"),)
SOON, LATER = ("retry-after", "5"), ("retry-after", "20")
ROWS = [
    Row("method", 405, "method_not_allowed", "GET", ask(TARGET, "Metadata: true", method="POST"),
        headers=(("allow", "GET"),)),
    Row("method, forwarded", 405, "method_not_allowed", "GET", ask(TARGET, "X-Forwarded-For: x", method="POST"),
        headers=(("allow", "GET"),)),
    Row("X-Forwarded-For", 400, INVALID, "X-Forwarded-For", ask(TARGET, "Metadata: true", "X-Forwarded-For: 1.2.3.4")),
    Row("X-Forwarded-For, allowed", 400, INVALID, "X-Forwarded-For", ask(TARGET, "X-Forwarded-For: a"),
        passes=ask(TARGET, "Metadata: true", "X-Forwarded-For: a"),
        passing_policy=ServerPolicy(allow_x_forwarded_for=True)),
    Row("X-Forwarded-For, empty", 400, INVALID, "X-Forwarded-For", ask(TARGET, "Metadata: true", "x-forwarded-for:")),
    Row("X-Forwarded-For, instance", 400, INVALID, "X-Forwarded-For", ask("/metadata/instance", "X-Forwarded-For: a"),
        passes=ask("/metadata/instance", "X-Forwarded-For: a"),
        passing_policy=ServerPolicy(allow_x_forwarded_for=True)),
    Row("no Metadata", 400, INVALID, "Required metadata header not specified", ask(TARGET),
        passes=ask(TARGET, "mEtAdAtA: TRUE")),
    Row("no Metadata, no query", 400, INVALID, "Required metadata header not specified", ask(TOKEN_PATH)),
    Row("no Metadata, not needed", 400, INVALID, "Required metadata header not specified", ask(TARGET),
        passes=ask(TARGET), passing_policy=ServerPolicy(require_metadata_header=False)),
    Row("doubled Metadata", 400, INVALID, "more than once", ask(TARGET, "Metadata: true", "Metadata: true"),
        headers=CLOSE),
    Row("doubled Metadata, not needed", 400, INVALID, "more than once",
        ask(TARGET, "Metadata: true", "metadata: true"), headers=CLOSE,
        policy=ServerPolicy(require_metadata_header=False)),
    Row("doubled Metadata, instance", 400, INVALID, "more than once",
        ask("/metadata/instance", "Metadata: true", "metadata: true"), headers=CLOSE,
        passes=ask("/metadata/instance", "Metadata: true")),
    Row("no query", 400, INVALID, "resource", ask(TOKEN_PATH, "Metadata: true")),
    Row("no resource", 400, INVALID, "resource", ask(f"{TOKEN_PATH}?api-version=2018-02-01", "Metadata: true")),
    Row("empty resource", 400, INVALID, "resource", ask(f"{TOKEN_PATH}?resource=", "Metadata: true")),
    Row("two selectors", 400, INVALID, "Only one of", ask(f"{TARGET}&client_id=a&mi_res_id=b", "Metadata: true"),
        passes=ask(f"{TARGET}&client_id=a", "Metadata: true")),
    Row("repeated parameter", 400, INVALID, "more than once", ask(f"{TARGET}&{QUERY}", "Metadata: true")),
    decided("nothing can come", Reason.NOTHING_ASSIGNED, 400, INVALID),
    decided("no pod", Reason.UNKNOWN_ADDRESS, 404, "not_found"),
    decided("no pod, flag", Reason.UNKNOWN_ADDRESS, 404, "not_found", flag=True),
    decided("may have lost its address", Reason.SUSPENDED, 404, "not_found"),
    decided("may have lost its address, flag", Reason.SUSPENDED, 404, "not_found", flag=True),
    decided("being assigned", Reason.STILL_ASSIGNING, 404, "not_found"),
    decided("being assigned, flag", Reason.STILL_ASSIGNING, 503, AWAY, LATER, flag=True),
    decided("nothing usable", Reason.NO_MATCHING_IDENTITY, 404, "not_found"),
    decided("nothing usable, flag", Reason.NO_MATCHING_IDENTITY, 503, AWAY, LATER, flag=True),
    decided("unknown object id", Reason.UNKNOWN_OBJECT_ID, 400, INVALID),
    decided("Azure refused", Reason.UPSTREAM_REFUSED, 403, "access_denied"),
    decided("Azure away", Reason.UPSTREAM_UNAVAILABLE, 503, AWAY, SOON),
    decided("Azure throttles", Reason.UPSTREAM_THROTTLED, 429, "too_many_requests", SOON),
    decided("policy", Reason.POLICY, 403, "access_denied"),
    decided("out of time", Reason.TIMED_OUT, 503, AWAY, SOON),
    decided("our queue is full", Reason.OVERLOADED, 503, AWAY, SOON),
    Row("too large a head", 431, INVALID, "head", BAD + b"A: " + b"x" * 20_000, headers=CLOSE),
    Row("too many fields", 431, INVALID, "header fields", BAD + b"A: b\r\n" * 100 + b"\r\n", headers=CLOSE),
    Row("too long a target", 431, INVALID, "target", ask("/" + "x" * 5000), headers=CLOSE),
    Row("too large a body", 413, INVALID, "body", BAD + b"Content-Length: 99999\r\n\r\n", headers=CLOSE),
    Row("both lengths", 400, INVALID, "framed",
        BAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", headers=CLOSE),
    Row("obs-fold", 400, INVALID, "malformed", BAD + b"A: b\r\n c\r\n\r\n", headers=CLOSE),
    Row("NUL", 400, INVALID, "NUL", BAD + b"A: \0\r\n\r\n", headers=CLOSE),
    Row("bare LF", 400, INVALID, "bare", BAD + b"A: b\n\r\n\r\n", headers=CLOSE),
    Row("another spelling", 400, INVALID, "spelling", ask(TARGET.replace("oauth2", "oauth%32"), "Metadata: true"),
        passes=ask(TARGET.replace("/metadata", "//Metadata"), "Metadata: true")),
    Row("IMDSv2", 404, "not_found", "nothing", ask("/metadata/identity/getplatformmetadata")),
    Row("other paths", 404, "not_found", "nothing", ask("/metadata/versions"), passes=ask("/metadata/instance")),
    Row("blocked", 403, "access_denied", "blocked", ask("/metadata/instance"), passes=ask("/metadata/instance"),
        policy=ServerPolicy(block_instance_metadata=True), passing_policy=ServerPolicy()),
    Row("instance, method", 405, "method_not_allowed", "method", ask("/metadata/instance", method="PUT"),
        headers=(("allow", "GET, HEAD"),), passes=ask("/metadata/instance")),
    Row("host token by a pod", 403, "access_denied", "node", ask("/host/token?resource=r", "podns: a", "podname: b")),
    Row("not redirected", 403, "access_denied", "own address", policy=ServerPolicy(redirected_from=("1.2.3.4", 80)),
        passing_policy=ServerPolicy()),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_each_row_is_refused_as_specified_and_a_similar_valid_request_is_not(row: Row) -> None:
    server = ServerUnderTest(row.policy)
    good = server.token_service.respond
    if row.decided is not None:
        server.token_service.respond = refusing(row.decided)
    server.lane.data_received(row.data)
    assert bool(server.connection.written) is not row.waits, "answered before anything is looked up or waited for"
    assert row.waits or not server.token_service.requests
    reply = await ServerUnderTest(row.policy).ask(row.data) if not row.waits else await server.ask(row.data)

    assert (reply.status, reply.json["error"]) == (row.status, row.error)
    ids = {"correlationId": reply.headers["x-ms-request-id"]} if "header not specified" not in row.text else {}
    assert reply.json == {"error": row.error, "error_description": reply.json["error_description"], **ids}
    assert row.text.lower() in reply.json["error_description"].lower()
    assert "unreachable" not in reply.body.decode().lower()
    assert (reply.headers["content-type"], reply.headers["content-length"]) == (
        "application/json",
        str(len(reply.body)),
    )
    assert UUID.fullmatch(reply.headers["x-ms-request-id"])
    others = set(reply.headers) - {"content-type", "content-length", "x-ms-request-id"}
    assert {name: reply.headers[name] for name in others} == dict(row.headers)
    await server.settle()
    assert server.proxy.forwarded == []
    if row.decided is not None:
        assert server.measures.refusals(row.decided) == 2, "of each of the two requests"

    if row.passes is not None:
        server = ServerUnderTest(row.passing_policy or row.policy)
        server.token_service.respond = good
        assert (await server.ask(row.passes)).status == 200


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
    assert server.token_service.requests == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers", [(), ("Metadata: true",), ("Metadata: true", "Metadata: false"), ("X-Forwarded-For: x",)]
)
@pytest.mark.parametrize("path", ["getplatformmetadata?cred-api-version=2.0", "issuecredential", "info", ""])
async def test_other_identity_paths_are_404_whatever_the_method_and_headers(
    server: ServerUnderTest, path: str, headers: tuple[str, ...], method: str
) -> None:
    reply = await server.ask(request_bytes(f"/metadata/identity/{path}", method=method, headers=headers))
    assert (reply.status, reply.json["error"]) == (404, "not_found")
    assert server.proxy.forwarded == []


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_answer(reason: Reason) -> None:
    response = refused(Refusal(reason, "No."))
    assert response.status >= 400
    assert json.loads(response.body)["error_description"] == "No."


@pytest.mark.parametrize(("retry_after", "header"), [(None, "5"), (0.0, "1"), (1.2, "2"), (70.0, "70")])
async def test_retry_after_is_forwarded_or_set_by_nmi(
    server: ServerUnderTest, retry_after: float | None, header: str
) -> None:
    server.token_service.respond = refusing(Reason.UPSTREAM_UNAVAILABLE, retry_after=retry_after)
    assert (await server.ask(request_bytes())).headers["retry-after"] == header


async def test_the_word_that_makes_sdks_stop_retrying_is_never_returned(server: ServerUnderTest) -> None:
    server.token_service.respond = refusing(Reason.UPSTREAM_REFUSED, sentence="AADSTS1: Unreachable, UNREACHABLE.")
    reply = await server.ask(request_bytes())
    assert reply.json["error_description"] == "AADSTS1: not answering, not answering."


async def test_a_message_is_truncated_and_stays_valid_json_whatever_it_contains(server: ServerUnderTest) -> None:
    server.token_service.respond = refusing(Reason.UPSTREAM_REFUSED, sentence='"\r\n\x00\u2028' + "x" * 5000)
    reply = await server.ask(request_bytes())
    assert len(reply.json["error_description"]) == SENTENCE_CHARS
    assert b"\n" not in reply.body


@pytest.mark.parametrize(
    "error", [KeyError("secret detail"), TimeoutError("secret detail")], ids=lambda e: type(e).__name__
)
async def test_an_internal_error_is_a_500_and_the_next_request_succeeds(
    server: ServerUnderTest, error: Exception
) -> None:
    """A timeout inside the token service is not the server's own one."""
    good = server.token_service.respond

    def broken(_: object) -> Refusal:
        raise error

    server.token_service.respond = broken
    reply = await server.ask(request_bytes())
    assert (reply.status, reply.json["error"]) == (500, "server_error")
    assert b"secret" not in reply.body
    server.token_service.respond = good
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
    assert connection.state == "finished"
    assert server.measures.refusals(Reason.INTERNAL) == 1
    logged = [record for record in caplog.records if record.name == "nmi.server.decisions"]
    (line,) = (record for record in logged if record.levelno >= logging.ERROR)
    assert "defect" in line.getMessage()
    assert (await server.ask(request_bytes())).status == 200


POINTERS = re.compile(
    r"\b(see|check|compare|find|label|ask|put|move|give|report|change|create|assign|raise|set|nothing to do|look|"
    r"upgrade|keep|allows|grant|use|make|correct|send|delete)\b|--[a-z]|\bMIC's log\b",
    re.IGNORECASE,
)


def constants() -> list[tuple[str, Refusal]]:
    """Return every Refusal in a module of NMI."""
    refusals = []
    for module in pkgutil.walk_packages(nmi.__path__, "nmi."):
        if module.name.endswith("__main__"):
            continue
        values = vars(importlib.import_module(module.name))
        refusals += [(f"{module.name}.{name}", value) for name, value in values.items() if isinstance(value, Refusal)]
    return sorted(refusals, key=lambda pair: pair[0])


MADE: list[tuple[str, Refusal | object]] = [
    ("bad", bad("a defect")),
    ("too_large", too_large("Too large.", Limit.HEAD_BYTES)),
    ("body_too_large", body_too_large()),
    ("query", parse_query("a;b")),
    ("parameters", parse_query("&".join(f"p{n}=1" for n in range(99)))),
    ("resource", token_request("")),
]


@pytest.mark.parametrize(
    ("name", "refusal"), [*constants(), *MADE], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_refusal_names_what_to_check(name: str, refusal: object) -> None:
    assert isinstance(refusal, Refusal), name
    detail = refusal.detail

    assert POINTERS.search(detail), f"{name}: {detail!r} does not say what to do"
    assert detail.isprintable()
    assert len(detail) <= 256, "the log would cut it"
    assert refusal.sentence.isprintable()
    assert "unreachable" not in refusal.sentence.lower()


def test_each_package_has_refusals() -> None:
    rooms = {name.split(".")[1] for name, _ in constants()}

    assert {"identity", "token_service", "server"} <= rooms
