"""The server of an https URL is verified before a request is sent."""

import ssl
from collections.abc import AsyncIterator

import pytest

from podidentity.http_client.errors import ClientConnectorError, ClientPayloadError
from podidentity.http_client.session import HttpSession
from podidentity_sandbox.certificates import Authority
from tests.support.raw_server import RawServer, Reply, body_of, ok

AUTHORITY = Authority()


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer(AUTHORITY.server_context()) as started:
        yield started


async def test_a_trusted_server(server: RawServer) -> None:
    server.replies += [ok(), ok()]
    async with HttpSession(connections=2, headers={}, tls=AUTHORITY.client_context()) as session:
        for _ in range(2):
            response = await session.request("GET", server.url, headers={})
            assert await response.readany() == b"hello"
    assert server.connections == 1


async def test_a_server_of_another_authority_receives_no_request(server: RawServer) -> None:
    server.replies.append(ok())
    async with HttpSession(connections=2, headers={}, tls=Authority("another").client_context()) as session:
        with pytest.raises(ClientConnectorError, match="CERTIFICATE_VERIFY_FAILED") as raised:
            await session.request("GET", server.url, headers={"Authorization": "Bearer x"})
    assert isinstance(raised.value.os_error, ssl.SSLCertVerificationError)
    assert server.requests == []


async def test_a_certificate_of_another_host_is_rejected() -> None:
    async with (
        RawServer(AUTHORITY.server_context(["other.test"])) as server,
        HttpSession(connections=2, headers={}, tls=AUTHORITY.client_context()) as session,
    ):
        server.replies.append(ok())
        with pytest.raises(ClientConnectorError, match="IP address mismatch"):
            await session.request("GET", server.url, headers={})
        assert server.requests == []


async def test_the_expected_name_can_be_given() -> None:
    async with RawServer(AUTHORITY.server_context(["other.test"])) as server:
        server.replies.append(ok())
        context = AUTHORITY.client_context()
        async with HttpSession(connections=2, headers={}, tls=context, server_hostname="other.test") as session:
            assert (await session.request("GET", server.url, headers={})).status == 200


async def test_a_body_that_is_cut_off_is_an_error(server: RawServer) -> None:
    server.replies.append(Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", close=True))
    async with HttpSession(connections=2, headers={}, tls=AUTHORITY.client_context()) as session:
        response = await session.request("GET", server.url, headers={})
        with pytest.raises(ClientPayloadError):
            await body_of(response)
