"""No line of the demo contains a token for any response, and each line is printable and short."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from podidentity_demo.demo import presentable
from podidentity_demo.settings import DemoSettings
from tests.contract.demo.conftest import one_run
from tests.contract.sandbox.azure.conftest import Azure

TOKEN = "eyJhbGciOiJSUzI1NiJ9eyJhbGci.eyJhcHBpZCI6ImJhYmFiYWJhIn0.c2lnbmF0dXJlc2lnbmF0dXJl"


@asynccontextmanager
async def answering(status: str, body: bytes, headers: str = "") -> AsyncIterator[str]:
    """A server with the same response to every request; the value is its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


Run = Callable[..., Awaitable[list[str]]]


@pytest.fixture
def run_with(settings: DemoSettings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the demo with one response to every request, and check its lines."""

    async def run(status: str, body: bytes) -> list[str]:
        async with answering(status, body) as url:
            monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
            lines = await one_run(
                dataclasses.replace(settings, metadata_service=url, resource_manager=url, client_id="babababa")
            )
        assert all(line.isprintable() and len(line) < 900 and TOKEN[:40] not in line for line in lines)
        return lines

    return run


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oops", TOKEN.encode()),
        ("403 No", json.dumps({"error": "x", "error_description": f"not {TOKEN}"}).encode()),
        ("400 No", json.dumps({"error": {"code": TOKEN, "message": "m"}}).encode()),
        ("400 No", b"\x1b[31m\r\nsuccessfully doARMOperations vm count 9\r\n" + b"x" * 5000),
        ("200 OK", TOKEN.encode()),
        ("200 OK", json.dumps([TOKEN]).encode()),
        ("200 OK", b"{" * 100_000),
        ("200 OK", b""),
        ("302 Found", b""),
        ("999 " + "x" * 70_000, b""),
    ],
)
async def test_no_response_of_a_server_prints_a_secret(status: str, body: bytes, run_with: Run) -> None:
    lines = await run_with(status, body)
    assert len(lines) == 4
    assert all(line.startswith("failed to ") for line in lines)


async def test_a_token_with_a_line_break_does_not_become_a_header(run_with: Run) -> None:
    body = json.dumps({"access_token": f"{TOKEN}\r\nX: y", "expires_in": "60"}).encode()
    failed, *_ = await run_with("200 OK", body)
    assert "without an access_token" in failed


async def test_a_token_that_arm_echoes_in_an_error_is_not_printed(run_with: Run) -> None:
    body = json.dumps({"access_token": TOKEN, "expires_in": "3600", "compute": {}}).encode()
    lines = await run_with("200 OK", body)
    assert "without a list of VMs" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["successfully"] * 3


async def test_a_redirect_is_not_followed_with_the_token(azure: Azure, settings: DemoSettings) -> None:
    elsewhere = f"{azure.arm.url}/subscriptions"
    azure.vm.attach(azure.one)
    async with answering("302 Found", b"", f"Location: {elsewhere}\r\n") as url:
        failed, *_ = await one_run(dataclasses.replace(settings, resource_manager=url))
    assert "answers 302" in failed
    assert azure.arm.calls == []


def test_ordinary_words_are_unchanged() -> None:
    text = "AuthorizationFailed: the client d3a0c11e-0000-4000-8000-000000000001 at management.azure.com"
    assert presentable(text) == text
    assert presentable(f"a {TOKEN} b") == "a (left out) b"
