"""One connection in the general lane: it reads whole requests and answers them one by one, in order.

While a request is being answered, the connection is paused and further bytes stay in the kernel. If the next request,
or a part of it, has been read already, reading continues for a short time, after which the connection ends with the
response. When every received byte is answered, the connection returns to the fast lane.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from nmi.refusal import Limit, Refusal
from nmi.server.handlers import Handlers
from nmi.server.outcomes import Outcome, Work
from nmi.server.policy import ServerPolicy
from nmi.server.reading import RequestReader
from nmi.server.request import Call, Origin
from nmi.server.responses import Response, StreamedResponse

log = logging.getLogger(__name__)
requests_log = logging.getLogger(f"{__name__}.requests")
"""A line for each request at DEBUG: `-v 4`."""

_STATUS_LINE_END: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"


class LaneConnection(Origin, Protocol):
    """The interface of `_native.connection.Connection` that the general lane uses."""

    @property
    def peer(self) -> str: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class ServerContext(Protocol):
    """The interface of `nmi.server.server.Server` that its connections use."""

    @property
    def policy(self) -> ServerPolicy: ...
    @property
    def handlers(self) -> Handlers: ...
    @property
    def draining(self) -> bool:
        """Whether each connection ends with its next response."""

    @property
    def waiting(self) -> "WaitingRequests":
        """The time limit of the waiting requests."""

    @property
    def now_ns(self) -> Callable[[], int]: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* as a task that the server owns and ends."""


