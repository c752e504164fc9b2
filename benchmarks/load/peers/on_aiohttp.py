"""The comparison server as an aiohttp application on uvloop. Run as a program."""

import asyncio
from typing import Final

import uvloop
from aiohttp import web

from benchmarks.load.peers.job import CONTENT_TYPE, TOKEN_PATH, Job, arguments

BACKLOG: Final = 4096


def application(job: Job) -> web.Application:
    """Return an application with the token's route."""

    async def token(request: web.Request) -> web.Response:
        metadata = request.headers.get("Metadata", "")
        status, body = job.answer(request.remote or "", metadata, request.query)
        return web.Response(status=status, body=body, content_type=CONTENT_TYPE)

    made = web.Application()
    made.router.add_get(TOKEN_PATH, token)
    return made


async def serve() -> None:
    given = arguments()
    runner = web.AppRunner(application(given.job), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given.port, backlog=BACKLOG).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
