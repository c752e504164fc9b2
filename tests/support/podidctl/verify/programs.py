"""The canary's program as the kubelet runs it, with other addresses, and servers that it finds."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from _native.index import Index
from nmi.identity.pod_entry import PodEntry
from nmi.refusal import Reason, Refusal
from nmi.server.metrics import ServerMetrics
from nmi.server.policy import ServerPolicy
from nmi.server.server import Server
from podidctl.verify import canary
from podidctl.verify.pod import program
from podidentity.telemetry.logs import BoundedRepeats, TextFormatter
from podidentity_sandbox.serving import restartable_listener
from tests.support.nmi.server.fakes import FakeProxy, FakeTokenService
from tests.support.nmi.server.limits import limits_with

LOCAL = "127.0.0.1"
NOTHING_ASSIGNED = Refusal(Reason.NOTHING_ASSIGNED, "No identity.", "none")


class Nmi:
    """NMI's token server on loopback, with its log as NMI writes it."""

    def __init__(self, policy: ServerPolicy, entry: PodEntry | None) -> None:
        self.index = Index()
        if entry is not None:
            self.index.put(LOCAL, entry.record)
        self.proxy = FakeProxy()
        self.token_service = FakeTokenService(lambda _: NOTHING_ASSIGNED)
        self.output = io.StringIO()
        self.listener = restartable_listener(LOCAL)
        self.port = int(self.listener.getsockname()[1])
        self.server = Server(
            limits=limits_with(),
            policy=policy,
            index=self.index,
            token_service=self.token_service,
            proxy=self.proxy,
            measures=ServerMetrics(),
        )

    @property
    def log(self) -> str:
        return self.output.getvalue()


@asynccontextmanager
async def running_nmi(policy: ServerPolicy | None = None, entry: PodEntry | None = None) -> AsyncIterator[Nmi]:
    """Run NMI's token server. *entry* is the pod at 127.0.0.1."""
    nmi = Nmi(policy or ServerPolicy(), entry)
    logger = logging.getLogger("nmi")
    handler, level = logging.StreamHandler(nmi.output), logger.level
    handler.setFormatter(TextFormatter())
    handler.addFilter(BoundedRepeats())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    await nmi.server.start(nmi.listener)
    try:
        yield nmi
    finally:
        await nmi.server.aclose()
        nmi.listener.close()
        logger.removeHandler(handler)
        logger.setLevel(level)


def in_place_of(
    result: Path, pauses: str = "(0.0, 0.0, 0.0, 0.0, 0.0)", request_seconds: float = 5.0, *, text: str = ""
) -> str:
    """Return the canary's program (or *text*, equal to it) with its result in *result*, and with shorter times."""
    text = text or program()
    for present, replacement in (
        (str(canary.RESULT), str(result)),
        (str(canary.PAUSES_SECONDS), pauses),
        (f"REQUEST_SECONDS: Final = {canary.REQUEST_SECONDS}", f"REQUEST_SECONDS: Final = {request_seconds}"),
    ):
        assert text.count(present) == 1, present
        text = text.replace(present, replacement)
    return text


async def run_canary(
    folder: Path, port: int, request_id: str = "verify-x", *, host: str = LOCAL, text: str = ""
) -> tuple[int, str, list[dict[str, Any]]]:
    """Run the program. Return its exit code, its output and its result."""
    result = folder / "result"
    command: Sequence[str] = (sys.executable, "-I", "-c", text or in_place_of(result), host, str(port), request_id)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/", env={}
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    objects = await asyncio.to_thread(result.read_text) if await asyncio.to_thread(result.exists) else "[]"
    return process.returncode, output.decode(), json.loads(objects)
