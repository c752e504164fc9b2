"""A response is complete at the end of its body, however the server frames it and cuts it into packets."""

import pytest

from podidentity.http_client.errors import ClientPayloadError, ClientResponseError
from podidentity.http_client.session import HttpSession
from tests.podidentity.http_client.raw_server import RawServer, Reply, body_of, ok

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def got(server: RawServer, session: HttpSession, reply: Reply, method: str = "GET") -> tuple[int, bytes]:
    server.replies.append(reply)
    response = await session.request(method, f"{server.url}/", headers={})
    return response.status, await body_of(response)


@pytest.mark.parametrize("cut", range(1, len(HELLO), 7))
async def test_packets_may_end_anywhere(server: RawServer, session: HttpSession, cut: int) -> None:
    assert await got(server, session, Reply(HELLO[:cut], HELLO[cut:])) == (200, b"hello")


async def test_names_of_fields_are_in_lower_case_and_the_first_of_equal_ones_counts(
    server: RawServer, session: HttpSession
) -> None:
    server.replies.append(ok(b"", "X-Request-ID:  one ", "x-request-id: two", "Retry-After: 7"))
    response = await session.request("GET", server.url, headers={})
    assert (response.headers["x-request-id"], response.headers["retry-after"]) == ("one", "7")
    assert (response.content_length, await body_of(response)) == (0, b"")


async def test_a_chunked_body(server: RawServer, session: HttpSession) -> None:
    reply = Reply(CHUNKED, b"2;extension=1\r\nhe\r\n3\r\nllo\r\n", b"0\r\nTrailer: ignored\r\n\r\n")
    assert await got(server, session, reply) == (200, b"hello")
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 1


async def test_pieces_arrive_while_the_server_still_sends(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(CHUNKED, b"2\r\nhe\r\n", hang=True))
    response = await session.request("GET", server.url, headers={})
    assert await response.readany() == b"he"
    response.close()


async def test_a_body_until_the_connection_ends(server: RawServer, session: HttpSession) -> None:
    assert await got(server, session, Reply(b"HTTP/1.1 200 OK\r\n\r\nhe", b"llo", close=True)) == (200, b"hello")
    assert await got(server, session, Reply(b"HTTP/1.0 200 OK\r\n\r\nhello", close=True)) == (200, b"hello")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_responses_without_a_body_keep_the_connection(
    server: RawServer, session: HttpSession, status: bytes
) -> None:
    assert (await got(server, session, Reply(b"HTTP/1.1 " + status + b"\r\n\r\n")))[1] == b""
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 1


async def test_the_response_of_a_head_request_has_no_body(server: RawServer, session: HttpSession) -> None:
    reply = Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert await got(server, session, reply, "HEAD") == (200, b"")
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")


async def test_informational_responses_precede_the_response(server: RawServer, session: HttpSession) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    server.replies.append(Reply(early, HELLO))
    response = await session.request("GET", server.url, headers={})
    assert ("link" in response.headers, await body_of(response)) == (False, b"hello")


async def test_another_protocol_is_a_response_without_a_body(server: RawServer, session: HttpSession) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x01x"
    assert await got(server, session, Reply(switch)) == (101, b"")
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 2


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", close=True),
        Reply(CHUNKED + b"5\r\nhello\r\n", close=True),
        Reply(CHUNKED + b"5\r\nhel", close=True),
        Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", close=True),
        Reply(b"HTTP/1.1 200 OK\r\n\r\nhello", reset=True),
        Reply(CHUNKED + b"-1\r\nhello\r\n", hang=True),
        Reply(CHUNKED + b"fffffffffffffffff\r\nhello\r\n", hang=True),
        Reply(CHUNKED + b"5\r\nhelloo\r\n", hang=True),
    ],
    ids=["length", "chunks", "chunk", "coding", "reset", "negative", "huge", "long chunk"],
)
async def test_an_incomplete_body_is_an_error(server: RawServer, session: HttpSession, reply: Reply) -> None:
    with pytest.raises(ClientPayloadError, match=r"^Response payload is not completed: "):
        await got(server, session, reply)
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
    ],
    ids=["ssh", "tls", "two lengths", "both framings", "a word", "overflow", "colon", "nul", "status"],
)
async def test_a_head_that_is_not_http_is_an_error(server: RawServer, session: HttpSession, head: bytes) -> None:
    with pytest.raises(ClientResponseError, match=r"^not HTTP: "):
        await got(server, session, Reply(head, hang=True))
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 2
