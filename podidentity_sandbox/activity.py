"""Probes of MIC and NMI: both report at /healthz whether they are Active."""

import asyncio
import http.client
from collections.abc import Callable
from typing import Final

from podidentity_sandbox.processes import Program

ACTIVE_SECONDS: Final = 30.0  # both programs take about a second; a busy machine takes longer
POLL_SECONDS: Final = 0.05
PROBE_SECONDS: Final = 2.0


class NotActiveError(Exception):
    """A program runs and does not become Active. The message contains its last line."""


def is_active(port: int) -> bool:
    """Return whether a program's /healthz returns Active."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read(100).strip() == b"Active"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def until_active(program: Program, probe: Callable[[], bool]) -> None:
    """Wait until *probe*, which blocks, is true. Raise NotActiveError, or ProgramError if the program ends."""
    try:
        async with asyncio.timeout(ACTIVE_SECONDS):
            while True:
                if program.returncode is not None:
                    raise program.exit_error()
                if await asyncio.to_thread(probe):
                    return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as late:
        last = (program.output().strip().splitlines() or ["no output"])[-1][-300:]
        raise NotActiveError(
            f"{program.name} is not Active after {ACTIVE_SECONDS:g} s; its last line: {last}"
        ) from late
