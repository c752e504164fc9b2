"""Bytes and queries that are not a served request, each with a neighbour that is one, and limits.

Bytes in every split; each limit is counted under its name. Excluded: requests of tests/support/corpus, limits of
pipelined requests and of waiting (test_connections_in_order), the lane's counters (tests/contract/native), the
responses to well-formed requests, and the status codes of refusals of queries.
"""

import re
import time
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.head import parse_head
from nmi.server.metrics import ServerMetrics
from nmi.server.parameters import parse_query, token_request
from nmi.server.policy import ServerPolicy, Sizes
from nmi.server.reading import RequestReader
from nmi.server.request import Request
from tests.support.examples import examples
from tests.support.nmi.server.fakes import TOKEN_PATH, ServerUnderTest, request_bytes

SIZES = Sizes(head_bytes=512, fields=8, target_bytes=100, body_bytes=64)


def read(data: bytes, *, step: int = 0, sizes: Sizes = SIZES) -> list[Request | Refusal]:
    """Return the requests in *data*, fed in one call or in steps of *step* bytes."""
    reader = RequestReader(sizes)
    results: list[Request | Refusal] = []
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.next()) is not None:
            results.append(request)
            if isinstance(request, Refusal):
                return results
    return results


def head(*lines: str, first: str = "GET /a HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def post(*lines: str, body: bytes = b"") -> bytes:
    return head("Host: h", *lines, first="POST /a HTTP/1.1") + body


BAD: dict[str, tuple[bytes, bytes]] = {
    "NUL in the target": (head("Host: h", first="GET /a\0 HTTP/1.1"), head("Host: h", first="GET /a HTTP/1.1")),
    "folded first field": (head(" Host: h"), head("Host: h")),
    "non-ASCII name": (head("Host: h", "Ä: b"), head("Host: h", "A: ä")),
    "Host with a space": (head("Host: h h"), head("Host: [::1]:80")),
    "mixed-case method": (head("Host: h", first="Frob /a HTTP/1.1"), head("Host: h", first="FROB /a HTTP/1.1")),
    "no method": (head("Host: h", first=" /a HTTP/1.1"), head("Host: h", first="PUT /a HTTP/1.1")),
    "no target": (head("Host: h", first="GET  HTTP/1.1"), head("Host: h", first="GET / HTTP/1.1")),
    "space in the target": (head("Host: h", first="GET /a b HTTP/1.1"), head("Host: h", first="GET /a+b HTTP/1.1")),
    "non-ASCII target": (head("Host: h", first="GET /ä HTTP/1.1"), head("Host: h", first="GET /%C3%A4 HTTP/1.1")),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", head("Host: h", first="OPTIONS * HTTP/1.1")),
    "two empty lines first": (b"\r\n\r\n" + head("Host: h"), b"\r\n" + head("Host: h")),
    "CL and TE": (
        post("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "doubled CL": (post("Content-Length: 1", "Content-Length: 1", body=b"a"), post("Content-Length: 1", body=b"a")),
    "doubled TE": (
        post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post("Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"),
    ),
    "TE in 1.0": (
        head("Transfer-Encoding: chunked", first="POST /a HTTP/1.0") + b"0\r\n\r\n",
        head("Content-Length: 2", first="POST /a HTTP/1.0") + b"ab",
    ),
    "negative CL": (post("Content-Length: -1", body=b"a"), post("Content-Length: 1 ", body=b"a")),
    "superscript CL": (post("Content-Length: \xb2", body=b"ab"), post("Content-Length: 2", body=b"ab")),
    "too many chunks": (
        post("Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 9 + b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked", body=b"1\r\na\r\n" * 8 + b"0\r\n\r\n"),
    ),
    "too many options in Connection": (
        head("Host: h", "Connection:" + "," * 20, "Connection:" + "," * 11),
        head("Host: h", "Connection:" + "," * 20, "Connection:" + "," * 10),
    ),
    "overlong chunk size": (
        post("Transfer-Encoding: chunked", body=b"0000000001\r\nx\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked", body=b"00000001\r\nx\r\n0\r\n\r\n"),
    ),
}

STEPS = (0, 1, 2, 3, 7)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("bad", "good"), BAD.values(), ids=BAD.keys())
def test_a_malformed_request_is_refused_and_a_similar_valid_one_is_not(bad: bytes, good: bytes, step: int) -> None:
    refused, passed = read(bad, step=step), read(good, step=step)

    assert [refusal.reason for refusal in refused if isinstance(refusal, Refusal)] == [Reason.BAD_SYNTAX]
    assert len(refused) == 1, "nothing before it was taken for a request"
    assert [type(request) for request in passed] == [Request]


def test_nothing_is_read_after_a_refusal() -> None:
    reader = RequestReader(SIZES)
    reader.feed(head("A : b"))
    first = reader.next()
    assert isinstance(first, Refusal)
    assert first.sentence in first.detail, "the log states the reason too"
    reader.feed(head("Host: h"))

    assert reader.next() is first
    assert reader.waiting_bytes == 0, "what comes after it is not even kept"


TWO = (
    post("Content-Length: 3", body=b"abc")
    + b"\r\n"
    + post("Transfer-Encoding: chunked", body=b"2\r\nde\r\n0\r\n\r\n")
    + head("Host: h")
)


@pytest.mark.parametrize("cut", range(len(TWO) + 1))
def test_pipelined_requests_are_equal_for_every_split(cut: int) -> None:
    reader = RequestReader(SIZES)
    bodies = []
    for piece in (TWO[:cut], TWO[cut:]):
        reader.feed(piece)
        while (request := reader.next()) is not None:
            assert isinstance(request, Request)
            bodies.append(request.body)

    assert bodies == [b"abc", b"de", b""]
    assert reader.empty


def test_a_body_that_looks_like_a_request_is_not_parsed_as_one() -> None:
    inner = head("Host: h", "Metadata: true", first="GET /b HTTP/1.1")
    results = read(post(f"Content-Length: {len(inner)}", body=inner))

    assert [request.target for request in results if isinstance(request, Request)] == ["/a"]


def faults_of(raw: bytes) -> str:
    """Return the first fault of a head by the rules one by one, or an empty string. Only for short heads."""
    if re.search(rb"(?:^|[^\r])\n|\r[^\n]|\x00", raw):
        return "a bare CR or LF, or a NUL"
    for line in raw[: -len(b"\r\n\r\n")].split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon or re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) is None:
            return "a malformed header field"
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            return "a control character in a header field"
    return ""


NAMES = st.sampled_from([b"A", b"host", b"", b"b c", b" d", b"x\x7f", b"\xe9", b"e\t", b"f!~"])
VALUES = st.sampled_from(
    [b"", b" ", b"v", b"\tv\t", b"a\x01", b"\x7f", b"\xff:", b"a\rb", b"a\nb", b"\0", b": w", b"\x85"]
)
ENDS = st.sampled_from([*[b"\r\n"] * 6, b"\n", b"\r", b"\r\r\n"])
LINES = st.builds(lambda *parts: b"".join(parts), NAMES, st.sampled_from([b":", b":", b":", b"", b" :"]), VALUES, ENDS)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(LINES, max_size=6))
def test_a_head_is_refused_for_the_first_rule_that_it_breaks(lines: list[bytes]) -> None:
    raw = b"".join([b"GET /a HTTP/1.0\r\n", *lines, b"\r\n\r\n"])
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    parsed, fault = parse_head(raw, Sizes()), faults_of(raw)

    if fault:
        assert isinstance(parsed, Refusal)
        assert parsed.sentence == f"The request is malformed: it has {fault}."
    elif isinstance(parsed, Refusal):
        assert "host" in parsed.sentence.lower()
    else:
        expected = [line.split(b":", 1) for line in raw[:-4].split(b"\r\n")[1:]]
        fields = [(name.decode().lower(), value.strip(b" \t").decode("latin-1")) for name, value in expected]
        assert parsed.fields == tuple(fields)


