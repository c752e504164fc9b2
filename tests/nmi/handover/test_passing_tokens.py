"""Tests of both ends: cached tokens arrive before the sockets, within limits."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover import predecessor as predecessor_module
from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.messages import (
    TOKEN_BYTES_MAX,
    TOKEN_MESSAGES_MAX,
    Take,
    Tokens,
    Welcome,
)
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.protocol import Role
from nmi.handover.successor import HandoverError, Successor
from tests.nmi.handover.ends import SECONDS, hello, listening


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
