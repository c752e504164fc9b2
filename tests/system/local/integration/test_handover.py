"""A successor takes over from a real NMI, and no request fails, also if either end dies at a step of the handover."""

import asyncio
import http.client
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from nmi.handover.channel import Channel
from nmi.handover.messages import VERSIONS, Hello, Message, Retired, SocketName, Sockets, Take, Taken, Welcome
from nmi.handover.protocol import Role
from nmi.handover.socket_path import connect_to, listen_at
from nmi.handover.start_signal import is_given
from podidentity.resources import PODS
from podidentity_sandbox.command_lines import ProgramPorts
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import Settings
from tests.support.identity_requests import NODE, TOKEN_TARGET, bind, end, logged, request_held, run_pod, state
from tests.support.waiting import until

CLIENTS: Final = 4
"""Of `sending`."""
PAUSE_SECONDS: Final = 0.001
"""Between two requests of a client: without it the clients would take most of the time of two cores from the NMI that
starts. With it they send some 2,000 requests a second.
"""
PROBE_STATUS: Final = 400
"""Of a token request without the header Metadata, which NMI answers without an upstream call."""
TAKEN_OVER: Final = "this NMI has taken over"
NAMES: Final[tuple[SocketName, ...]] = ("listener", "probes", "metrics")
RECEIVE: Final = None
"""The step of a peer that receives a message."""


@dataclass
class Clients:
    """Threads that send requests, each on a new connection or all on one, and what they received."""

    statuses: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, connect: Callable[[], http.client.HTTPConnection], *, keep: bool) -> None:
        connection = connect()
        while not self.stop.is_set():
            try:
                connection.request("GET", TOKEN_TARGET, headers={})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{'kept' if keep else 'new'}: {error!r}")
                connection.close()
                connection = connect()
                continue
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            time.sleep(PAUSE_SECONDS)
            if not keep:
                connection.close()
                connection = connect()
        connection.close()

    async def served(self, more: int = 1) -> None:
        """Wait for *more* further responses."""
        before = sum(self.statuses.values())
        await until(lambda: sum(self.statuses.values()) >= before + more)