def test_long_lines_of_invalid_fields_are_refused_in_linear_time() -> None:
    # Sizes of a head are limited; the pattern for all lines must not try the ways in which they could be divided.
    lines = b"a: b\r\n" * 50_000 + b"c" * 100_000
    raw = b"GET /a HTTP/1.1\r\n" + lines + b"\r\n\r\n"
    begun = time.process_time()
    parsed = parse_head(raw, Sizes(head_bytes=len(raw), fields=100_000))
    assert isinstance(parsed, Refusal)
    assert time.process_time() - begun < 2


def test_the_repr_of_a_request_contains_neither_fields_nor_body() -> None:
    [request] = read(post("Authorization: secret", "Content-Length: 6", body=b"secret"))
    assert "secret" not in repr(request)
    assert "POST" in repr(request)


START = b"GET / HTTP/1.1\r\nHost: a\r\n"
KNOWN = START + b"Content-Length: "
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = Sizes(head_bytes=300, fields=4, target_bytes=100, body_bytes=64)
ROOM = SMALL.head_bytes - len(START + b"A: \r\n\r\n")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("limit", "over", "at_it", "status"),
    [
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300, START + b"A: " + b"x" * ROOM + b"\r\n\r\n", 431),
        (Limit.HEAD_BYTES, START + b"A: " + b"x" * 300 + b"\r\n\r\n", START + b"\r\n", 431),
        (Limit.HEADER_FIELDS, START + b"A: b\r\n" * 4 + b"\r\n", START + b"A: b\r\n" * 3 + b"\r\n", 431),
        (Limit.TARGET_BYTES, request_bytes("/" + "x" * 100), request_bytes("/" + "x" * 99), 431),
        (Limit.TARGET_BYTES, b"GET /" + b"x" * 200, request_bytes("/"), 431),
        (Limit.BODY_BYTES, KNOWN + b"65\r\n\r\n", KNOWN + b"64\r\n\r\n" + b"x" * 64, 413),
        (Limit.BODY_BYTES, KNOWN + b"0" * 19 + b"\r\n\r\n", KNOWN + b"0" * 18 + b"\r\n\r\n", 413),
        (Limit.BODY_BYTES, CHUNKED + b"41\r\n", CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n", 413),
        (Limit.BODY_BYTES, CHUNKED + b"ffffffff\r\n", CHUNKED + b"0\r\n\r\n", 413),
    ],
)
async def test_a_request_beyond_a_limit_is_refused_and_one_at_it_is_not(
    limit: Limit, over: bytes, at_it: bytes, status: int, step: int
) -> None:
    for data, expected, counted in ((at_it, 404, {}), (over, status, {limit: 1})):
        server = ServerUnderTest(ServerPolicy(sizes=SMALL))
        for at in range(0, len(data), step or len(data)):
            server.lane.data_received(data[at : at + (step or len(data))])
        (reply,) = server.replies()
        assert reply.status == expected
        assert server.limits() == counted


