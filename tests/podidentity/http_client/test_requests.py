"""The bytes of a request, and the arguments that could change its meaning."""

import pytest

from podidentity.http_client.session import HttpSession
from tests.podidentity.http_client.raw_server import RawServer, Reply, ok


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


@pytest.mark.parametrize("value", ["a\r\nEvil: b", "a\nEvil: b", "a\rb", "a\0b"])
async def test_a_value_with_control_characters_is_rejected(server: RawServer, session: HttpSession, value: str) -> None:
    with pytest.raises(ValueError, match="'X-Name' cannot be sent"):
        await session.request("GET", server.url, headers={"X-Name": value})
    assert server.connections == 0


@pytest.mark.parametrize("name", ["", "X Name", "X:Name", "X\r\nName", "X\u00e9"])
async def test_an_invalid_name_is_rejected(server: RawServer, session: HttpSession, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        await session.request("GET", server.url, headers={name: "value"})


@pytest.mark.parametrize("method", ["", "GET /x HTTP/1.1\r\nEvil: b\r\n\r\nGET"])
async def test_an_invalid_method_is_rejected(server: RawServer, session: HttpSession, method: str) -> None:
    with pytest.raises(ValueError, match="not a method"):
        await session.request(method, server.url, headers={})


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
