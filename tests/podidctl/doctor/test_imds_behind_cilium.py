"""The check of IMDS on a node whose programs Cilium redirects to NMI. A server on loopback replaces NMI or IMDS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from nmi.flag_table import RedirectMode
from nmi.settings import Settings
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.node_reader import _imds
from podidctl.verify.canary import NMI_ANSWER

ERROR = {"error": "not_found", "error_description": "No such path."}


@asynccontextmanager
async def answering(status: int, body: dict[str, Any], redirect: RedirectMode) -> AsyncIterator[Settings]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_get("/metadata/versions", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        yield Settings(node_name="n", metadata_ip="127.0.0.1", metadata_port=port, redirect=redirect)
    finally:
        await runner.cleanup()


async def test_nmis_own_answer_is_no_fault_with_cilium() -> None:
    async with answering(404, NMI_ANSWER, RedirectMode.CILIUM) as settings:
        assert "leads to NMI" in str(await _imds(settings))


@pytest.mark.parametrize(
    ("status", "body", "redirect"),
    [
        (404, NMI_ANSWER, RedirectMode.NONE),
        (404, ERROR, RedirectMode.CILIUM),
        (500, NMI_ANSWER, RedirectMode.CILIUM),
    ],
)
async def test_another_answer_is(status: int, body: dict[str, Any], redirect: RedirectMode) -> None:
    async with answering(status, body, redirect) as settings:
        assert isinstance(await _imds(settings), ReadFailure)
