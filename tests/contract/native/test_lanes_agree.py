"""Both lanes give the same responses, byte for byte, for any division of the bytes into packets.

Each stream of requests is sent twice to a real server whose token service grants everything: first without ready
responses, so that only the general lane answers, and then again, when the fast lane may answer. Both must be equal, and
must be what the oracle predicts. Every stream ends with a request to close the connection, so that the test can wait
for its end.
"""

import asyncio
import json
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nmi.identity.request import TokenRequest
from nmi.server.policy import ServerPolicy
from nmi.tokens.source import Issued
from tests.contract.native.mutations import mutated, plausible, refusable
from tests.support.corpus.corpus import EVERY, Case
from tests.support.examples import every, examples
from tests.support.nmi.server.fakes import grant
from tests.support.nmi.server.limits import limits_with
from tests.support.nmi.server.running import Running
from tests.support.oracle.refusals import ANSWERS, read_refusal
from tests.support.oracle.requests import ServedRequest, Verdict, read
from tests.support.waiting import LIMIT_SECONDS

LAST = b"GET /metadata/identity/oauth2/token HTTP/1.0\r\n\r\n"
"""Always answered by the general lane, and differently if a byte of it was read as a part of another request."""
ENDING = LAST + LAST
"""For bytes that may end inside a field, which the first request then completes without closing the connection."""
USUAL = b"GET /metadata/identity/oauth2/token?resource=r HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n"
FORWARDED = USUAL + b"X-Forwarded-For: 1\r\n\r\n"
FOR_EVER_SECONDS = 10**6
SECONDS_LEFT = re.compile(rb'(?<=expires_in":")\d+')
REQUEST_ID = re.compile(rb"""(?<=x-ms-request-id: )[0-9a-f-]{36}|(?<="correlationId":")[0-9a-f-]{36}""")
MALFORMED = re.compile(
    rb'Content-Length: \d+(?=\r\nx-ms-request-id: [0-9a-f-]*\r\nConnection: close\r\n\r\n{.*malformed)|it has [^"]*'
)


REFUSED_OF_EACH_KIND = [
    b"%s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (start, fields)
    for start, fields in (
        (b"GET /metadata/identity/oauth2/token?resource=r", b""),
        (b"GET /metadata/identity/oauth2/token", b"Metadata: true\r\n"),
        (b"PUT /metadata/identity/oauth2/token", b""),
        (b"GET /metadata/identity/info", b""),
        (b"GET /metadata/versions", b""),
        (b"GET /elsewhere", b""),
        (b"POST /metadata/instance", b""),
    )
]


