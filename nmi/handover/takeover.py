"""The acquisition of the node's sockets at the start: from the NMI that serves, or by binding them.

If another program without a handover uses a port, such as an older NMI on its way out, NMI waits for it.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from nmi.handover.messages import Hello, SocketName
from nmi.handover.metrics import HandoverMetrics
from nmi.handover.successor import HandoverError, Successor, meet
from podidentity.exits import StartError
from podidentity.telemetry.probes import PortInUse

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.2
"""The interval at which NMI tries again to get a port."""
NAMES: Final[tuple[SocketName, ...]] = ("listener", "probes", "metrics")
"""The sockets that every NMI has. `node_listener` depends on the target of the redirect: the owner binds it itself if
no predecessor passes it."""


NODE_LISTENER: Final[SocketName] = "node_listener"


class Binder(Protocol):
    """The owner of the sockets."""

    async def __call__(self, name: SocketName, sockets: Sequence[socket.socket] = ()) -> None:
        """Own the given sockets, or bind one. Raise StartError or PortInUse."""


class Takeover:
    """The sockets of one start. `begin`, then `complete` once NMI is synchronised."""

    def __init__(
        self,
        path: Path | None,
        hello: Hello,
        metrics: HandoverMetrics,
        bind: Binder,
        *,
        in_use: Callable[..., bool],
        receive_tokens: Callable[[Sequence[bytes]], tuple[int, int]],
        signal: Callable[[], None],
    ) -> None:
        """Without *path*, every port that is in use is an error. *in_use* returns whether an error is one of these.

        *receive_tokens*: see Successor.take. *signal* is called, once or several times, when this NMI owns every
        socket, or waits for a program that must end first.
        """
        self._path = path
        self._hello = hello
        self._metrics = metrics
        self._bind = bind
        self._in_use = in_use
        self._receive_tokens = receive_tokens
        self._signal = signal
        self._missing = set(NAMES)
        self._refused = ""
        self.predecessor: Successor | None = None
        """The conversation with the NMI that serves."""
        self.problem = ""
        """Why NMI does not serve yet, for the readiness probe."""

    @property
    def waits(self) -> bool:
        """Whether another program serves this node."""
        return bool(self.problem) or (self.predecessor is not None and self.predecessor.attached)

    async def begin(self) -> None:
        """Bind the sockets that no other NMI will pass. Raise StartError and PortInUse."""
        await self._meet()
        await self._bind_missing()

    async def complete(self) -> None:
        """Return when this NMI owns every socket. Raise StartError and PortInUse."""
        while True:
            await self._take()
            await self._bind_missing()
            if not self._missing:
                self.problem = ""
                return
            await asyncio.sleep(RETRY_SECONDS)
            await self._meet()

    async def _meet(self) -> None:
        if self._path is None or self.predecessor is not None:
            return
        try:
            self.predecessor = await meet(self._path, self._hello, self._metrics)
        except HandoverError as error:
            if str(error) != self._refused:
                log.warning(
                    "no handover from the NMI of this node; NMI waits for its ports", extra={"error": str(error)}
                )
            self._refused = str(error)

    async def _take(self) -> None:
        if self.predecessor is None:
            return
        try:
            received = await self.predecessor.take(self._receive_tokens)
        except HandoverError as error:
            log.warning("the handover failed; NMI tries again", extra={"error": str(error)})
            self.predecessor = None
            return
        for name in (*NAMES, NODE_LISTENER):
            if sockets := [sock for named, sock in received if named == name]:
                await self._bind(name, sockets)
                self._missing.discard(name)

    async def _bind_missing(self) -> None:
        shared = self.predecessor.shared if self.predecessor is not None else frozenset()
        # The predecessor still listens at the shared ports, and passes these sockets later.
        for name in sorted(self._missing - shared):
            try:
                await self._bind(name)
            except (StartError, PortInUse) as error:
                if self._path is None or not self._in_use(error):
                    raise
                if not self.problem:
                    log.warning(
                        "a port is in use; NMI waits until the other program ends (an older NMI?), or end it",
                        extra={"error": str(error)},
                    )
                self.problem = f"waiting for a port: {error}"
            else:
                self._missing.discard(name)
        if self.problem or not self._missing:
            self._signal()
