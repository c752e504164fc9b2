"""/debug/state and /debug/profile: only for processes on this machine's loopback."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping

import pytest

from podidentity.telemetry.probes import HttpEndpoints
from podidentity.telemetry.profile import Profiler

EVERYWHERE = "0.0.0.0"


@contextlib.asynccontextmanager
async def opened(host: str, **options: object) -> AsyncIterator[HttpEndpoints]:
    made = HttpEndpoints(host, 0, **options)  # type: ignore[arg-type]  # by name, as the test gives them
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def get(port: int, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(60):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()
    finally:
        writer.close()
        await writer.wait_closed()


def shown() -> Mapping[str, object]:
    return {"governor": {"waiting": 0}}


@pytest.fixture
def own_address() -> str:
    """An address of this machine that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address would be used
        except OSError:
            return ""
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
async def test_the_state_is_served_on_loopback(address: str) -> None:
    async with opened(EVERYWHERE, state=shown) as endpoints:
        status, body = await get(endpoints.port, "/debug/state", address)
    assert status == 200
    assert json.loads(body) == {"governor": {"waiting": 0}}


@pytest.mark.parametrize("path", ["/debug/state", "/debug/profile?seconds=1"])
async def test_the_state_is_not_served_to_another_address(
    path: str, monkeypatch: pytest.MonkeyPatch, own_address: str
) -> None:
    if not own_address:  # a machine without a network: the peer's address is all that can be changed
        monkeypatch.setattr(asyncio.StreamWriter, "get_extra_info", lambda *_: ("10.1.2.3", 9))
    profiler = Profiler()
    async with opened(EVERYWHERE, state=shown, profile=profiler.sample) as endpoints:
        status, body = await get(endpoints.port, path, own_address or "127.0.0.1")
    assert status in {403, 404}
    assert "governor" not in body


async def test_without_a_state_function_the_page_does_not_exist() -> None:
    async with opened("127.0.0.1", healthz=lambda: "Active") as endpoints:
        assert (await get(endpoints.port, "/debug/state"))[0] == 404
        assert (await get(endpoints.port, "/debug/profile"))[0] == 404


def busy_by_this_name() -> None:
    for _ in range(20_000):
        pass


async def test_a_profile_names_the_functions_of_the_loop() -> None:
    async with opened("127.0.0.1", profile=Profiler().sample) as endpoints:
        asked = asyncio.create_task(get(endpoints.port, "/debug/profile?seconds=1"))
        while not asked.done():
            busy_by_this_name()
            await asyncio.sleep(0)
        status, body = await asked
    assert status == 200
    assert "test_debug_pages.busy_by_this_name" in body
    stack, _, count = body.splitlines()[0].rpartition(" ")
    assert ";" in stack
    assert int(count) > 0


async def test_a_client_that_disconnects_ends_its_profile() -> None:
    async with opened("127.0.0.1", profile=Profiler().sample) as endpoints:
        _, writer = await asyncio.open_connection("127.0.0.1", endpoints.port)
        writer.write(b"GET /debug/profile?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(60):
            await endpoints.stop()