async def test_too_many_parameters_and_limits_that_the_issuer_names_are_counted(server: ServerUnderTest) -> None:
    many = "&".join(f"p{n}=1" for n in range(40))
    assert (await server.ask(request_bytes(f"{TOKEN_PATH}?resource=r&{many}"))).status == 400
    server.token_service.respond = lambda _: Refusal(Reason.OVERLOADED, "No.", limit=Limit.GOVERNOR_QUEUE)
    await server.ask(request_bytes())
    assert server.limits() == {Limit.PARAMETERS: 1, Limit.GOVERNOR_QUEUE: 1}


def test_the_lanes_limits_are_included_and_each_limit_has_a_series_from_the_start() -> None:
    counters = {
        "refused_total": "connections",
        "refused_peer": "connections_per_peer",
        "evicted_idle": "idle_evicted",
        "evicted_slow": "slow_evicted",
        "timed_out_first_byte": "first_byte",
        "timed_out_head": "head",
        "timed_out_idle": "idle",
        "timed_out_write": "write",
    }
    counts = {name: number for number, name in enumerate(counters, 1)}
    registry = CollectorRegistry()
    ServerMetrics(registry).watch(lane=lambda: {**counts, "timed_out": 22}, pending=int)
    text = generate_latest(registry).decode()
    for name, limit in counters.items():
        assert f'aadpodidentity_nmi_limits_hit_total{{limit="{limit}"}} {counts[name]}.0' in text
    assert text.count("aadpodidentity_nmi_limits_hit_total{") == len(Limit)
    assert "lane_timed_out_first_byte" not in text, "said once"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("resource=r", TokenRequest("r")),
        ("resource=https://x//", TokenRequest("https://x//")),
        ("resource=a%2Bb", TokenRequest("a+b")),
        ("resource=r&", TokenRequest("r")),
        ("&&resource=r", TokenRequest("r")),
        ("res%6Furce=r", TokenRequest("r")),
        ("resource=r&Resource=s", TokenRequest("r")),
        ("resource=r&client_id=A-b", TokenRequest("r", SelectorKind.CLIENT_ID, "A-b")),
        ("resource=r&client_id=&object_id=o", TokenRequest("r", SelectorKind.OBJECT_ID, "o")),
        ("resource=r&msi_res_id=%2Fsub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&mi_res_id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&msi-res-id=/sub", TokenRequest("r", SelectorKind.RESOURCE_ID, "/sub")),
        ("resource=r&bypass_cache=true", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=True", TokenRequest("r", force_refresh=True)),
        ("resource=r&bypass_cache=false", TokenRequest("r")),
        ("resource=r&token_sha256_to_refresh=aB", TokenRequest("r", rejected_sha256="ab")),
        ("resource=r&token_sha256_to_refresh=", TokenRequest("r")),
        ("resource=r&unknown=%3B", TokenRequest("r")),
    ],
)
def test_a_valid_query_is_parsed(query: str, wanted: TokenRequest) -> None:
    assert token_request(query) == wanted


