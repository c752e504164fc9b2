"""The token server: the compiled lane, the general lane, the tasks of waiting requests, and the shutdown."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from _native.index import Index
from _native.lane import Lane, Limits
from nmi.server.decisions import PERIOD_SECONDS, Decisions
from nmi.server.general import GeneralLane, WaitingRequests
from nmi.server.handlers import Handlers
from nmi.server.metrics import ServerMetrics
from nmi.server.passthrough import Forwarder
from nmi.server.policy import ServerPolicy
from nmi.server.token_path import TokenProvider

log = logging.getLogger(__name__)

DRAIN_STEP_SECONDS: Final = 0.02
"""The interval at which a draining server closes idle connections: the lane does not notify it."""

FIRST_BYTE_SECONDS: Final = 0.5
"""How long a drain waits for the first byte of connections that were just accepted: closing them would lose requests
that are on their way.
"""

LAST_RESPONSE_SECONDS: Final = 0.5
"""The time for a 503 of some hundred bytes to a peer on the same node."""


class Server:
    """The server of one listener. nmi.app creates it, starts it once, drains it once and closes it."""

    def __init__(
        self,
        *,
        limits: Limits,
        policy: ServerPolicy,
        index: Index,
        token_service: TokenProvider,
        proxy: Forwarder[str],
        measures: ServerMetrics,
        decisions: Decisions | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.policy = policy
        self.now_ns = now_ns
        self.draining = False
        self._measures = measures
        self._decisions = Decisions() if decisions is None else decisions
        self.handlers = Handlers(
            policy=policy,
            index=index,
            token_service=token_service,
            proxy=proxy,
            measures=measures,
            decisions=self._decisions,
            now_ns=now_ns,
        )
        self.waiting = WaitingRequests(policy.response_seconds)
        self._tasks: set[asyncio.Task[None]] = set()
        self._summaries: asyncio.Task[None] | None = None
        self._lane = Lane(
            index=Index() if policy.log_each_request else index,  # an empty index makes the lane hand over everything
            general=lambda connection: GeneralLane(connection, self),
            limits=limits,
            require_metadata=policy.require_metadata_header,
            redirected_from=policy.redirected_from,
        )
        measures.watch(lane=self._lane.counters, pending=self._tasks.__len__)

    async def start(self, listener: socket.socket) -> None:
        """Serve *listener* (bound, listening, non-blocking). The caller owns it."""
        loop = asyncio.get_running_loop()
        self._summaries = loop.create_task(self._summarize(), name="summaries of decisions")
        self._lane.start(loop, listener)

    def listen_on_node(self, listener: socket.socket, redirected_from: tuple[str, int] | None) -> None:
        """Also serve *listener*, a socket on the node's own address.

        With *redirected_from*, close connections that no rule redirected from there before a byte is read. Idempotent;
        start() comes first. The caller owns *listener*.
        """
        self._lane.listen_on_node(listener, redirected_from)

    def counters(self) -> dict[str, int]:
        """Return the lane's counters; see `_native.lane`."""
        return self._lane.counters()

    def state(self) -> dict[str, object]:
        """Return the state for /debug/state: numbers only."""
        return {
            "draining": self.draining,
            "waiting_requests": len(self._tasks),
            "lane": self.counters(),
            "decisions": self._decisions.state(),
            **self._measures.state(),
        }

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work*, one waiting request, as a task that aclose() ends."""
        task = asyncio.get_running_loop().create_task(work, name="request")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a request's task failed because of a defect; report this traceback", exc_info=error)

    def stop_accepting(self, only: socket.socket | None = None) -> None:
        """Stop using every listener, or *only* this one: its owner may close it. Idempotent."""
        self._lane.stop_accepting(only)

    def accept_again(self, listener: socket.socket) -> None:
        """Undo stop_accepting()."""
        self._lane.accept_again(listener)

    def release_idle(self, most: int) -> list[int]:
        """Return the descriptors of idle connections, which the caller closes; see `_native.lane`."""
        return self._lane.release_idle(most)

    def adopt(self, descriptor: int) -> None:
        """Serve a connection that another NMI has released, and own its descriptor."""
        self._lane.adopt(descriptor)

    async def complete_open_requests(self, seconds: float) -> float:
        """Wait until the requests that wait now are answered, *seconds* at most. New ones are served as usual.

        Return the part of *seconds* that remains.
        """
        deadline = self.now_ns() + int(seconds * 1e9)
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=seconds)
        return max(0.0, (deadline - self.now_ns()) / 1e9)

    async def drain(self, seconds: float) -> int:
        """Accept no connections, answer open requests, close idle connections. Return the number of open connections.

        Requests without a response after *seconds* get a 503, for which there are LAST_RESPONSE_SECONDS more.
        """
        self.draining = True
        self.stop_accepting()
        left = await self._emptied(seconds, silent_after=FIRST_BYTE_SECONDS)
        if left:
            # With a 503 the clients repeat their requests.
            self.waiting.expire_all()
            left = await self._emptied(LAST_RESPONSE_SECONDS)
        if left:
            log.warning(
                "closing connections still open at the end of the drain; check --max-hold and the grace period",
                extra={"count": left},
            )
        return left

    async def _emptied(self, seconds: float, *, silent_after: float = 0) -> int:
        """Wait until no connection is open, *seconds* at most. Return the number of open connections.

        Connections without a first byte are closed after *silent_after* seconds.
        """
        begun = self.now_ns()
        while True:
            passed = (self.now_ns() - begun) / 1e9
            left = self._lane.close_idle(silent=passed >= min(silent_after, seconds))
            if not left or passed >= seconds:
                return left
            await asyncio.sleep(DRAIN_STEP_SECONDS)

    async def aclose(self) -> None:
        """Close every connection and cancel every task. Idempotent."""
        self.draining = True
        self._lane.close()
        self.waiting.close()
        tasks = [*self._tasks]
        if self._summaries is not None:
            tasks.append(self._summaries)
            self._summaries = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _summarize(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            self._decisions.summarize()
            reported = self._report_closed_unread(reported)

    def _report_closed_unread(self, reported: int) -> int:
        """Log one line for the connections closed unread since *reported*, their number then. Return the number now.

        Any machine that reaches the node can open such connections, so the lines must not depend on their number.
        """
        closed = self.counters()["closed_unread"]
        if closed > reported:
            log.warning(
                "connections to NMI's port on the node's address were closed unread, because no rule redirected them; "
                "find the program at the last peer address, and send its requests to the metadata service's address",
                extra={"count": closed - reported, "peer": self._lane.last_closed_unread},
            )
        return closed
