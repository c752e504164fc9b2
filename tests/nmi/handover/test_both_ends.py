"""Tests of both ends in one process: the handover's steps, their failures, and hostile peers of the socket."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from nmi.handover import predecessor as predecessor_module
from nmi.handover import socket_path as socket_path_module
from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.messages import (
    PACKET_MAX,
    TOKEN_BYTES_MAX,
    TOKEN_MESSAGES_MAX,
    VERSIONS,
    Adopted,
    Connections,
    GiveBack,
    Hello,
    ProtocolError,
    Rejection,
    Resumed,
    SocketName,
    Take,
    Taken,
    Tokens,
    Welcome,
)
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import CONNECTIONS_MAX, Predecessor
from nmi.handover.protocol import Role
from nmi.handover.socket_path import UnsafePathError, connect_to, listen_at, remove_own
from nmi.handover.successor import HandoverError, Successor, meet
from podidentity.exits import StartError

SECONDS = 10.0


def hello(*versions: int) -> Hello:
    return Hello(
        versions=versions or VERSIONS,
        release="next",
        listen_address="127.0.0.1",
        listen_port=1,
        probe_port=2,
        metrics_port=3,
    )


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class FakeConnections:
    """The connections of a server: some idle ones, and adopted ones."""

    def __init__(self) -> None:
        self.idle: list[int] = []
        self.adopted: list[int] = []

    def release_idle(self, most: int) -> list[int]:
        released, self.idle = self.idle[:most], self.idle[most:]
        return released

    def adopt(self, descriptor: int) -> None:
        self.adopted.append(descriptor)

    def close(self) -> None:
        for each in (*self.idle, *self.adopted):
            os.close(each)


class FakeService(FakeConnections):
    """A service with one listener, which records the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.packets: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))

    def shared(self, hello: Hello) -> tuple[SocketName, ...]:
        return ("listener",)

    def tokens(self) -> Iterator[bytes]:
        assert "pause" not in self.calls, "the predecessor still serves"
        return iter(self.packets)

    async def pause(self, shared: Sequence[SocketName]) -> list[tuple[SocketName, socket.socket]]:
        self.calls.append("pause")
        return [("listener", self.listener.dup())]

    async def resume(self) -> None:
        self.calls.append("resume")

    def retire(self) -> None:
        self.calls.append("retire")

    @override
    def close(self) -> None:
        super().close()
        self.listener.close()


