"""A real `python -m nmi` in front of an API server that is unavailable when it starts, through a proxy of faults."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podidentity_sandbox.faults import FaultProxy
from podidentity_sandbox.kubeapi.server import KubeApi
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT
from tests.support.waiting import LIMIT_SECONDS, until


@dataclass
class Nmi:
    """One running process, its pages read from this machine."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def page(self, path: str) -> tuple[int, str]:
        """Return status and text; status 0 if no program listens."""

        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return await asyncio.to_thread(fetch)

    async def until(self, path: str, holds: Callable[[int, str], bool]) -> None:
        """Wait for a page."""

        async def page() -> tuple[int, str]:
            assert self.process.returncode is None, self.read_log()
            return await self.page(path)

        await until(page, lambda: f"{path}\n{self.read_log()}", holds=lambda seen: holds(*seen))

    async def logged(self, text: str) -> None:
        await until(lambda: text in self.read_log(), self.read_log)

    async def active(self) -> None:
        await self.until("/healthz", lambda _status, text: text == "Active")

    def read_log(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read_log().splitlines()]

    async def stop(self) -> None:
        """Send SIGTERM. The end must be orderly."""
        self.process.terminate()
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await self.process.wait() == 0, self.read_log()


@dataclass
class Away:
    """The API server, the proxy before it, and the started processes."""

    folder: Path
    api: KubeApi
    proxy: FaultProxy
    started: list[Nmi] = field(default_factory=list)

    async def nmi(self, *flags: str, inside: Sequence[str] = ()) -> Nmi:
        """Start one; *inside* is the command that runs a program elsewhere."""
        ports = free_ports(3)
        log = self.folder / f"nmi-{len(self.started)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *inside,
                sys.executable,
                "-m",
                "nmi",
                "--node=n0",
                "--redirect=none",
                f"--kubeconfig={self.folder / 'kubeconfig'}",
                f"--nmi-port={ports[0]}",
                f"--http-probe-port={ports[1]}",
                f"--prometheus-port={ports[2]}",
                "--log-format=json",
                *flags,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"]},
                stdout=output,
                stderr=output,
            )
        made = Nmi(process, ports[1], log)
        self.started.append(made)
        return made


@asynccontextmanager
async def start_without_api_server(folder: Path) -> AsyncIterator[Away]:
    """An API server with our kinds behind a proxy; every process is ended at the end."""
    api = await asyncio.to_thread(KubeApi, ROOT / "deploy" / "crds")
    await api.start()
    proxy = FaultProxy("127.0.0.1", api.port)
    await proxy.start()
    text = api.kubeconfig().replace(f":{api.port}", f":{proxy.port}")
    (folder / "kubeconfig").write_text(text)
    away = Away(folder, api, proxy)
    try:
        yield away
    finally:
        for each in away.started:
            if each.process.returncode is None:
                each.process.kill()
                await each.process.wait()
        await proxy.stop()
        await api.stop()