class GeneralLane:
    """Implements `_native.connection.ConnectionReceiver` for one connection."""

    __slots__ = (
        "_connection",
        "_ended",
        "_expired",
        "_last",
        "_pipeline_timer",
        "_reader",
        "_server",
        "_task",
        "_written",
    )

    def __init__(self, connection: LaneConnection, server: ServerContext) -> None:
        self._connection = connection
        self._server = server
        self._reader = RequestReader(server.policy.sizes)
        self._task: asyncio.Task[None] | None = None
        self._pipeline_timer: asyncio.TimerHandle | None = None
        self._written = 0
        """Bytes of responses since the lane had the connection: the lane, unlike this class, reads nothing while a part
        of a response is unsent."""
        self._last = False
        """Whether the connection ends with the next response."""
        self._ended = False
        self._expired = False
        """Whether the time limit cancelled the task of the waiting request."""

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._reader.feed(data)
        if self._task is None:
            self._advance()
        # A peer that sends on during a held request must not fill NMI's memory.
        elif self._reader.waiting_bytes > self._server.policy.sizes.pipelined_bytes:
            self._stop_reading()

    def peer_gone(self) -> None:
        """Cancel the request's task and close the connection: the peer does not read the response."""
        self._end()
        self._cancel()

    def connection_lost(self) -> None:
        self._ended = True
        self._cancel_timer()
        self._cancel()

    def _advance(self) -> None:
        """Answer the received requests in order until none is left or a response needs asynchronous work."""
        while not self._ended:
            empty = self._reader.empty
            request = None if empty else self._reader.next()
            if request is None:
                if empty or self._reader.empty:  # the bytes may have been an empty line
                    self._written = 0
                    self._connection.resume()
                return
            peer, begun_ns = self._connection.peer, self._server.now_ns()
            if isinstance(request, Refusal):  # the last one: the start of the next request is unknown
                self._write(self._server.handlers.malformed(Call.of(peer, begun_ns), request))
                return
            call = Call.of(peer, begun_ns, request)
            outcome = self._server.handlers.handle(self._connection, call, request)
            if not isinstance(outcome, Outcome):
                self._wait(call, outcome)
                return
            self._write(outcome)

    def _wait(self, call: Call, work: Work) -> None:
        if self._reader.empty:
            self._connection.pause()
        else:
            # The lane cannot resume in the middle of a request, so reading continues for a short time, in which the
            # response may be ready.
            seconds = self._server.policy.pipeline_seconds
            self._pipeline_timer = asyncio.get_running_loop().call_later(seconds, self._stop_reading)
        self._expired = False
        self._task = self._server.spawn(self._respond_later(call, work))
        self._server.waiting.add(self)

    def expire(self) -> None:
        """Answer the waiting request with 503: its time has ended, or the server stops. Idempotent."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()

    async def _respond_later(self, call: Call, work: Work) -> None:
        """Wait for one response, write it, and continue with later requests. Raises nothing but CancelledError."""
        handlers, stream = self._server.handlers, _Stream(self, call)
        try:
            outcome = await work(stream)
        except asyncio.CancelledError:
            # As asyncio.timeout() does: another cancellation at the same time, of a lost connection, prevails.
            if not self._expired or self._task is None or self._task.uncancel() > 0:
                # A server that stops ends connections itself.
                if self._ended and not self._server.draining:
                    handlers.client_left(call)
                raise
            outcome = handlers.timed_out(call, stopping=self._server.draining)
        except Exception as error:  # noqa: BLE001 - the outermost handler: logged once, answered 500
            outcome = (
                handlers.timed_out(call, stopping=self._server.draining)
                if self._expired
                else handlers.failed(call, error)
            )
        finally:
            self._server.waiting.discard(self)
        self._task = None
        self._cancel_timer()
        if self._ended:
            return
        try:
            if stream.closes is None:
                self._write(outcome)
            else:
                self._end_stream(outcome, close=stream.closes)
            self._advance()
        except Exception as error:  # noqa: BLE001 - a paused connection has no deadline and must not remain paused
            self._end()
            handlers.failed(call, error)

    def _write(self, outcome: Outcome) -> None:
        """Send a response in the form that its request requires."""
        close = self.begin(outcome.call, outcome.response)
        self._count(outcome)
        if close:
            self._end()

    def _end_stream(self, outcome: Outcome, *, close: bool) -> None:
        """Complete a streamed response. If it is cut, only the end of the connection shows this to the client.

        The connection also ends if reading has stopped since the response's head was sent.
        """
        self._count(outcome)
        if close or self._last or not isinstance(outcome.response, StreamedResponse):
            self._end()

    def begin(self, call: Call, response: Response) -> bool:
        """Send *response*, or its head if it is streamed. Return whether the connection ends after it."""
        if self._written > self._server.policy.sizes.response_bytes and not self._last:
            self._last = True
            self._server.handlers.limit_hit(Limit.PIPELINE)
        close = response.ends_connection or not call.keep_alive or self._last or self._server.draining
        data = response.render(self._server.now_ns(), close)
        if call.http_1_0 and not close:
            # RFC 9112 §9.3: without this field, an HTTP/1.0 client expects the connection to close.
            data = data.replace(_STATUS_LINE_END, b"\r\nConnection: keep-alive\r\n", 1)
        # The response to HEAD has the head of the response to GET, and no body (RFC 9110 §9.3.2).
        if call.head_only:
            data = data[: data.index(_HEAD_END) + len(_HEAD_END)]
        self.send(data)
        return close

    def send(self, data: bytes) -> None:
        """Send more of a response unless the connection has ended."""
        if not self._ended:
            self._written += len(data)
            self._connection.write(data)

    def _count(self, outcome: Outcome) -> None:
        call = outcome.call
        taken = self._server.now_ns() - call.begun_ns
        outcome.series.observe(taken)
        if requests_log.isEnabledFor(logging.DEBUG):
            requests_log.debug(
                "request answered",
                extra={
                    "peer": call.peer,
                    "path": outcome.series.labels[0],
                    "status": outcome.response.status,
                    "seconds": taken / 1e9,
                    "request": call.request_id,
                    "client_request": call.client_request_id or None,
                },
            )

    def _stop_reading(self) -> None:
        """Read no more bytes while a response is pending. Reading cannot resume: that response is the last."""
        self._reader.discard()  # a held request would keep the bytes of a request that is never answered
        # No SDK pipelines requests, and a client that does must handle this (RFC 9112 §9.3.2).
        if not self._last:
            self._last = True
            self._server.handlers.limit_hit(Limit.PIPELINE)
            self._connection.pause()

    def _cancel(self) -> None:
        """Cancel the waiting request. Its task may not have begun, and then runs no part of `_respond_later`."""
        if self._task is not None:
            self._task.cancel()
            self._server.waiting.discard(self)

    def _end(self) -> None:
        self._ended = True
        self._cancel_timer()
        self._connection.finish()

    def _cancel_timer(self) -> None:
        if self._pipeline_timer is not None:
            self._pipeline_timer.cancel()
            self._pipeline_timer = None


class _Stream:
    """Implements `nmi.server.request.Stream` for one request."""

    __slots__ = ("_call", "_lane", "closes")

    def __init__(self, lane: GeneralLane, call: Call) -> None:
        self._lane = lane
        self._call = call
        self.closes: bool | None = None
        """Whether the connection ends after the response; None until the response has begun."""

    def begin(self, response: StreamedResponse) -> None:
        self.closes = self._lane.begin(self._call, response)

    def send(self, piece: bytes) -> None:
        self._lane.send(piece)


class WaitingRequest(Protocol):
    """The interface of `GeneralLane` that the time limit uses."""

    def expire(self) -> None:
        """Answer the request now, because its time has ended. It must not raise."""


class WaitingRequests:
    """The requests that wait for their response, each of which expires *seconds* after `add`.

    The time limit is the same for all of them, so that they expire in the order in which they began to wait, and one
    timer is enough for all of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expire_at: dict[WaitingRequest, float] = {}
        """The loop's times."""
        self._timer: asyncio.TimerHandle | None = None
        """Set for the oldest request, which may have been answered since."""

    def __len__(self) -> int:
        return len(self._expire_at)

    def add(self, request: WaitingRequest) -> None:
        """Expire *request* unless it is discarded in time."""
        loop = asyncio.get_running_loop()
        at = self._expire_at[request] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(at, self._expire_late)

    def discard(self, request: WaitingRequest) -> None:
        """Remove *request*, which has its response. Idempotent."""
        self._expire_at.pop(request, None)

    def expire_all(self) -> None:
        """Expire every waiting request now."""
        late, self._expire_at = self._expire_at, {}
        for request in late:
            request.expire()

    def close(self) -> None:
        """Stop the timer. The owner cancels the waiting requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_late(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._expire_at:
            request, at = next(iter(self._expire_at.items()))
            if at > now:
                self._timer = loop.call_at(at, self._expire_late)
                return
            del self._expire_at[request]
            request.expire()
