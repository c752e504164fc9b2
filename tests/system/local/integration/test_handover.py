"""A successor takes over from a real NMI, and no request fails, also if either end dies at a step of the handover."""

import asyncio
import http.client
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
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
from podidentity_sandbox.settings import SandboxSettings
from tests.support.identity_requests import NODE, TOKEN_TARGET, bind, end, logged, request_held, run_pod, state
from tests.support.waiting import LIMIT_SECONDS, until
from tests.system.local.integration.limited_nmi import SECONDS, changed_nmi

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
Connection = http.client.HTTPConnection


def probe(connection: Connection) -> None:
    """Send a request, and assert that it is answered."""
    connection.request("GET", TOKEN_TARGET)
    answered(connection.getresponse())


def answered(response: http.client.HTTPResponse) -> None:
    response.read()
    assert response.status == PROBE_STATUS


class Clients:
    """Threads that send requests, each on a new connection or all on one, until one fails."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.connect = connect
        self.count = 0
        self.stop = threading.Event()

    def run(self, *, keep: bool) -> None:
        """Blocks. Raises the error of a request."""
        with closing(self.connect()) as connection:
            while not self.stop.wait(PAUSE_SECONDS):
                probe(connection)
                self.count += 1
                if not keep:
                    connection.close()  # the next request opens another one

    async def served(self, more: int = 1) -> None:
        """Wait for *more* further responses."""
        before = self.count
        await until(lambda: self.count >= before + more)


@asynccontextmanager
async def sending(sandbox: Sandbox) -> AsyncIterator[Clients]:
    """Send requests from CLIENTS threads: half of them on kept connections, half on new ones. None may fail."""
    clients = Clients(connector(sandbox))
    threads = [asyncio.create_task(asyncio.to_thread(clients.run, keep=number % 2 == 0)) for number in range(CLIENTS)]
    try:
        yield clients
    finally:
        clients.stop.set()
        await asyncio.gather(*threads)


@asynccontextmanager
async def sandboxed(directory: Path, *flags: str) -> AsyncIterator[Sandbox]:
    """Run the sandbox without namespaces, with one node whose NMI passes on."""
    nmi_flags = [f"--handover-socket={directory / 'nmi.sock'}", *flags]
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=nmi_flags)) as sandbox:
        yield sandbox


def connector(sandbox: Sandbox, source: str = "127.0.0.1") -> Callable[[], Connection]:
    host, _, port = sandbox.nmis[NODE].url.removeprefix("http://").partition(":")
    return lambda: Connection(host, int(port), timeout=LIMIT_SECONDS, source_address=(source, 0))


async def test_no_request_fails_during_ten_handovers(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, sending(sandbox) as clients:
        for number in range(10):
            former = sandbox.nmis[NODE].program
            await sandbox.start_nmi(NODE)
            await logged(sandbox, TAKEN_OVER, number + 1)
            assert await end(former) == 0
        await clients.served()


async def test_sigterm_while_a_successor_synchronises_waits_for_it(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, sending(sandbox) as clients:
        nmi = sandbox.nmis[NODE].program
        await sandbox.start_nmi(NODE)
        await logged(sandbox, "a successor of this NMI synchronises")
        assert await end(nmi) == 0
        await clients.served()


class Opened:
    """Connections to an NMI: one that has sent nothing, one that has had a response, and one with half a request."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.silent, self.kept, self.half = (connect() for _ in range(3))
        self.silent.connect()
        probe(self.kept)
        self.half.connect()
        self.half.send(f"GET {TOKEN_TARGET} HT".encode())

    def finish_half(self) -> None:
        self.half.send(b"TP/1.1\r\nHost: a\r\n\r\n")
        response = http.client.HTTPResponse(self.half.sock, method="GET")
        response.begin()
        answered(response)
        self.half.close()

    def use_others(self) -> None:
        for client in (self.silent, self.kept):
            probe(client)
            client.close()


