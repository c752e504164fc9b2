"""Two NMI processes of one node in a sandbox, and clients that send requests during a handover."""

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

from nmi.handover.start_signal import is_given
from podidentity_sandbox.processes import Program
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import NODE
from tests.integration.test_nmi_drains import PATH
from tests.support.waiting import until

CLIENTS = 4
"""Of `sending`."""
PAUSE_SECONDS = 0.001
"""Between two requests of a client: without it the clients would take most of the time of two cores from the NMI that
starts. With it they send some 2,000 requests a second.
"""
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
            time.sleep(PAUSE_SECONDS)
            if not keep:
                connection.close()
                connection = connect()
        connection.close()

    @property
    def count(self) -> int:
        return sum(self.statuses.values())


@contextmanager
def sending(connect: Callable[[], http.client.HTTPConnection], path: str = PATH) -> Iterator[Clients]:
    """Send requests from CLIENTS threads: half of them on kept connections, half on new ones."""
    clients = Clients()
    threads = [
        threading.Thread(target=clients.run, args=(connect, path), kwargs={"keep": each % 2 == 0})
        for each in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join(30)


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

    await until(seen)


async def signal_given(path: str) -> None:
    """Wait until an NMI has given its start signal at *path*, which it does just after the line in its log."""

    async def given() -> bool:
        return is_given(path)

    await until(given)


async def served(clients: Clients, more: int = 1) -> None:
    """Wait until *clients* have received *more* further responses."""
    before = clients.count
    await until(lambda: clients.count >= before + more)


async def end(program: Program, number: signal.Signals = signal.SIGTERM) -> int:
    program.signal(number)
    async with asyncio.timeout(20):
        return await program.wait()
