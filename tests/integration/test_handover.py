"""Tests of two real NMI processes of one node: the successor takes over, and no request fails."""

import asyncio
import http.client
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podidentity_sandbox.processes import Program
from podidentity_sandbox.sandbox import Sandbox, Settings
from tests.integration.test_nmi_drains import PATH, POD, metrics
from tests.integration.walking import NODE, eventually

PROBE_STATUS = 400
"""Of a token request without the header Metadata, which NMI answers without an upstream call."""


@dataclass
class Clients:
    """Threads that send requests, each on a new connection or all on one, and what they received."""

    statuses: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, connect: Callable[[], http.client.HTTPConnection], path: str, *, keep: bool) -> None:
        connection = connect()
        while not self.stop.is_set():
            try:
                connection.request("GET", path, headers={})
                answer = connection.getresponse()
                answer.read()
                status = f"{answer.status}"
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{'kept' if keep else 'new'}: {error!r}")
                connection.close()
                connection = connect()
                continue
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if not keep:
                connection.close()
                connection = connect()
        connection.close()

    @property
    def count(self) -> int:
        return sum(self.statuses.values())


@contextmanager
def sending(connect: Callable[[], http.client.HTTPConnection], path: str = PATH) -> Iterator[Clients]:
    """Send requests from four threads: two on kept connections, two on new ones."""
    clients = Clients()
    threads = [threading.Thread(target=clients.run, args=(connect, path), kwargs={"keep": each % 2 == 0}) for each in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@asynccontextmanager
async def sandboxed(directory: Path, *flags: str) -> AsyncIterator[Sandbox]:
    """Run the sandbox without namespaces, with one node whose NMI passes on."""
    nmi_flags = [f"--handover-socket={directory / 'nmi.sock'}", *flags]
    async with Sandbox(Settings(namespaces=False, environment=os.environ, nmi_flags=nmi_flags)) as sandbox:
        yield sandbox


def connector(sandbox: Sandbox, source: str = "127.0.0.1") -> Callable[[], http.client.HTTPConnection]:
    host, _, port = sandbox.nmis[NODE].url.removeprefix("http://").partition(":")
    return lambda: http.client.HTTPConnection(host, int(port), timeout=20, source_address=(source, 0))


async def logged(sandbox: Sandbox, text: str, times: int) -> None:
    """Wait until NMI's log contains *text* at least *times* times."""

    async def seen() -> bool:
        return (await asyncio.to_thread((sandbox.folder / f"nmi-{NODE}.log").read_text)).count(text) >= times

    await eventually(seen)


async def end(program: Program, number: signal.Signals = signal.SIGTERM) -> int:
    program.signal(number)
    async with asyncio.timeout(20):
        return await program.wait()


async def test_no_request_fails_during_ten_handovers(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        with sending(connector(sandbox)) as clients:
            for number in range(10):
                former = sandbox.nmis[NODE].program
                await sandbox.start_nmi(NODE)
                await logged(sandbox, "this NMI has taken over", number + 1)
                assert await end(former) == 0
            before = clients.count
            await asyncio.sleep(0.3)
            assert clients.count > before
        assert clients.failures == []
        assert set(clients.statuses) == {str(PROBE_STATUS)}
