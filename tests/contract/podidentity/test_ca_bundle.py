"""The file of --ca-bundle: what is loaded, what is rejected, and a changed file."""

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, TCPConnector

from podidentity.azure.ca_bundle import SIZE_MAX, CaBundle, CaBundleError
from podidentity_sandbox.aad import Aad
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.tokens import TokenMint

OLD, NEW = Authority("old"), Authority("new")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_text(OLD.pem)
    return path


def issuers(context: ssl.SSLContext) -> set[str]:
    """Return the names of those of the two CA certificates that *context* trusts."""
    return {name for name in ("old", "new") if f"'{name}'" in str(context.get_ca_certs())}


def test_the_authorities_of_the_machine_remain_trusted(file: Path) -> None:
    machine = {certificate["serialNumber"] for certificate in ssl.create_default_context().get_ca_certs()}
    trusted = {certificate["serialNumber"] for certificate in CaBundle(file).context.get_ca_certs()}
    assert machine < trusted
    assert len(trusted) == len(machine) + 1


def test_comments_and_several_certificates_are_accepted(file: Path) -> None:
    file.write_bytes(b"# Autorit\xe9 priv\xe9e\r\n" + OLD.pem.encode() + b"\nsecond:\n" + NEW.pem.encode())
    assert {"old", "new"} == issuers(CaBundle(file).context)


@pytest.mark.parametrize(
    ("content", "cause", "action"),
    [
        (b"", "contains no certificate", "write PEM certificates"),
        (b"\n\n", "contains no certificate", "write PEM certificates"),
        (b"\x30\x82\x01\x0a\xff\xfe", "contains no certificate", "write PEM certificates"),
        (OLD.pem.replace("MII", "!!!").encode(), "contains a damaged certificate", "write PEM certificates"),
        (OLD.pem.encode()[:-60], "contains a damaged certificate", "write PEM certificates"),
        (NEW.pem.encode() + OLD.pem.replace("MII", "!!!").encode(), "damaged certificate", "write PEM certificates"),
        (OLD.server().key.encode() + OLD.pem.encode(), "contains a private key", "remove it, replace the key"),
        (OLD.pem.encode() + b"#" * SIZE_MAX, f"has more than {SIZE_MAX} bytes", "write PEM certificates"),
    ],
    ids=["empty", "blank", "DER", "damaged", "cut", "second-damaged", "private-key", "huge"],
)
def test_an_unusable_file_is_rejected_with_the_cause_and_the_next_action(
    content: bytes, cause: str, action: str, file: Path
) -> None:
    file.write_bytes(content)
    with pytest.raises(CaBundleError) as rejected:
        CaBundle(file)
    message = str(rejected.value)
    assert f"--ca-bundle {str(file)!r}" in message
    assert cause in message
    assert action in message
    assert "\n" not in message
    assert "MII" not in message


def test_a_missing_file_and_a_directory_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CaBundleError, match=r"cannot read --ca-bundle .*: No such file or directory; check the name"):
        CaBundle(tmp_path / "missing")
    with pytest.raises(CaBundleError, match="Is a directory"):
        CaBundle(tmp_path)


async def test_new_connections_trust_an_authority_that_is_added_and_the_former_one(file: Path) -> None:
    bundle = await asyncio.to_thread(CaBundle, file)
    aad = Aad(Directory(), TokenMint())
    await aad.start(ssl_context=await asyncio.to_thread(NEW.server_context))
    url = f"https://localhost:{aad.port}/"
    try:
        async with ClientSession(connector=TCPConnector(ssl=bundle.context)) as session:
            with pytest.raises(ClientConnectorCertificateError):
                await session.get(url)
            assert not await bundle.reread()
            await asyncio.to_thread(file.write_text, OLD.pem + NEW.pem)
            assert await bundle.reread()
            async with session.get(url) as response:
                assert response.status < 500
    finally:
        await aad.stop()
    assert {"old", "new"} == issuers(bundle.context)


async def test_a_certificate_for_another_name_is_refused(file: Path) -> None:
    bundle = await asyncio.to_thread(CaBundle, file)
    aad = Aad(Directory(), TokenMint())
    await aad.start(ssl_context=await asyncio.to_thread(OLD.server_context, ("localhost",)))
    try:
        async with ClientSession(connector=TCPConnector(ssl=bundle.context)) as session:
            with pytest.raises(ClientConnectorCertificateError):
                await session.get(f"https://127.0.0.1:{aad.port}/")
            async with session.get(f"https://localhost:{aad.port}/") as response:
                assert response.status < 500
    finally:
        await aad.stop()


async def test_a_file_that_becomes_unusable_is_one_log_line_and_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = await asyncio.to_thread(CaBundle, file)
    for content in ("nothing", "nothing", NEW.pem + OLD.pem.replace("MII", "!!!")):
        await asyncio.to_thread(file.write_text, content)
        assert not await bundle.reread()
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.getMessage() for line in lines] == [
        "the changed CA bundle cannot be used, the certificates from before remain trusted; correct the file"
    ] * 2
    assert "contains no certificate" in str(lines[0].__dict__["error"])
    assert issuers(bundle.context) == {"old"}
    await asyncio.to_thread(file.write_text, NEW.pem)
    assert await bundle.reread()
    assert {"old", "new"} == issuers(bundle.context)
