"""The bytes of a request, and where its response ends, however the server frames it and cuts it into packets."""

import pytest

from podidentity.http_client.errors import ClientPayloadError, ClientResponseError
from podidentity.http_client.session import HttpSession
from tests.support.raw_server import RawServer, Reply, body_of, ok


async def sent(server: RawServer, session: HttpSession, method: str = "GET", path: str = "/", **more: object) -> bytes:
    server.replies.append(ok())
    arguments: dict[str, object] = {"headers": {}, **more}
    response = await session.request(method, server.url + path, **arguments)  # type: ignore[arg-type]
    response.close()
    return server.requests[-1]


async def test_a_read(server: RawServer, session: HttpSession) -> None:
    assert (
        await sent(server, session, path="/a%2Fb?c=d%20e", headers={"Accept": "x"})
        == (
            f"GET /a%2Fb?c=d%20e HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUser-Agent: test/1\r\nAccept: x\r\n\r\n"
        ).encode()
    )


async def test_a_write(server: RawServer, session: HttpSession) -> None:
    request = await sent(server, session, "PATCH", body=b"{}")
    assert request.startswith(b"PATCH / HTTP/1.1\r\n")
    assert request.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize(("method", "stated"), [("POST", True), ("DELETE", True), ("GET", False), ("HEAD", False)])
async def test_a_request_without_a_body(server: RawServer, session: HttpSession, method: str, stated: bool) -> None:
    assert (b"\r\nContent-Length: 0\r\n" in await sent(server, session, method)) == stated


async def test_a_url_without_a_path_names_the_root(server: RawServer, session: HttpSession) -> None:
    assert (await sent(server, session, path="")).startswith(b"GET / HTTP/1.1\r\n")
    assert (await sent(server, session, path="?a=b")).startswith(b"GET /?a=b HTTP/1.1\r\n")


async def test_a_field_of_the_request_replaces_the_sessions(server: RawServer, session: HttpSession) -> None:
    request = await sent(server, session, headers={"user-agent": "pod/2"})
    assert request.lower().count(b"user-agent") == 1
    assert b"\r\nuser-agent: pod/2\r\n" in request


async def test_a_redirect_is_not_followed(server: RawServer, session: HttpSession) -> None:
    server.replies.append(Reply(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"))
    response = await session.request("GET", server.url, headers={"Authorization": "Bearer x"})
    assert (response.status, len(server.requests)) == (302, 1)


URL = "http://127.0.0.1"
INVALID: list[tuple[str, dict[str, str], str]] = [
    *(
        ("GET", {"X-Name": value}, "'X-Name' cannot be sent")
        for value in ("a\r\nEvil: b", "a\nEvil: b", "a\rb", "a\0b")
    ),
    *(("GET", {name: "value"}, "cannot be sent") for name in ("", "X Name", "X:Name", "X\r\nName", "X\u00e9")),
    *((method, {}, "not a method") for method in ("", "GET /x HTTP/1.1\r\nEvil: b\r\n\r\nGET")),
]


@pytest.mark.parametrize(("method", "fields", "message"), INVALID)
async def test_a_method_or_field_that_could_change_the_meaning_of_a_request_is_rejected(
    server: RawServer, session: HttpSession, method: str, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await session.request(method, server.url, headers=fields)
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "http:///path",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1/#fragment",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\u00e9",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/ HTTP/1.1 Evil",
    ],
)
async def test_an_invalid_url_is_rejected(session: HttpSession, url: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        await session.request("GET", url, headers={})


async def test_https_without_a_context_is_rejected(session: HttpSession) -> None:
    with pytest.raises(ValueError, match="no TLS context"):
        await session.request("GET", "https://127.0.0.1/", headers={})


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
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
    ],
    ids=["ssh", "tls", "two lengths", "both framings", "a word", "negative", "overflow", "colon", "nul", "status"],
)
async def test_a_head_that_is_not_http_is_an_error(server: RawServer, session: HttpSession, head: bytes) -> None:
    with pytest.raises(ClientResponseError, match=r"^not HTTP: "):
        await got(server, session, Reply(head, hang=True))
    assert await got(server, session, Reply(HELLO)) == (200, b"hello")
    assert server.connections == 2