@pytest.mark.parametrize(
    "query",
    [
        "resource",
        "resource=r&x=1&x=2",
        "resource=r&client_id=a&msi_res_id=b",
        "resource=r;client_id=a",
        "resource=%",
        "resource=r&x=%G1",
        "resource=%c0%af",
        "resource=a%00b",
        "resource=a%0d%0ab",
        "resource=r&client_id=%7f",
        "resource=r&" + "&".join(f"p{n}=1" for n in range(16)),
        "resource=r" + "&" * 16,
    ],
)
def test_an_ambiguous_query_is_refused(query: str) -> None:
    parsed = token_request(query)

    assert isinstance(parsed, Refusal)
    assert parsed.reason is Reason.BAD_PARAMETERS
    assert parsed.sentence in parsed.detail, "the log tells an operator what is wrong, too"


def test_the_maximum_number_of_parameters_is_accepted() -> None:
    assert token_request("resource=r&" + "&".join(f"p{n}=1" for n in range(15))) == TokenRequest("r")
    assert token_request("resource=r" + "&" * 15) == TokenRequest("r")


def test_more_escapes_than_the_fast_lane_can_read_are_refused_and_as_many_are_not() -> None:
    assert token_request("resource=" + "%41" * 512) == TokenRequest("A" * 512)
    assert isinstance(token_request("resource=" + "%41" * 513), Refusal)


ENCODED = st.lists(
    st.one_of(
        st.sampled_from(
            ["\\", "\\x41", "\\u0041", "\\N{DIGIT ONE}", "\\101", "\\n", "%5c", "%5Cx41", "%25", "%2541", "+"]
        ),
        st.integers(0x20, 0xFF).map("%{:02x}".format),
        st.text().map(quote),
        st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%&;=#"),
    )
).map("".join)


@given(ENCODED)
def test_a_value_is_decoded_as_by_the_standard_library(text: str) -> None:
    expected = unquote_to_bytes(text.replace("+", " "))
    parsed = parse_query(f"a={text}")
    try:
        wanted = expected.decode()
    except UnicodeDecodeError:
        assert isinstance(parsed, Refusal)
    else:
        valid = not re.search("[\x00-\x1f\x7f]", wanted)
        assert parsed == {"a": wanted} if valid else isinstance(parsed, Refusal)


@pytest.mark.parametrize("byte", range(256))
def test_the_escape_of_a_control_character_is_refused_and_any_other_is_not(byte: int) -> None:
    for escape in (f"%{byte:02x}", f"%{byte:02X}"):
        for query in (f"a=b{escape}", f"{escape}=b"):
            parsed = parse_query(query.replace("%", "%C2%") if byte >= 0x80 else query)
            accepted = 0x20 <= byte < 0x7F or 0x80 <= byte < 0xC0
            assert isinstance(parsed, dict) == accepted


def test_parameters_keep_their_order() -> None:
    assert parse_query("b=1&a=2&c") == {"b": "1", "a": "2", "c": ""}
