"""One end of a handover that kills its own process at a step of the protocol.

python -m tests.integration.handover_peer successor PATH LISTEN_PORT PROBE_PORT METRICS_PORT, or `predecessor`. Each
line of its input is a step, for which it forks a process: that saves the start of Python. It prints the number of the
signal that ended the process.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from nmi.handover.channel import Channel
from nmi.handover.messages import VERSIONS, Hello, Retired, SocketName, Sockets, Take, Taken, Welcome
from nmi.handover.protocol import Role
from nmi.handover.socket_path import connect_to, listen_at

SUCCESSOR_STEPS: Final = ("connected", "hello", "welcome", "take", "sockets", "taken", "retired")
"""Each step is a message that was sent or received when the process dies."""
PREDECESSOR_STEPS: Final = SUCCESSOR_STEPS
NAMES: Final[tuple[SocketName, ...]] = ("listener", "probes", "metrics")


class Peer:
    """The process and the step at which it dies."""

    def __init__(self, step: str) -> None:
        self._step = step

    def reached(self, step: str) -> None:
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def succeed(peer: Peer, path: Path, ports: list[int]) -> None:
    sock = connect_to(path)
    assert sock is not None
    channel = Channel(sock, Role.SUCCESSOR)
    peer.reached("connected")
    await channel.send(
        Hello(
            versions=VERSIONS,
            release="test",
            listen_address="127.0.0.1",
            listen_port=ports[0],
            probe_port=ports[1],
            metrics_port=ports[2],
        )
    )
    peer.reached("hello")
    await channel.receive()
    peer.reached("welcome")
    await channel.send(Take())
    peer.reached("take")
    await channel.receive()
    peer.reached("sockets")
    await channel.send(Taken())
    peer.reached("taken")
    await channel.receive()
    peer.reached("retired")


async def precede(peer: Peer, path: Path, ports: list[int]) -> None:
    sockets = [
        socket.create_server((address, port)) for address, port in zip(("127.0.0.1", "", ""), ports, strict=True)
    ]
    listener, _ = listen_at(path)
    say("listening")
    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    channel = Channel(accepted, Role.PREDECESSOR)
    peer.reached("connected")
    await channel.receive()
    peer.reached("hello")
    await channel.send(Welcome(version=max(VERSIONS), release="test", sockets=NAMES))
    peer.reached("welcome")
    await channel.receive()
    peer.reached("take")
    await channel.send(Sockets(NAMES), [each.fileno() for each in sockets])
    peer.reached("sockets")
    await channel.receive()
    peer.reached("taken")
    await channel.send(Retired())
    peer.reached("retired")


def main(role: str, path: str, *ports: str) -> None:
    run = succeed if role == "successor" else precede
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(run(Peer(line.strip()), Path(path), [int(each) for each in ports]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(str(os.WTERMSIG(status)))


if __name__ == "__main__":
    main(*sys.argv[1:])
