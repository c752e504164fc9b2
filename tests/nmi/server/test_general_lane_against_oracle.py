"""The general lane and the oracle read the same meaning from the corpus and from mutations of it.

Excluded: the fast lane, which tests/native compares with the oracle and with this lane.
"""

import asyncio
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.corpus.corpus import EVERY, Case
from tests.examples import examples
from tests.native.mutations import mutated
from tests.nmi.server.fakes import ServerUnderTest, replies
from tests.oracle.requests import Asked, Verdict, read


async def answered(data: bytes, step: int = 0) -> ServerUnderTest:
    """Return a ServerUnderTest that has received *data*, whole or in pieces."""
    server = ServerUnderTest(peer="127.0.0.1")
    for piece in [data[at : at + step] for at in range(0, len(data), step)] if step else [data]:
        server.lane.data_received(piece)
        await server.settle()
    return server


def statuses(server: ServerUnderTest, data: bytes) -> list[int]:
    head_only = data.startswith(b"HEAD ")
    return [each.status for each in replies(server.connection.written, heads_only=head_only)]


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize("case", EVERY, ids=[case.name for case in EVERY])
async def test_a_file_of_the_corpus_gets_its_status(case: Case, step: int) -> None:
    server = await answered(case.data, step)

    assert statuses(server, case.data)[:1] == [case.status]
    assert bool(server.issuer.asked) is (case.status == 200)


def judged_apart(data: bytes) -> bool:
    """Rules of the general lane that the oracle does not have; other tests cover them.

    ";" and control characters are refused in a query; empty pairs have no meaning, and the number of parameters is
    limited. The oracle does not know /host/token: the corpus has only refused requests of it, which a mutation can make
    valid.
    """
    if re.match(rb"GET /host/token/?[? ]", data):
        return True
    query = unquote_to_bytes(data.partition(b"?")[2].partition(b" ")[0])
    return bool(re.search(rb"[;\x00-\x1f\x7f]", query)) or query.count(b"&") > 30 or b"&&" in data or b"?&" in data


TWO_REQUESTS = (
    b"POST /metadata/scheduledevents HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nontent-Length: 4\r\n\r\n"
    b"0\r\n\r\nGET /metadata/identity/oauth2/token?resource=r HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n"
)


def followed_by_another_request(data: bytes) -> bool:
    """Whether the first request ends with a complete chunked body. The oracle reads only the first request."""
    head, _, rest = data.partition(b"\r\n\r\n")
    framing = re.findall(rb"(?i)\r\n(content-length|transfer-encoding)[ \t]*:", head)
    return [each.lower() for each in framing] == [b"transfer-encoding"] and rest.startswith(b"0\r\n\r\nGET ")


@settings(max_examples=examples(400), deadline=None)
@given(mutated(), st.sampled_from([0, 1, 3, 17]))
@example(TWO_REQUESTS, 0)
def test_exactly_what_the_oracle_reads_as_a_token_request_is_one(data: bytes, step: int) -> None:
    verdict = read(data)
    server = asyncio.run(answered(data, step))
    if verdict is Verdict.UNSURE or judged_apart(data) or followed_by_another_request(data):
        return
    if not isinstance(verdict, Asked):
        assert server.issuer.asked == []
        return
    (_, asked), *_ = server.issuer.asked
    assert (
        asked.resource,
        asked.selector.value,
        asked.selector_value.lower(),
        asked.xms_cc,
        not (asked.force_refresh or asked.rejected_sha256),
    ) == (
        verdict.resource,
        verdict.selector_kind,
        verdict.selector_value,
        verdict.xms_cc,
        verdict.cacheable,
    )
    head = bytes(server.connection.written).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (b"\r\nConnection: close" in head) is verdict.close
