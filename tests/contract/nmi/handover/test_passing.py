"""Tests of both ends: tokens arrive before the sockets, and connections arrive, are acknowledged and returned."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.messages import (
    TOKEN_BYTES_MAX,
    TOKEN_MESSAGES_MAX,
    Adopted,
    Connections,
    GiveBack,
    Resumed,
    Take,
    Taken,
    Tokens,
    Welcome,
)
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.protocol import Role
from nmi.handover.successor import HandoverError, Successor
from tests.contract.nmi.handover.ends import SECONDS, Ends, FakeConnections, hello, listening
from tests.support.waiting import until


async def retired_for_a_channel(ends: Ends) -> Channel:
    """Take the place of the predecessor with single messages. The caller owns the channel."""
    channel = await ends.connect()
    for message in (hello(), Take(), Taken()):
        await channel.send(message)
        _, descriptors = await channel.receive()
        for descriptor in descriptors:
            os.close(descriptor)
    return channel


async def test_a_successor_gets_the_sockets_and_then_the_idle_connections(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(path) as ends:
        peers = ends.service.connect(100)
        successor = await ends.meet()
        assert successor.shared == {"listener"}
        assert ends.predecessor.state() == "successor registered"
        ((name, received),) = await successor.take()
        with received:
            assert name == "listener"
            assert received.getsockname() == ends.service.listener.getsockname()
        await successor.confirm()
        service = FakeConnections()
        following = asyncio.create_task(successor.follow(service))
        await until(lambda: len(service.adopted) >= 100)
        service.check_adopted(peers)
        service.close()
        assert ends.predecessor.state() == "retired"
        assert not await asyncio.to_thread(path.exists)
        assert ends.count("completed") == 1
        successor.close()
        await following
        await ends.until("pause", "retire", "resume")
        assert ends.count("returned") == 1
        assert "the successor has ended; NMI serves again, look at the successor's log" in caplog.messages
        (await ends.meet()).close()


async def test_a_successor_that_gives_back_returns_its_connections(path: Path) -> None:
    async with listening(path) as ends:
        service = FakeConnections()
        peers = service.connect(100)
        successor = await ends.retired()
        following = asyncio.create_task(successor.follow(service))
        assert await successor.give_back() is True
        assert await successor.return_connections(lambda: len(service.idle), SECONDS) > 0
        ends.service.check_adopted(peers)
        assert ends.predecessor.state() == "serving", "the next successor can register"
        (await ends.meet()).close()
        successor.close()
        await following
        service.close()


async def test_connections_that_the_successor_does_not_acknowledge_stay_with_the_predecessor(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.retired()
        peers = ends.service.connect(1)
        await until(lambda: not ends.service.idle)
        assert await ends.predecessor.pass_connections(lambda: 0, 0.05) == 0, "the batch is not complete"
        successor.close()
        await ends.until("pause", "retire", "resume")
        ends.service.check_adopted(peers)


async def test_an_acknowledgement_without_connections_is_a_violation(path: Path) -> None:
    async with listening(path) as ends:
        channel = await retired_for_a_channel(ends)
        await channel.send(Adopted())
        await ends.until("pause", "retire", "resume")
        channel.close()


async def test_a_successor_of_the_first_version_acknowledges_and_returns_nothing(path: Path) -> None:
    async with listening(path) as ends:
        service = FakeConnections()
        successor = await ends.retired(1)
        with ends.service.connect(1)[0]:
            following = asyncio.create_task(successor.follow(service))
            assert await ends.predecessor.pass_connections(lambda: len(ends.service.idle), SECONDS) > 0
            await until(lambda: service.adopted)
            assert await successor.give_back() is True
            assert await successor.return_connections(lambda: 1, SECONDS) == SECONDS
            successor.close()
            await following
            await ends.until("pause", "retire", "resume")
        service.close()


async def test_a_predecessor_answers_a_give_back_when_the_last_connections_are_acknowledged(path: Path) -> None:
    async with listening(path) as ends:
        channel = await retired_for_a_channel(ends)
        (peer,) = ends.service.connect(1)
        passed, descriptors = await channel.receive()
        assert passed == Connections(1)
        await channel.send(GiveBack())
        response = asyncio.create_task(channel.receive())
        await asyncio.sleep(0.05)
        assert not response.done()
        await channel.send(Adopted())
        assert await response == (Resumed(), [])
        await ends.until("pause", "retire", "resume")
        channel.close()
        os.close(descriptors[0])
        peer.close()


async def take_tokens(successor: Successor, stored: int, refused: int) -> list[bytes]:
    """Take over, answer that so many tokens are *stored* and *refused*, and return the packets with tokens."""
    received: list[bytes] = []

    def receive(packets: Sequence[bytes]) -> tuple[int, int]:
        received.extend(packets)
        return stored, refused

    for _, sock in await successor.take(receive):
        sock.close()
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
        counted = [
            ends.successors.get_sample_value("aadpodidentity_nmi_handover_tokens_total", {"result": result})
            for result in ("received", "refused")
        ]
        assert counted == [1, 2]
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


async def test_a_successor_that_does_not_read_its_tokens_changes_nothing(path: Path) -> None:
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
