"""Tests of both ends: the handover's steps and their failures."""

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.messages import Connections, ProtocolError, Rejection, Take, Welcome
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import Predecessor
from nmi.handover.protocol import Role
from nmi.handover.socket_path import listen_at
from nmi.handover.successor import HandoverError, meet
from podidentity.exits import StartError
from tests.contract.nmi.handover.ends import SECONDS, FakeConnections, hello, listening
from tests.support.virtual_time import now
from tests.support.waiting import until


async def test_a_successor_that_ends_before_it_takes_changes_nothing(path: Path) -> None:
    async with listening(path) as ends:
        for _ in range(3):
            (await ends.meet()).close()
            await ends.predecessor.settle(SECONDS)
        assert ends.service.calls == []
        assert ends.count("failed") == 3


async def test_a_successor_that_does_not_confirm_is_refused(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.meet()
        for _, sock in await successor.take():
            sock.close()
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


async def test_a_successor_that_connected_earlier_is_refused_while_another_one_serves(path: Path) -> None:
    async with listening(path) as ends:
        early = await ends.connect()
        serving = await ends.retired()
        await early.send(hello())
        response, _ = await early.receive()
        assert response == Rejection("another successor is registered")
        early.close()
        serving.close()


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


# The wait of a stopping NMI for a successor that has started and is not registered yet.


async def waits(predecessor: Predecessor) -> bool:
    """Return whether *predecessor* waits for a registration."""
    begun = now()
    await predecessor.wait_for_registration(60)
    return now() - begun == 60


async def test_with_a_successor_there_is_no_wait(path: Path) -> None:
    async with listening(path) as ends:
        successor = await ends.meet()
        assert not await waits(ends.predecessor)
        for _, sock in await successor.take():
            sock.close()
        await successor.confirm()
        assert not await waits(ends.predecessor)
        assert ends.predecessor.state() == "retired"
        await successor.pass_on()
        successor.close()
        await until(lambda: not ends.predecessor.registered)
        assert not await waits(ends.predecessor)


async def test_a_successor_that_registers_ends_the_wait(path: Path) -> None:
    async with listening(path) as ends:
        waiting = asyncio.create_task(waits(ends.predecessor))
        await asyncio.sleep(10)
        assert not waiting.done()
        successor = await ends.meet()
        assert not await waiting
        successor.close()


async def test_without_a_successor_and_after_its_end_the_predecessor_waits_for_the_next(path: Path) -> None:
    async with listening(path) as ends:
        assert await waits(ends.predecessor)
        (await ends.meet()).close()
        await ends.predecessor.settle(SECONDS)
        assert await waits(ends.predecessor)
        (await ends.retired()).close()
        await ends.until("pause", "retire", "resume")
        assert await waits(ends.predecessor)
