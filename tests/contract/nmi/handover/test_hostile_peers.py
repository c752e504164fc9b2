"""Tests of the handover socket: other users, unusable packets, and too many connections."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from nmi.handover import predecessor as predecessor_module
from nmi.handover import socket_path as socket_path_module
from nmi.handover.channel import Channel, ChannelClosedError
from nmi.handover.messages import PACKET_MAX, Welcome
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.predecessor import CONNECTIONS_MAX, HELLO_SECONDS
from nmi.handover.socket_path import UnsafePathError, connect_to, listen_at, remove_own
from nmi.handover.successor import HandoverError, meet
from tests.contract.nmi.handover.ends import Ends, hello, listening
from tests.support.virtual_time import now, settle


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "packet",
    [b"garbage", b'{"type":"take"}', b"x" * (PACKET_MAX + 1), b"\x00" * 100, b'{"type":"hello"}'],
    ids=["garbage", "wrong order", "huge", "zeros", "incomplete"],
)
async def test_an_unusable_packet_ends_its_connection_only(path: Path, packet: bytes) -> None:
    async with listening(path) as ends:
        sock = await asyncio.to_thread(connect_to, path)
        assert sock is not None
        with sock:
            sock.send(packet)
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        (await ends.meet()).close()
        assert ends.service.calls == []


async def test_unrequested_descriptors_are_closed(path: Path) -> None:
    async with listening(path) as ends:
        before = open_descriptors()
        for _ in range(20):
            sock = await asyncio.to_thread(connect_to, path)
            assert sock is not None
            with sock:
                socket.send_fds(sock, [b'{"type":"take"}'], [0] * 100)
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await asyncio.sleep(1)
        assert open_descriptors() <= before
        (await ends.meet()).close()


async def closed(channel: Channel) -> float:
    """Wait until the peer has closed *channel*, and return the seconds."""
    begun = now()
    with pytest.raises(ChannelClosedError):
        await channel.receive()
    channel.close()
    return now() - begun


async def test_silent_and_many_connections_end(path: Path) -> None:
    async with listening(path) as ends:
        channels = []
        for _ in range(3 * CONNECTIONS_MAX):
            channels.append(await ends.connect())
            await asyncio.sleep(0)
        assert sum([await closed(channel) for channel in channels]) == HELLO_SECONDS
        (await ends.meet()).close()


async def test_a_connection_beyond_the_limit_is_closed_immediately(path: Path) -> None:
    async with listening(path) as ends:
        channels = [await ends.connect() for _ in range(CONNECTIONS_MAX)]
        await settle()
        assert await closed(await ends.connect()) == 0
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
        with monkeypatch.context() as patch:
            patch.setattr(predecessor_module, "peer_uid", lambda _: os.geteuid() + 1)
            assert await closed(await ends.connect()) == 0
        (await ends.meet()).close()


def test_a_socket_gets_mode_0600_and_is_removed_by_its_owner_only(path: Path) -> None:
    assert connect_to(path) is None
    listen_at(path)[0].close()
    assert connect_to(path) is None, "a socket that a killed process left"
    assert connect_to(path.parent / "missing" / "nmi.sock") is None
    listener, inode = listen_at(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file is left"
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


async def test_a_predecessor_that_ends_while_it_creates_its_socket_leaves_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    immediately = asyncio.to_thread

    async def later(function: Callable[..., Any], *args: object) -> Any:
        await asyncio.sleep(1)
        return await immediately(function, *args)

    monkeypatch.setattr(asyncio, "to_thread", later)
    ends = Ends(path)
    running = asyncio.create_task(ends.predecessor.run())
    await asyncio.sleep(0.5)
    running.cancel()
    await asyncio.wait([running])
    assert not await immediately(path.exists)
    ends.service.close()


def test_a_socket_that_replaces_the_own_one_in_the_last_moment_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NMI that gives back removes its socket while the former one creates its own."""
    listener, inode = listen_at(path)
    others: list[tuple[socket.socket, int]] = []

    def after_the_other(name: str) -> None:
        act = getattr(Path, name)

        def acts(self: Path, *arguments: Any) -> Any:
            if self == path and not others:
                others.append(listen_at(path))
            return act(self, *arguments)

        monkeypatch.setattr(Path, name, acts)

    for name in ("rename", "unlink"):
        after_the_other(name)
    remove_own(path, inode)
    ((other, its_inode),) = others
    with closing(listener), closing(other):
        assert path.lstat().st_ino == its_inode
        assert [name.name for name in path.parent.iterdir()] == [path.name]
        connected = connect_to(path)
        assert connected is not None
        connected.close()
