"""The refusal table, row by row in its order: the request, its refusal, and an accepted neighbour.

The test sets the issuer's decision. Excluded: variants of each row (test_refusal_table), and bytes that are no request
(tests/corpus/refused, by both lanes and the oracle).
"""

import re
from dataclasses import dataclass, field

import pytest

from nmi.refusal import Reason
from nmi.server.policy import ServerPolicy
from tests.nmi.server.fakes import QUERY, TARGET, TOKEN_PATH, ServerUnderTest, refusing, request_bytes

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
    """The issuer's answer."""
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
    good = server.issuer.answer
    if row.decided is not None:
        server.issuer.answer = refusing(row.decided)
    server.lane.data_received(row.data)
    assert bool(server.connection.written) is not row.waits, "answered before anything is looked up or waited for"
    assert row.waits or not server.issuer.asked
    reply = await ServerUnderTest(row.policy).ask(row.data) if not row.waits else await server.ask(row.data)

    assert (reply.status, reply.json["error"]) == (row.status, row.error)
    assert set(reply.json) == {"error", "error_description"}
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
        server.issuer.answer = good
        assert (await server.ask(row.passes)).status == 200


async def test_each_error_has_a_unique_id(server: ServerUnderTest) -> None:
    found = {(await server.ask(ask("/nothing"))).headers["x-ms-request-id"] for _ in range(100)}

    assert len(found) == 100