class LoopbackServer:
    """A server on loopback, and its loop, which runs only during a request. Its tokens contain the requests."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.running = Running(ServerPolicy(pipeline_seconds=6.0), limits=limits_with(head_seconds=8.0))
        self.running.token_service.respond = self.granted
        self.runner.run(self.running.server.start(self.running.listener))

    def close(self) -> None:
        self.runner.run(self.running.server.aclose())
        self.runner.close()
        self.running.listener.close()

    def granted(self, request: TokenRequest) -> Issued:
        text = f"{request.resource}|{request.selector.value}|{request.selector_value.lower()}|{request.xms_cc}"
        cacheable = not (request.force_refresh or request.rejected_sha256)
        usual = grant(self.running.entry.record, access_token=text, cacheable=cacheable, life=FOR_EVER_SECONDS)
        return replace(usual, fresh_until_ns=usual.expires_ns)

    def ask(self, pieces: Iterable[bytes], *, ready: bool) -> bytes:
        """The responses to *pieces*, sent one after the other. Without *ready*, drop every ready response before."""
        self.running.token_service.requests.clear()
        self.running.proxy.forwarded.clear()
        if not ready:
            self.running.entry.record.invalidate()
        return self.runner.run(self._ask(pieces))

    def ask_each(self, streams: Iterable[Iterable[bytes]]) -> list[bytes]:
        """The responses to each stream of pieces, one stream after the other."""

        async def ask_all() -> list[bytes]:
            return [await self._ask(pieces) for pieces in streams]

        return self.runner.run(ask_all())

    def make_ready(self, data: bytes) -> None:
        """Have a ready response for the query of *data*, even if *data* itself must not get it, and every refusal."""
        self.make_refusals_ready()
        start = re.match(rb"GET (\S+) HTTP/1.1\r\n", data)
        if start is not None:
            self.ask([b"GET %s HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n" % start[1] + LAST], ready=True)

    def make_refusals_ready(self) -> None:
        self.ask([b"".join(REFUSED_OF_EACH_KIND) + LAST], ready=True)

    async def _ask(self, pieces: Iterable[bytes]) -> bytes:
        with socket.create_connection(self.running.address) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # After its last answer a lane reads on for a second, and then resets. A pause of the machine may be longer.
            with suppress(ConnectionError):
                for piece in pieces:
                    sock.send(piece)
                    await asyncio.sleep(0)  # one iteration of the loop, so that the lane reads this piece separately
                    await asyncio.sleep(0)
            return comparable(await self._rest(sock))

    async def _rest(self, sock: socket.socket) -> bytes:
        received = b""
        async with asyncio.timeout(LIMIT_SECONDS):
            with suppress(ConnectionResetError):
                while data := await asyncio.get_running_loop().sock_recv(sock, 2**20):
                    received += data
        return received


def comparable(received: bytes) -> bytes:
    """All answers, but for the seconds that are left, the ids, and what it was that made a request malformed.

    Which of a malformed request's faults is seen first depends on how much of it is there.
    """
    return MALFORMED.sub(b"", REQUEST_ID.sub(b"", SECONDS_LEFT.sub(b"", received)))


@pytest.fixture(scope="module")
def loopback_server() -> Iterator[LoopbackServer]:
    made = LoopbackServer()
    yield made
    made.close()


def check_against_oracle(data: bytes, responses: bytes) -> None:
    """The first response is the token or the refusal that the oracle predicts."""
    refusal, meaning = read_refusal(data), read(data)
    if refusal is not None:
        status, description = ANSWERS[refusal.kind]
        first = responses.partition(b"\r\n\r\n")
        assert first[0].startswith(b"HTTP/1.1 %d " % status)
        assert description.encode() in first[2].partition(b"HTTP/1.1 ")[0]
        assert (b"\r\nConnection: close" in first[0]) == refusal.close
    head, _, rest = responses.partition(b"\r\n\r\n")
    body = rest.partition(b"HTTP/1.1 ")[0]
    if isinstance(meaning, ServedRequest):
        text = f"{meaning.resource}|{meaning.selector_kind}|{meaning.selector_value}|{meaning.xms_cc}"
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(body)["access_token"] == text
        assert (b"\r\nConnection: close" in head) == meaning.close
    elif meaning is not Verdict.UNSURE:
        assert b"access_token" not in body


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_both_lanes_answer_a_corpus_file_as_its_name_states(loopback_server: LoopbackServer, case: Case) -> None:
    begun = loopback_server.running.fast
    slowly = loopback_server.ask([case.data, LAST], ready=False)
    before = loopback_server.running.fast
    assert before == begun, "the general lane alone"
    assert bool(loopback_server.running.token_service.requests) is (case.status == 200)
    again = loopback_server.ask([case.data, LAST], ready=True)
    assert slowly.startswith(b"HTTP/1.1 %d " % case.status)
    assert again == slowly
    assert (loopback_server.running.fast > before) == case.fast
    check_against_oracle(case.data, slowly)


def test_fast_and_slow_requests_may_be_pipelined_in_any_order(loopback_server: LoopbackServer) -> None:
    slow = next(case.data for case in EVERY if case.name == "404-identity-info")
    meanings = {case.data: read(case.data) for case in EVERY if case.status == 200 and len(case.data) < 1500}
    stays_open = [
        data for data, meaning in meanings.items() if isinstance(meaning, ServedRequest) and not meaning.close
    ]
    stream = b"".join(data + (slow if at % 5 == 0 else b"") for at, data in enumerate(stays_open))
    slowly = loopback_server.ask([stream + LAST], ready=False)
    assert slowly.count(b"HTTP/1.1 200 OK") == len(stays_open) > 20
    for _ in range(2):  # a record keeps sixteen answers, so some are given fast and some are not
        assert loopback_server.ask([stream + LAST], ready=True) == slowly


@pytest.mark.examples
@pytest.mark.parametrize("case", [case for case in EVERY if len(case.data) < 1500], ids=lambda case: case.name)
def test_answers_do_not_depend_on_how_the_bytes_are_split(loopback_server: LoopbackServer, case: Case) -> None:
    stream = case.data + LAST
    whole = loopback_server.ask([stream], ready=False)
    assert loopback_server.ask([stream], ready=True) == whole
    assert loopback_server.ask([stream[at : at + 1] for at in range(len(stream))], ready=True) == whole
    cuts = range(1 + EVERY.index(case) % every(), len(case.data) + 1, every())
    responses = loopback_server.ask_each([stream[:cut], stream[cut:]] for cut in cuts)
    assert [cut for cut, response in zip(cuts, responses, strict=True) if response != whole] == []


def check_both_lanes(loopback_server: LoopbackServer, data: bytes) -> bytes:
    """Return the responses to *data*, which must equal those without a ready response, and the oracle's."""
    slowly = loopback_server.ask([data + ENDING], ready=False)
    loopback_server.make_ready(data)
    assert loopback_server.ask([data + ENDING], ready=True) == slowly
    check_against_oracle(data + ENDING, slowly)
    return slowly


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "field",
    [
        *("Content-Length: 1", "Content-Length: 0", "Transfer-Encoding: chunked", "Trailer: X", "TE: trailers"),
        *("Host: a", "Host: b", "Metadata: true", "Metadata: false", "X-Forwarded-For: 1", "X-Forwarded-For:"),
        *("Connection: close, keep-alive", "Connection: upgrade", "Proxy-Connection: close", "Upgrade: h2c"),
        *("Expect: 100-continue", " Folded: x", "Name : x", ": x", "Name", "X: \x80", "X: \0", "X: \x7f", "X: y\rz"),
        *("Connection: close\r\nConnection: keep-alive", "X: y\nContent-Length: 1"),
    ],
)
def test_a_field_that_changes_the_meaning_is_recognised_by_both_lanes(
    loopback_server: LoopbackServer, field: str, place: str
) -> None:
    fields = "Host: a\r\nMetadata: true"
    fields = f"{field}\r\n{fields}" if place == "before" else f"{fields}\r\n{field}"
    start = "GET /metadata/identity/oauth2/token?resource=r HTTP/1.1"
    check_both_lanes(loopback_server, f"{start}\r\n{fields}\r\n\r\n".encode("latin-1"))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=examples(150),
)
@given(data=mutated() | plausible() | refusable(), cuts=st.lists(st.integers(0, 700), max_size=3))
@example(data=FORWARDED, cuts=[])
@example(data=USUAL[:-5], cuts=[])
def test_mutated_requests_are_answered_equally_by_both_lanes_and_the_oracle(
    loopback_server: LoopbackServer, data: bytes, cuts: list[int]
) -> None:
    slowly = check_both_lanes(loopback_server, data)
    ends = sorted({min(cut, len(data)) for cut in cuts})
    stream = data + ENDING
    pieces = [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True) if start != end]
    assert loopback_server.ask(pieces, ready=True) == slowly
