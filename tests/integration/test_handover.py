"""Tests of two real NMI processes of one node: the successor takes over, and no request fails."""

import asyncio
import http.client
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nmi.handover.start_signal import is_given
from podidentity.resources import PODS
from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.command_lines import ProgramPorts
from podidentity_sandbox.processes import Program, python
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import Settings
from tests.integration.continuous_client import asking
from tests.integration.handover_peer import PREDECESSOR_STEPS, SUCCESSOR_STEPS
from tests.integration.identity_requests import NODE, binding, eventually, identity
from tests.integration.node_tables import JUMP, saved
from tests.integration.test_nmi_drains import PATH, POD, metrics

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


class Peers:
    """Processes that play one end of a handover and kill themselves at a step."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, step: str) -> None:
        """Start the next one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n".encode())
        await self._process.stdin.drain()

    async def line(self) -> str:
        """Return the next line of their output: `listening`, or the number of the signal that ended one."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def peers(sandbox: Sandbox, role: str, directory: Path) -> AsyncIterator[Peers]:
    nmi = sandbox.nmis[NODE]
    ports = [nmi.url.rpartition(":")[2], str(nmi.probe_port), str(nmi.metrics_port)]
    command = python("tests.integration.handover_peer", role, str(directory / "nmi.sock"), *ports)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Peers(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # its input ends, and it does too
        await process.wait()


KILLED = str(signal.SIGKILL.value)


async def test_a_successor_that_dies_at_any_step_costs_no_request(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, peers(sandbox, "successor", directory) as successors:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            for step in SUCCESSOR_STEPS:
                await successors.begin(step)
                assert await successors.line() == KILLED, step
                before = clients.count
                async with asyncio.timeout(20):
                    while clients.count < before + 100:
                        await asyncio.sleep(0.02)
                assert nmi.returncode is None, step
                assert clients.failures == [], step
            # A real successor follows all the dead ones.
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", 1)
            assert await end(nmi) == 0
        assert clients.failures == []


async def test_a_predecessor_that_dies_at_any_step_does_not_prevent_its_successor(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, peers(sandbox, "predecessor", directory) as predecessors:
        for step in PREDECESSOR_STEPS:
            assert await end(sandbox.nmis[NODE].program) == 0
            await predecessors.begin(step)
            assert await predecessors.line() == "listening"
            await sandbox.start_nmi(NODE)
            assert await predecessors.line() == KILLED, step
            await sandbox.nmi_active(NODE)
            with sending(connector(sandbox)) as clients:
                async with asyncio.timeout(20):
                    while clients.count < 100:
                        await asyncio.sleep(0.02)
            assert clients.failures == [], step


async def test_sigterm_of_a_successor_that_is_not_ready_changes_nothing(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "a successor of this NMI synchronises", 1)
            await end(sandbox.nmis[NODE].program)
            await asyncio.sleep(0.3)
        assert clients.failures == []
        assert await end(nmi) == 0


async def test_the_start_signal_follows_the_takeover(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        signal_path = str(directory / "started")
        former = sandbox.nmis[NODE].program
        sandbox.settings = replace(
            sandbox.settings, nmi_flags=[*sandbox.settings.nmi_flags, f"--start-signal={signal_path}"]
        )
        former.signal(signal.SIGSTOP)  # shorter than a step of the handover may take
        await sandbox.start_nmi(NODE)
        await asyncio.sleep(3)
        assert not is_given(signal_path)
        former.signal(signal.SIGCONT)
        await logged(sandbox, "this NMI has taken over", 1)
        assert is_given(signal_path)
        assert await end(former) == 0


async def test_sigterm_while_a_successor_synchronises_waits_for_it(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        with sending(connector(sandbox)) as clients:
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "a successor of this NMI synchronises", 1)
            assert await end(nmi) == 0
            before = clients.count
            await asyncio.sleep(0.5)
            assert clients.count > before
        assert clients.failures == []


async def test_the_former_nmi_serves_again_when_its_successor_is_killed(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE]
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await end(sandbox.nmis[NODE].program, signal.SIGKILL)
        await logged(sandbox, "NMI serves again", 1)
        with sending(connector(sandbox)) as clients:
            await asyncio.sleep(0.3)
            # The next start of the killed program is just another successor.
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", 2)
            assert await end(nmi.program) == 0
            await asyncio.sleep(0.3)
        assert clients.failures == []
        assert clients.count > 10


async def test_a_successor_that_stops_gives_back_to_the_former_nmi(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        clients = Clients()
        thread = threading.Thread(target=clients.run, args=(connector(sandbox), PATH), kwargs={"keep": False})
        thread.start()
        assert await end(sandbox.nmis[NODE].program) == 0
        before = clients.count
        await asyncio.sleep(0.5)
        clients.stop.set()
        await asyncio.to_thread(thread.join)
        assert clients.failures == []
        assert clients.count > before
        assert await end(nmi) == 0


async def test_silent_and_kept_connections_survive_a_handover_and_its_return(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program

        def connections() -> dict[str, http.client.HTTPConnection]:
            opened = {each: connector(sandbox)() for each in ("silent", "kept", "half")}
            for each in opened.values():
                each.connect()
            opened["kept"].request("GET", PATH)
            opened["kept"].getresponse().read()
            opened["half"].send(f"GET {PATH} HT".encode())
            return opened

        def answered(opened: dict[str, http.client.HTTPConnection]) -> None:
            for name in ("silent", "kept"):
                opened[name].request("GET", PATH)
                answer = opened[name].getresponse()
                answer.read()
                assert answer.status == PROBE_STATUS, name
            opened["half"].send(b"TP/1.1\r\nHost: a\r\n\r\n")
            answer = http.client.HTTPResponse(opened["half"].sock, method="GET")
            answer.begin()
            answer.read()
            assert answer.status == PROBE_STATUS, "half"
            for each in opened.values():
                each.close()

        former = await asyncio.to_thread(connections)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await asyncio.to_thread(answered, former)
        latter = await asyncio.to_thread(connections)
        ended = asyncio.create_task(end(sandbox.nmis[NODE].program))
        await logged(sandbox, "the former NMI serves this node again", 1)
        await asyncio.sleep(0.2)  # the successor stops
        await asyncio.to_thread(answered, latter)
        assert await ended == 0
        assert await end(nmi) == 0


async def test_a_held_request_is_answered_by_the_former_nmi(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        await sandbox.cluster.apply(POD)
        address = ""

        async def has_address() -> bool:
            nonlocal address
            address = (await sandbox.cluster.client.get(PODS, "default", "waiting")).status.pod_ip
            return bool(address)

        await eventually(has_address)
        former = sandbox.nmis[NODE].program
        connection = connector(sandbox, address)()
        connection.request("GET", PATH, headers={"Metadata": "true"})
        port = sandbox.nmis[NODE].metrics_port

        async def is_held() -> bool:
            return "aadpodidentity_nmi_held_requests 1" in await asyncio.to_thread(metrics, port)

        await eventually(is_held)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        ended = asyncio.create_task(end(former))
        known = sandbox.azure.directory.add_identity(identity_id("late"))
        await sandbox.cluster.apply(identity("late", type=0, resourceID=known.resource_id, clientID=known.client_id))
        await sandbox.cluster.apply(binding("late", "nothing-yet"))
        answer = await asyncio.to_thread(connection.getresponse)
        body = await asyncio.to_thread(answer.read)
        assert answer.status == 200, body
        connection.close()
        assert await ended == 0


async def test_without_a_handover_socket_of_the_former_nmi_the_next_one_waits_for_its_ports(directory: Path) -> None:
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        former = sandbox.nmis[NODE].program
        flags = [f"--handover-socket={directory / 'nmi.sock'}", f"--start-signal={directory / 'started'}"]
        sandbox.settings = replace(sandbox.settings, nmi_flags=flags)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "a port is in use", 1)
        # Otherwise a rollout would never end the former NMI.
        assert is_given(str(directory / "started"))
        assert await end(former) == 0
        await sandbox.nmi_active(NODE)
        await logged(sandbox, "nmi active", 2)
        text = (sandbox.folder / f"nmi-{NODE}.log").read_text()
        assert text.count("a port is in use") == 1


async def test_with_other_ports_the_successor_binds_them_itself(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        former = sandbox.nmis[NODE]
        sandbox._ports[NODE] = ProgramPorts(*free_ports(3))
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 1)
        await sandbox.nmi_active(NODE)
        with sending(connector(sandbox)) as clients:
            await asyncio.sleep(0.2)
            assert await end(former.program) == 0
            await asyncio.sleep(0.2)
        assert clients.failures == []
        assert clients.count > 10


@pytest.mark.root
async def test_no_request_reaches_imds_during_handovers_and_the_last_nmi_removes_the_rule(directory: Path) -> None:
    flags = [f"--handover-socket={directory / 'nmi.sock'}", "--require-redirected"]
    async with (
        Sandbox(Settings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox,
        asking(sandbox) as asker,
    ):
        for number in range(5):
            former = sandbox.nmis[NODE].program
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "this NMI has taken over", number + 1)
            assert saved(sandbox).count(JUMP) == 1
            assert await end(former) == 0
            assert saved(sandbox).count(JUMP) == 1
        # A rollout that is undone: the successor stops, and the former NMI serves again.
        former = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "this NMI has taken over", 6)
        assert await end(sandbox.nmis[NODE].program) == 0
        await asker.tokens_flow()
        assert saved(sandbox).count(JUMP) == 1
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers} == {"200"}
        assert await end(former) == 0
        assert JUMP not in saved(sandbox)