@contextmanager
def sending(sandbox: Sandbox) -> Iterator[Clients]:
    """Send requests from CLIENTS threads: half of them on kept connections, half on new ones."""
    clients, connect = Clients(), connector(sandbox)
    threads = [
        threading.Thread(target=clients.run, args=(connect,), kwargs={"keep": each % 2 == 0}) for each in range(CLIENTS)
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


async def test_no_request_fails_during_ten_handovers(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        with sending(sandbox) as clients:
            for number in range(10):
                former = sandbox.nmis[NODE].program
                await sandbox.start_nmi(NODE)
                await logged(sandbox, TAKEN_OVER, number + 1)
                assert await end(former) == 0
            await clients.served()
        assert clients.failures == []
        assert set(clients.statuses) == {PROBE_STATUS}


async def test_sigterm_while_a_successor_synchronises_waits_for_it(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi = sandbox.nmis[NODE].program
        with sending(sandbox) as clients:
            await sandbox.start_nmi(NODE)
            await logged(sandbox, "a successor of this NMI synchronises")
            assert await end(nmi) == 0
            await clients.served()
        assert clients.failures == []


async def test_silent_and_kept_connections_survive_a_handover_and_its_return(directory: Path) -> None:
    # By default NMI closes these connections after ten seconds, and the start of its successor may take as long.
    async with sandboxed(directory, "--first-byte-timeout=60s", "--head-timeout=60s") as sandbox:
        nmi = sandbox.nmis[NODE].program

        def connections() -> dict[str, http.client.HTTPConnection]:
            opened = {each: connector(sandbox)() for each in ("silent", "kept", "half")}
            for each in opened.values():
                each.connect()
            opened["kept"].request("GET", TOKEN_TARGET)
            opened["kept"].getresponse().read()
            opened["half"].send(f"GET {TOKEN_TARGET} HT".encode())
            return opened

        def finish(opened: dict[str, http.client.HTTPConnection]) -> None:
            opened["half"].send(b"TP/1.1\r\nHost: a\r\n\r\n")
            answer = http.client.HTTPResponse(opened["half"].sock, method="GET")
            answer.begin()
            answer.read()
            assert answer.status == PROBE_STATUS, "half"

        def answered(opened: dict[str, http.client.HTTPConnection]) -> None:
            for name in ("silent", "kept"):
                opened[name].request("GET", TOKEN_TARGET)
                answer = opened[name].getresponse()
                answer.read()
                assert answer.status == PROBE_STATUS, name
            for each in opened.values():
                each.close()

        former = await asyncio.to_thread(connections)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, TAKEN_OVER)
        await asyncio.to_thread(finish, former)
        await asyncio.to_thread(answered, former)
        latter = await asyncio.to_thread(connections)
        ended = asyncio.create_task(end(sandbox.nmis[NODE].program))
        await logged(sandbox, "the former NMI serves this node again")
        await asyncio.to_thread(finish, latter)
        assert await ended == 0, "it ends with its last request"
        await asyncio.to_thread(answered, latter)
        assert await end(nmi) == 0


async def test_a_held_request_is_answered_by_the_former_nmi(directory: Path) -> None:
    async with sandboxed(directory, "--max-hold=60s", "--drain-timeout=60s") as sandbox:
        await run_pod(sandbox, "waiting", {"aadpodidbinding": "late"})
        pod = await sandbox.cluster.client.get(PODS, "default", "waiting")
        former = sandbox.nmis[NODE].program
        connection = connector(sandbox, pod.status.pod_ip)()
        connection.request("GET", TOKEN_TARGET, headers={"Metadata": "true"})
        await request_held(sandbox)
        await sandbox.start_nmi(NODE)
        await logged(sandbox, TAKEN_OVER)
        ended = asyncio.create_task(end(former))
        await bind(sandbox, "late")
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
        await logged(sandbox, "a port is in use")
        # Otherwise a rollout would never end the former NMI.
        await until(lambda: asyncio.to_thread(is_given, str(directory / "started")))
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
        await logged(sandbox, TAKEN_OVER)
        await sandbox.nmi_active(NODE)
        with sending(sandbox) as clients:
            await clients.served(10)
            assert await end(former.program) == 0
            await clients.served()
        assert clients.failures == []


# Ends that die. The kernel closes the sockets of a killed process, and so do these peers.


def ports_of(sandbox: Sandbox) -> list[int]:
    nmi = sandbox.nmis[NODE]
    return [int(nmi.url.rpartition(":")[2]), nmi.probe_port, nmi.metrics_port]


async def converse(channel: Channel, steps: Sequence[Message | None], sockets: Sequence[socket.socket] = ()) -> None:
    """Send and receive the messages of *steps*, the *sockets* with the message for them, and end without a word."""
    received: list[int] = []
    for message in steps:
        if message is RECEIVE:
            received += (await channel.receive())[1]
        else:
            passed = [each.fileno() for each in sockets] if isinstance(message, Sockets) else []
            await channel.send(message, passed)
    channel.close()
    for descriptor in received:
        os.close(descriptor)


async def test_a_successor_that_dies_at_any_step_costs_no_request(directory: Path) -> None:
    async with sandboxed(directory) as sandbox:
        nmi, (listen, probe, metrics) = sandbox.nmis[NODE].program, ports_of(sandbox)
        hello = Hello(
            versions=VERSIONS,
            release="test",
            listen_address="127.0.0.1",
            listen_port=listen,
            probe_port=probe,
            metrics_port=metrics,
        )
        steps = (hello, RECEIVE, Take(), RECEIVE, Taken(), RECEIVE)
        with sending(sandbox) as clients:
            for count in range(len(steps) + 1):
                await until(lambda: state(sandbox), "NMI serves", holds=lambda it: it["handover"] == "serving")
                sock = await until(lambda: asyncio.to_thread(connect_to, directory / "nmi.sock"))
                assert sock is not None
                await converse(Channel(sock, Role.SUCCESSOR), steps[:count])
                await clients.served(100)
                assert nmi.returncode is None, count
                assert clients.failures == [], count
            # After these, a real successor takes over.
            await sandbox.start_nmi(NODE)
            await logged(sandbox, TAKEN_OVER)
            assert await end(nmi) == 0
        assert clients.failures == []


async def test_a_predecessor_that_dies_at_any_step_does_not_prevent_its_successor(directory: Path) -> None:
    welcome = Welcome(version=max(VERSIONS), release="test", sockets=NAMES)
    steps = (RECEIVE, welcome, RECEIVE, Sockets(NAMES), RECEIVE, Retired())
    async with sandboxed(directory) as sandbox:
        for count in range(len(steps) + 1):
            assert await end(sandbox.nmis[NODE].program) == 0
            addresses = zip(("127.0.0.1", "", ""), ports_of(sandbox), strict=True)
            sockets = [socket.create_server(address) for address in addresses]
            listener, _ = await asyncio.to_thread(listen_at, directory / "nmi.sock")
            await sandbox.start_nmi(NODE)
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            await converse(Channel(accepted, Role.PREDECESSOR), steps[:count], sockets)
            for each in (listener, *sockets):
                each.close()
            await sandbox.nmi_active(NODE)
            with sending(sandbox) as clients:
                await clients.served(100)
            assert clients.failures == [], count
