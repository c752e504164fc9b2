"""The sandbox's authority, checked as strictly as the newest Python does by default."""

import asyncio
import ssl

import pytest

from podidentity_sandbox.certificates import Authority, KeyPair

DEADLINE = 60.0


async def response_of_a_server(context: ssl.SSLContext, trust: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
        writer.write(repr([value for part in subject for _, value in part]).encode())
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as server, asyncio.timeout(DEADLINE):
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_a_server_certificate_passes_strict_checks() -> None:
    authority = Authority()
    trust = authority.client_context()
    trust.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    assert await response_of_a_server(authority.server_context(), trust) == b"[]"


async def test_a_client_certificate_names_its_user_and_groups() -> None:
    authority = Authority()
    trust = authority.client_context(authority.client("user", ["a", "b"]))
    response = await response_of_a_server(authority.server_context(ask_clients=True), trust)
    assert response == b"['a', 'b', 'user']"


async def test_a_certificate_is_valid_only_for_the_hosts_that_it_names() -> None:
    authority = Authority()
    context = authority.server_context(["management.example", "127.0.0.1"])
    assert await response_of_a_server(context, authority.client_context(), "management.example") == b"[]"
    with pytest.raises(ssl.SSLCertVerificationError):
        await response_of_a_server(context, authority.client_context(), "other.example")


async def test_another_authority_is_not_trusted() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await response_of_a_server(Authority().server_context(), Authority().client_context())


def test_a_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(Authority().server())
    assert "PRIVATE" not in str(KeyPair("certificate", "PRIVATE"))
