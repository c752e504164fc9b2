"""One connection in the general lane: whole requests in, answers out, one at a time and in their order.

Which bytes are read when: while a request is being answered the connection is paused and the kernel holds what the peer
sends. Only if part of a further request has been read already is it left open, for a short while, since the lane knows
no way back into the midst of a request; past that time the connection ends with the answer. No SDK pipelines, and a
client that does has to be ready for that (RFC 9112 §9.3.2). When every byte received is answered, the connection goes
back to the fast lane.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol, Self

from nmi.refusal import Limit, Refusal
from nmi.server.handlers import Handlers
from nmi.server.outcomes import Outcome, Pending
from nmi.server.policy import ServerPolicy
from nmi.server.reading import RequestReader
from nmi.server.request import Request
from nmi.server.responses import Answer, StreamedAnswer

log = logging.getLogger(__name__)
requests_log = logging.getLogger(f"{__name__}.requests")
"""A line for each request at DEBUG: `-v 4`."""

_STATUS_LINE_END: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"


class Manner(NamedTuple):
    """What of a request its answer depends on in form; all that is kept of it while it waits."""

    keep_alive: bool
    http_1_0: bool
    head_only: bool

    @classmethod
    def of(cls, request: Request) -> Self:
        return cls(request.keep_alive, request.http_1_0, request.method == "HEAD")


_UNKNOWN_MANNER: Final = Manner(keep_alive=False, http_1_0=False, head_only=False)
"""For an answer to what could not be understood."""


class Link(Protocol):
    """What is needed of a `_native.connection.Connection`."""

    @property
    def peer(self) -> str: ...
    def original_destination(self) -> tuple[str, int] | None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Host(Protocol):
    """What the connections of one server share: `nmi.server.server.Server`."""

    @property
    def policy(self) -> ServerPolicy: ...
    @property
    def handlers(self) -> Handlers: ...
    @property
    def draining(self) -> bool:
        """Whether each connection is to end with its next answer."""

    @property
    def deadlines(self) -> set[asyncio.Timeout]:
        """Those of the requests that wait for their answer; whoever expires one has that request answered with 503."""

    @property
    def now_ns(self) -> Callable[[], int]: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* as a task that the server owns and ends."""


