"""The server of the public names: the host selects the service, and no other host is served."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.public_names import PublicNames
from podidentity_sandbox.serving import FaultyService


class Named(FaultyService):
    """Answers with its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name)


@pytest.fixture
async def names() -> AsyncIterator[PublicNames]:
    server = PublicNames({("arm.test", "old-arm.test"): Named("arm"), ("*.blob.test",): Named("storage")})
    await server.start()
    yield server
    await server.stop()


async def ask(names: PublicNames, host: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(names.url, headers={"Host": host}) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("arm.test", "arm"),
        ("old-arm.test", "arm"),
        ("ARM.test:443", "arm"),
        ("one.blob.test", "storage"),
        ("two.blob.test", "storage"),
    ],
)
async def test_the_host_selects_the_service(names: PublicNames, host: str, service: str) -> None:
    assert await ask(names, host) == (200, service)
    assert names.knows(host.lower().removesuffix(":443"))


@pytest.mark.parametrize("host", ["test", "blob.test", ".blob.test", "a.b.blob.test", "arm.test.evil", "x.arm.test"])
async def test_another_host_has_no_service(names: PublicNames, host: str) -> None:
    assert (await ask(names, host))[0] == 421
    assert not names.knows(host)