class Ends:
    """A predecessor that listens, and successors that connect to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = FakeService()
        self.registry = CollectorRegistry()
        self.metrics = HandoverMetrics(self.registry)
        self.predecessor = Predecessor(path, self.service, self.metrics)

    async def meet(self, *versions: int) -> Successor:
        met = await meet(self.path, hello(*versions), HandoverMetrics(CollectorRegistry()))
        assert met is not None
        return met

    async def retired(self, *versions: int) -> Successor:
        """Return a successor that serves."""
        successor = await self.meet(*versions)
        for _, each in await successor.take():
            each.close()
        await successor.confirm()
        return successor

    async def connect(self) -> Channel:
        sock = await asyncio.to_thread(connect_to, self.path)
        assert sock is not None
        return Channel(sock, Role.SUCCESSOR)

    def count(self, outcome: str) -> float | None:
        return self.registry.get_sample_value(
            "aadpodidentity_nmi_handovers_total", {"role": "predecessor", "outcome": outcome}
        )

    async def until(self, *calls: str) -> None:
        """Wait for the calls of the service; after the last one, until the predecessor listens again."""
        async with asyncio.timeout(SECONDS):
            while self.service.calls != list(calls):
                await asyncio.sleep(0.005)
            while calls[-1] == "resume" and not await asyncio.to_thread(self.path.exists):
                await asyncio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "nmi.sock"


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Ends]:
    ends = Ends(path)
    running = asyncio.create_task(ends.predecessor.run())
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(path.exists):
            await asyncio.sleep(0.005)
    try:
        yield ends
    finally:
        running.cancel()
        await asyncio.wait([running])
        ends.service.close()


async def test_a_successor_gets_the_sockets_and_then_the_idle_connections(path: Path) -> None:
    async with listening(path) as ends:
        pairs = [socket.socketpair() for _ in range(100)]
        ends.service.idle = [ours.detach() for ours, _ in pairs]
        successor = await ends.meet()
        assert successor.shared == {"listener"}
        assert ends.predecessor.state() == "successor registered"
        ((name, received),) = await successor.take()
        with received:
            assert name == "listener"
            assert received.getsockname() == ends.service.listener.getsockname()
        await successor.confirm()
        service = FakeConnections()
        adopted = service.adopted
        following = asyncio.create_task(successor.follow(service))
        async with asyncio.timeout(SECONDS):
            while len(adopted) < 100:
                await asyncio.sleep(0.005)
        for descriptor, (_, theirs) in zip(adopted, pairs, strict=True):
            os.write(descriptor, b"x")
            assert theirs.recv(1) == b"x"
            theirs.close()
        service.close()
        assert ends.predecessor.state() == "retired"
        assert not await asyncio.to_thread(path.exists)
        assert ends.count("completed") == 1
        successor.close()
        await following
        await ends.until("pause", "retire", "resume")
        assert ends.count("returned") == 1
        (await ends.meet()).close()


async def take_tokens(successor: Successor, stored: int, refused: int) -> list[bytes]:
    """Take over, answer that so many tokens are *stored* and *refused*, and return the packets with tokens."""
    received: list[bytes] = []

    def receive(packets: Sequence[bytes]) -> tuple[int, int]:
        received.extend(packets)
        return stored, refused

    for _, each in await successor.take(receive):
        each.close()
    return received


@pytest.mark.parametrize(("version", "packets"), [(1, 0), (2, 3)])
async def test_tokens_arrive_before_the_sockets_unless_the_successor_does_not_know_them(
    path: Path, version: int, packets: int
) -> None:
    async with listening(path) as ends:
        ends.service.packets = [b"a", b"", b"x" * TOKEN_BYTES_MAX]
        successor = await ends.meet(version)
        received = await take_tokens(successor, 1, 2)
        assert received == ends.service.packets[:packets]
        await successor.confirm()
        successor.close()
        await ends.until("pause", "retire", "resume")


async def test_no_more_messages_with_tokens_are_passed_or_accepted_than_agreed(path: Path) -> None:
    async with listening(path) as ends:
        ends.service.packets = [b"x"] * (TOKEN_MESSAGES_MAX + 5)
        successor = await ends.meet()
        received = await take_tokens(successor, 1, 0)
        assert len(received) == TOKEN_MESSAGES_MAX
        successor.close()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    predecessor = Channel(theirs, Role.PREDECESSOR)
    channel = Channel(ours, Role.SUCCESSOR)
    await channel.send(hello())
    await predecessor.receive()
    welcome = Welcome(version=2, release="", sockets=())
    await predecessor.send(welcome)
    await channel.receive()

    async def flood() -> None:
        await predecessor.receive()
        with suppress(ChannelClosedError):
            while True:
                await predecessor.send(Tokens(b"x"))

    flooding = asyncio.create_task(flood())
    with pytest.raises(HandoverError, match="too many"):
        await Successor(channel, welcome, HandoverMetrics(CollectorRegistry())).take()
    await flooding
    predecessor.close()


async def test_a_successor_that_does_not_read_its_tokens_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor_module, "TOKENS_SECONDS", 0.1)
    async with listening(path) as ends:
        ends.service.packets = [b"x" * TOKEN_BYTES_MAX] * TOKEN_MESSAGES_MAX
        channel = await ends.connect()
        await channel.send(hello())
        await channel.receive()
        await channel.send(Take())
        await ends.predecessor.settle(SECONDS)
        assert ends.service.calls == []
        assert ends.count("failed") == 1
        channel.close()


async def test_a_successor_that_ends_before_it_takes_changes_nothing(path: Path) -> None:
    async with listening(path) as ends:
        for _ in range(3):
            (await ends.meet()).close()
            async with asyncio.timeout(SECONDS):
                await ends.predecessor.settle(SECONDS)
        assert ends.service.calls == []
        assert ends.count("failed") == 3


async def test_a_successor_that_does_not_confirm_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor_module, "TAKE_SECONDS", 0.05)
    async with listening(path) as ends:
        successor = await ends.meet()
        for _, each in await successor.take():
            each.close()
        await ends.until("pause", "resume")
        with pytest.raises(StartError, match="tries again"):
            await successor.confirm()
        assert ends.count("failed") == 1


async def test_a_second_successor_is_refused_until_the_first_has_ended(path: Path) -> None:
    async with listening(path) as ends:
        first = await ends.meet()
        with pytest.raises(HandoverError, match="another successor"):
            await ends.meet()
        first.close()
        await ends.predecessor.settle(SECONDS)
        (await ends.meet()).close()


async def test_without_a_common_version_there_is_no_handover(path: Path) -> None:
    async with listening(path) as ends:
        with pytest.raises(HandoverError, match="no version"):
            await ends.meet(98, 99)
        (await ends.meet(99, 2, 1)).close()


async def test_a_successor_gives_back(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.retired()
        following = asyncio.create_task(successor.follow(FakeConnections()))
        assert await successor.give_back() is True
        await ends.until("pause", "retire", "resume")
        successor.close()
        await following
        assert await successor.give_back() is False


async def test_a_successor_that_gives_back_returns_its_connections(path: Path) -> None:
    async with listening(path) as ends:
        pairs = [socket.socketpair() for _ in range(100)]
        service = FakeConnections()
        service.idle = [ours.detach() for ours, _ in pairs]
        successor = await ends.retired()
        following = asyncio.create_task(successor.follow(service))
        assert await successor.give_back() is True
        assert await successor.return_connections(lambda: len(service.idle), SECONDS) > 0
        assert len(ends.service.adopted) == 100
        for descriptor, (_, theirs) in zip(ends.service.adopted, pairs, strict=True):
            os.write(descriptor, b"x")
            assert theirs.recv(1) == b"x"
            theirs.close()
        assert ends.predecessor.state() == "serving", "the next successor can register"
        (await ends.meet()).close()
        successor.close()
        await following
        service.close()


async def test_connections_that_the_successor_does_not_acknowledge_stay_with_the_predecessor(path: Path) -> None:
    async with listening(path) as ends:
        ours, theirs = socket.socketpair()
        with theirs:
            successor = await ends.retired()
            ends.service.idle = [ours.detach()]
            async with asyncio.timeout(SECONDS):
                while ends.service.idle:
                    await asyncio.sleep(0.005)
            assert await ends.predecessor.pass_connections(lambda: 0, 0.05) == 0, "the batch is not complete"
            successor.close()
            await ends.until("pause", "retire", "resume")
            (descriptor,) = ends.service.adopted
            os.write(descriptor, b"x")
            assert theirs.recv(1) == b"x"


async def test_an_acknowledgement_without_connections_is_a_violation(path: Path) -> None:
    async with listening(path) as ends:
        channel = await ends.connect()
        for message in (hello(), Take(), Taken()):
            await channel.send(message)
            _, descriptors = await channel.receive()
            for each in descriptors:
                os.close(each)
        await channel.send(Adopted())
        await ends.until("pause", "retire", "resume")
        channel.close()


async def test_a_successor_of_the_first_version_acknowledges_and_returns_nothing(path: Path) -> None:
    async with listening(path) as ends:
        ours, theirs = socket.socketpair()
        service = FakeConnections()
        with theirs:
            successor = await ends.retired(1)
            ends.service.idle = [ours.detach()]
            following = asyncio.create_task(successor.follow(service))
            assert await ends.predecessor.pass_connections(lambda: len(ends.service.idle), SECONDS) > 0
            async with asyncio.timeout(SECONDS):
                while not service.adopted:
                    await asyncio.sleep(0.005)
            assert await successor.give_back() is True
            assert await successor.return_connections(lambda: 1, SECONDS) == SECONDS
            successor.close()
            await following
            await ends.until("pause", "retire", "resume")
        service.close()


async def test_a_predecessor_answers_a_give_back_when_the_last_connections_are_acknowledged(path: Path) -> None:
    async with listening(path) as ends:
        channel = await ends.connect()
        for message in (hello(), Take(), Taken()):
            await channel.send(message)
            _, descriptors = await channel.receive()
            for each in descriptors:
                os.close(each)
        ours, theirs = socket.socketpair()
        ends.service.idle = [ours.detach()]
        passed, descriptors = await channel.receive()
        assert passed == Connections(1)
        await channel.send(GiveBack())
        answer = asyncio.create_task(channel.receive())
        await asyncio.sleep(0.05)
        assert not answer.done()
        await channel.send(Adopted())
        assert await answer == (Resumed(), [])
        await ends.until("pause", "retire", "resume")
        channel.close()
        os.close(descriptors[0])
        theirs.close()


async def test_a_stopping_predecessor_takes_nothing_back(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.retired()
        following = asyncio.create_task(successor.follow(FakeConnections()))
        await ends.predecessor.refuse()
        assert await successor.give_back() is False
        await following
        assert ends.service.calls == ["pause", "retire"]
        with pytest.raises(AssertionError):
            await ends.meet()


async def test_after_passing_on_the_end_of_the_successor_is_no_reason_to_serve(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.retired()
        await successor.pass_on()
        await asyncio.sleep(0.05)
        successor.close()
        await ends.predecessor.settle(SECONDS)
        await asyncio.sleep(0.05)
        assert ends.service.calls == ["pause", "retire"]
        assert ends.predecessor.state() == "retired"


@pytest.mark.parametrize(
    "packet",
    [b"garbage", b'{"type":"take"}', b"x" * (PACKET_MAX + 1), b"\\x00" * 100, b'{"type":"hello"}'],
    ids=["garbage", "wrong order", "huge", "zeros", "incomplete"],
)
async def test_an_unusable_packet_ends_its_connection_only(path: Path, packet: bytes) -> None:
    async with listening(path) as ends:
        sock = await asyncio.to_thread(connect_to, path)
        assert sock is not None
        with sock:
            sock.setblocking(True)
            sock.settimeout(SECONDS)
            sock.send(packet)
            assert await asyncio.to_thread(sock.recv, 1) == b""
        (await ends.meet()).close()
        assert ends.service.calls == []


async def test_unrequested_descriptors_are_closed(path: Path) -> None:
    async with listening(path) as ends:
        before = await asyncio.to_thread(open_descriptors)
        for _ in range(20):
            sock = await asyncio.to_thread(connect_to, path)
            assert sock is not None
            with sock:
                sock.settimeout(SECONDS)
                socket.send_fds(sock, [b'{"type":"take"}'], [0] * 100)
                assert await asyncio.to_thread(sock.recv, 1) == b""
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(open_descriptors) <= before + 2
        (await ends.meet()).close()


async def test_a_predecessor_that_ends_while_it_creates_its_socket_leaves_none(path: Path) -> None:
    ends = Ends(path)
    for _ in range(20):
        running = asyncio.create_task(ends.predecessor.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert not await asyncio.to_thread(path.exists)
    ends.service.close()


async def test_silent_and_many_connections_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessor_module, "HELLO_SECONDS", 0.2)
    async with listening(path) as ends:
        channels = []
        for _ in range(3 * CONNECTIONS_MAX):
            channels.append(await ends.connect())
            await asyncio.sleep(0)
        for channel in channels:
            with pytest.raises(ChannelClosedError):
                async with asyncio.timeout(SECONDS):
                    await channel.receive()
            channel.close()
        (await ends.meet()).close()


async def test_a_connection_beyond_the_limit_is_closed_immediately(path: Path) -> None:
    async with listening(path) as ends:
        channels = []
        for _ in range(CONNECTIONS_MAX + 1):
            channels.append(await ends.connect())
            await asyncio.sleep(0.02)
        with pytest.raises(ChannelClosedError):
            async with asyncio.timeout(predecessor_module.HELLO_SECONDS / 2):
                await channels[-1].receive()
        await channels[0].send(hello())
        assert isinstance((await channels[0].receive())[0], Welcome)
        for channel in channels:
            channel.close()


async def test_a_successor_sends_nothing_to_a_socket_of_another_user(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(path):
        monkeypatch.setattr(socket_path_module, "peer_uid", lambda _: os.geteuid() + 1)
        with pytest.raises(HandoverError, match="another user listens"):
            await meet(path, hello(), HandoverMetrics(CollectorRegistry()))


async def test_a_connection_of_another_user_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(path) as ends:
        monkeypatch.setattr(predecessor_module, "peer_uid", lambda _: os.geteuid() + 1)
        channel = await ends.connect()
        with pytest.raises(ChannelClosedError):
            async with asyncio.timeout(predecessor_module.HELLO_SECONDS / 2):
                await channel.receive()
        channel.close()
        monkeypatch.undo()
        (await ends.meet()).close()


def test_a_socket_gets_mode_0600_and_is_removed_by_its_owner_only(path: Path) -> None:
    assert connect_to(path) is None
    listen_at(path)[0].close()
    assert connect_to(path) is None, "a socket that a killed process left"
    assert connect_to(path.parent / "missing" / "nmi.sock") is None
    listener, inode = listen_at(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name], "no temporary file is left"
    listener.close()
    remove_own(path, inode + 1)
    assert path.exists(), "another NMI's"
    remove_own(path, inode)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_can_write_to_is_refused(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    for call in (connect_to, listen_at):
        with pytest.raises(UnsafePathError, match="no other user can write"):
            call(path)


def test_a_directory_behind_a_link_is_refused(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path.parent)
    with pytest.raises(UnsafePathError):
        listen_at(link / "nmi.sock")


async def test_a_channel_checks_what_it_sends_and_wakes_when_it_is_closed(path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, peer = Channel(ours, Role.SUCCESSOR), Channel(theirs, Role.PREDECESSOR)
    with pytest.raises(ProtocolError):
        await channel.send(Take())
    with pytest.raises(ProtocolError):
        await peer.send(Connections(1), [])
    await channel.send(hello())
    assert (await peer.receive())[0] == hello()
    waiting = asyncio.create_task(channel.receive())
    await asyncio.sleep(0.01)
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosedError):
        await waiting
    with pytest.raises(ChannelClosedError):
        await channel.receive()
    with pytest.raises(ChannelClosedError):
        await peer.send(Welcome(version=1, release="", sockets=()))
    peer.close()


async def test_the_successor_reports_each_refusal(path: Path) -> None:
    listener, _ = await asyncio.to_thread(listen_at, path)
    with listener:

        async def refuse() -> None:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            channel = Channel(accepted, Role.PREDECESSOR)
            await channel.receive()
            await channel.send(Welcome(version=1, release="", sockets=()))
            await channel.receive()
            await channel.send(Rejection("for a test"))
            channel.close()

        refusing = asyncio.create_task(refuse())
        successor = await meet(path, hello(), HandoverMetrics(CollectorRegistry()))
        assert successor is not None
        with pytest.raises(HandoverError, match="for a test"):
            await successor.take()
        assert not successor.attached
        await refusing