class GeneralLane:
    """Implements `_native.connection.GeneralLane` for one connection."""

    __slots__ = ("_connection", "_ended", "_host", "_hurry", "_last", "_reader", "_task", "_written")

    def __init__(self, connection: Link, host: Host) -> None:
        self._connection = connection
        self._host = host
        self._reader = RequestReader(host.policy.sizes)
        self._task: asyncio.Task[None] | None = None
        self._hurry: asyncio.TimerHandle | None = None
        self._written = 0
        self._last = False
        self._ended = False

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._reader.feed(data)
        if self._task is None:
            self._advance()
        elif self._reader.waiting_bytes > self._host.policy.sizes.pipelined_bytes:
            self._stop_reading()

    def peer_gone(self) -> None:
        """Nobody will read the answer: the request's task is cancelled, and the connection closed."""
        self._end()
        if self._task is not None:
            self._task.cancel()

    def connection_lost(self) -> None:
        self._ended = True
        self._calm()
        if self._task is not None:
            self._task.cancel()

    def _advance(self) -> None:
        """Answer what has arrived, in order, until there is nothing more or an answer has to be waited for."""
        while not self._ended:
            found = self._reader.next()
            if found is None:
                if self._reader.empty:
                    self._written = 0
                    self._connection.resume()
                return
            begun = self._host.now_ns()
            if isinstance(found, Refusal):
                self._write(_UNKNOWN_MANNER, self._host.handlers.malformed(self._connection, found), begun)
                return
            outcome = self._host.handlers.answer(self._connection, found)
            if not isinstance(outcome, Outcome):
                self._wait(Manner.of(found), outcome, begun)
                return
            self._write(Manner.of(found), outcome, begun)

    def _wait(self, manner: Manner, pending: Pending, begun: int) -> None:
        if self._reader.empty:
            self._connection.pause()
        else:
            seconds = self._host.policy.pipeline_seconds
            self._hurry = asyncio.get_running_loop().call_later(seconds, self._stop_reading)
        self._task = self._host.spawn(self._answer_later(manner, pending, begun))

    async def _answer_later(self, manner: Manner, pending: Pending, begun: int) -> None:
        """Wait for one answer, write it, go on with what arrived meanwhile. Only cancellation leaves here."""
        handlers, stream = self._host.handlers, _Stream(self, manner)
        deadline = asyncio.timeout(self._host.policy.answer_seconds)
        try:
            async with deadline:
                self._host.deadlines.add(deadline)
                outcome = await pending.work(stream)
        except Exception as error:  # noqa: BLE001 - the outermost handler: logged once, answered 500
            outcome = (
                handlers.late(pending, stopping=self._host.draining)
                if deadline.expired()
                else handlers.failed(pending, error)
            )
        finally:
            self._host.deadlines.discard(deadline)
        self._task = None
        self._calm()
        if self._ended:
            return
        try:
            if stream.closes is None:
                self._write(manner, outcome, begun)
            else:
                self._written_through(outcome, begun, close=stream.closes)
            self._advance()
        except Exception as error:  # noqa: BLE001 - a paused connection has no deadline: it must not be left so
            self._end()
            handlers.failed(pending, error)

    def _write(self, manner: Manner, outcome: Outcome, begun: int) -> None:
        """Send an answer in the manner that its request asks for."""
        close = self.begin(manner, outcome.answer)
        self._count(outcome, begun)
        if close:
            self._end()

    def _written_through(self, outcome: Outcome, begun: int, *, close: bool) -> None:
        """The end of an answer that has begun already: it is whole, or cut, which only the connection's end can say."""
        self._count(outcome, begun)
        if close or not isinstance(outcome.answer, StreamedAnswer):
            self._end()

    def begin(self, manner: Manner, answer: Answer) -> bool:
        """Send *answer*, or what there is of it yet; whether the connection ends after it."""
        if self._written > self._host.policy.sizes.answered_bytes and not self._last:
            self._last = True
            self._host.handlers.limit_hit(Limit.PIPELINE)
        close = answer.ends_connection or not manner.keep_alive or self._last or self._host.draining
        data = answer.render(self._host.now_ns(), close)
        if manner.http_1_0 and not close:
            # RFC 9112 §9.3: such a client takes the connection for closing unless it is told otherwise.
            data = data.replace(_STATUS_LINE_END, b"\r\nConnection: keep-alive\r\n", 1)
        if manner.head_only:
            data = data[: data.index(_HEAD_END) + len(_HEAD_END)]
        self.send(data)
        return close

    def send(self, data: bytes) -> None:
        """Send more of an answer, unless nobody is there to read it any more."""
        if not self._ended:
            self._written += len(data)
            self._connection.write(data)

    def _count(self, outcome: Outcome, begun: int) -> None:
        taken = self._host.now_ns() - begun
        outcome.series.observe(taken)
        if requests_log.isEnabledFor(logging.DEBUG):
            requests_log.debug(
                "request answered",
                extra={
                    "peer": outcome.call.peer,
                    "path": outcome.series.labels[0],
                    "status": outcome.answer.status,
                    "seconds": taken / 1e9,
                    "request": outcome.call.request,
                    "client_request": outcome.call.client_request or None,
                },
            )

    def _stop_reading(self) -> None:
        """Take no more bytes while an answer is awaited. There is no way back from here: that answer is the last."""
        if not self._last:
            self._last = True
            self._host.handlers.limit_hit(Limit.PIPELINE)
            self._connection.pause()

    def _end(self) -> None:
        self._ended = True
        self._calm()
        self._connection.finish()

    def _calm(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None


class _Stream:
    """Implements `nmi.server.passthrough.Stream` for one request."""

    __slots__ = ("_lane", "_manner", "closes")

    def __init__(self, lane: GeneralLane, manner: Manner) -> None:
        self._lane = lane
        self._manner = manner
        self.closes: bool | None = None
        """Whether the connection ends after the answer; None until it has begun."""

    def begin(self, answer: StreamedAnswer) -> None:
        self.closes = self._lane.begin(self._manner, answer)

    def send(self, piece: bytes) -> None:
        self._lane.send(piece)