async def test_silent_and_kept_connections_survive_a_handover_and_its_return(directory: Path) -> None:
    # NMI closes these connections after ten seconds, and the start of its successor may take as long.
    with changed_nmi(SECONDS.format(60.0)):
        async with sandboxed(directory) as sandbox:
            nmi = sandbox.nmis[NODE].program
            former = await asyncio.to_thread(Opened, connector(sandbox))
            await sandbox.start_nmi(NODE)
            await logged(sandbox, TAKEN_OVER)
            await asyncio.to_thread(former.finish_half)
            await asyncio.to_thread(former.use_others)
            latter = await asyncio.to_thread(Opened, connector(sandbox))
            ended = asyncio.create_task(end(sandbox.nmis[NODE].program))
            await logged(sandbox, "the former NMI serves this node again")
            await asyncio.to_thread(latter.finish_half)
            assert await ended == 0, "it ends with its last request"
            await asyncio.to_thread(latter.use_others)
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
        response = await asyncio.to_thread(connection.getresponse)
        body = await asyncio.to_thread(response.read)
        assert response.status == 200, body
        connection.close()
        assert await ended == 0


async def test_without_a_handover_socket_of_the_former_nmi_the_next_one_waits_for_its_ports(directory: Path) -> None:
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ)) as sandbox:
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
        async with sending(sandbox) as clients:
            await clients.served(10)
            assert await end(former.program) == 0
            await clients.served()


# Ends that die. The kernel closes the sockets of a killed process, and so do these peers.


async def converse(channel: Channel, steps: Sequence[Message | None], sockets: Sequence[socket.socket] = ()) -> None:
    """Send and receive the messages of *steps*, the *sockets* with the message for them, and end without a word."""
    received: list[int] = []
    for message in steps:
        if message is RECEIVE:
            received += (await channel.receive())[1]
        else:
            passed = [sock.fileno() for sock in sockets] if isinstance(message, Sockets) else []
            await channel.send(message, passed)
    channel.close()
    for descriptor in received:
        os.close(descriptor)


async def test_a_successor_that_dies_at_any_step_costs_no_request(directory: Path) -> None:
    async with sandboxed(directory) as sandbox, sending(sandbox) as clients:
        nmi, ports = sandbox.nmis[NODE].program, sandbox._ports[NODE]
        hello = Hello(
            versions=VERSIONS,
            release="test",
            listen_address="127.0.0.1",
            listen_port=ports.requests,
            probe_port=ports.probes,
            metrics_port=ports.metrics,
        )
        steps = (hello, RECEIVE, Take(), RECEIVE, Taken(), RECEIVE)
        for count in range(len(steps) + 1):
            await until(lambda: state(sandbox), "NMI serves", holds=lambda status: status["handover"] == "serving")
            sock = await until(lambda: asyncio.to_thread(connect_to, directory / "nmi.sock"))
            assert sock is not None
            await converse(Channel(sock, Role.SUCCESSOR), steps[:count])
            await clients.served(100)
            assert nmi.returncode is None, count
        # After these, a real successor takes over.
        await sandbox.start_nmi(NODE)
        await logged(sandbox, TAKEN_OVER)
        assert await end(nmi) == 0


async def test_a_predecessor_that_dies_at_any_step_does_not_prevent_its_successor(directory: Path) -> None:
    welcome = Welcome(version=max(VERSIONS), release="test", sockets=NAMES)
    steps = (RECEIVE, welcome, RECEIVE, Sockets(NAMES), RECEIVE, Retired())
    async with sandboxed(directory) as sandbox:
        ports = sandbox._ports[NODE]
        for count in range(len(steps) + 1):
            assert await end(sandbox.nmis[NODE].program) == 0
            addresses = (("127.0.0.1", ports.requests), ("", ports.probes), ("", ports.metrics))
            sockets = [socket.create_server(address) for address in addresses]
            listener, _ = await asyncio.to_thread(listen_at, directory / "nmi.sock")
            await sandbox.start_nmi(NODE)
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            await converse(Channel(accepted, Role.PREDECESSOR), steps[:count], sockets)
            for sock in (listener, *sockets):
                sock.close()
            await sandbox.nmi_active(NODE)
            async with sending(sandbox) as clients:
                await clients.served(100)
