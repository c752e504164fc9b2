"""A real `python -m nmi` in front of an API server that is unavailable when it starts, through a proxy of faults."""

import asyncio
import http.client
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podidentity_sandbox.cluster import CRDS, read_documents
from podidentity_sandbox.kubeapi.server import KubeApi
from podidentity_sandbox.network import ExecutionContext
from podidentity_sandbox.processes import Program, python
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT
from tests.support.fault_proxy import FaultProxy
from tests.support.identity_requests import end
from tests.support.waiting import LIMIT_SECONDS, until
from tests.system.local.integration.limited_nmi import RUN


@dataclass
class Nmi:
    """One running process, its pages read from this machine."""

    program: Program
    port: int

    def page(self, path: str) -> tuple[int, str]:
        """Return status and text. Blocks."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    async def until(self, path: str, holds: Callable[[int, str], bool]) -> str:
        """Wait for a page. Return its text."""
        _, text = await until(
            lambda: asyncio.to_thread(self.page, path), self.log, holds=lambda seen: holds(*seen), ignoring=OSError
        )
        return text

    async def logged(self, text: str) -> None:
        await until(lambda: text in self.log(), self.log)

    async def active(self) -> None:
        await self.until("/healthz", lambda _status, text: text == "Active")

    def log(self) -> str:
        return self.program.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines()]

    async def stop(self) -> None:
        """Send SIGTERM. The end must be orderly."""
        assert await end(self.program) == 0, self.log()


@dataclass
class Away:
    """The API server, the proxy before it, and the started processes."""

    folder: Path
    api: KubeApi
    proxy: FaultProxy
    started: list[Program] = field(default_factory=list)

    @property
    def kubeconfig(self) -> str:
        return f"--kubeconfig={self.folder / 'kubeconfig'}"

    async def nmi(self, *flags: str, inside: Sequence[str] = (), change: str = "") -> Nmi:
        """Start one; *inside* is the command that runs a program elsewhere, *change* a line of Python before NMI."""
        requests, probes, metrics = free_ports(3)
        ports = (f"--nmi-port={requests}", f"--http-probe-port={probes}", f"--prometheus-port={metrics}")
        usual = ("--node=n0", "--redirect=none", self.kubeconfig, *ports, "--log-format=json")
        log = self.folder / f"nmi-{len(self.started)}.log"
        context = ExecutionContext("", tuple(inside))
        program_argv = [sys.executable, "-c", f"{change}\n{RUN}"] if change else python("nmi")
        argv, environment = [*program_argv, *usual, *flags], {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        program = await Program.start("nmi", argv, context=context, log=log, environment=environment)
        self.started.append(program)
        return Nmi(program, probes)


@asynccontextmanager
async def start_without_api_server(folder: Path) -> AsyncIterator[Away]:
    """An API server with our kinds behind a proxy; every process is ended at the end."""
    api = KubeApi(await asyncio.to_thread(read_documents, CRDS))
    await api.start()
    proxy = FaultProxy("127.0.0.1", api.port)
    await proxy.start()
    (folder / "kubeconfig").write_text(api.kubeconfig().replace(f":{api.port}", f":{proxy.port}"))
    away = Away(folder, api, proxy)
    try:
        yield away
    finally:
        for program in away.started:
            await program.stop(0)
        await proxy.stop()
        await api.stop()
