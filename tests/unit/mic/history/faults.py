"""Faults of requests to the API server and Resource Manager, and counts of the received requests."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from aiohttp import web

from podidentity_sandbox.serving import json_response

Server: TypeAlias = Literal["api", "arm"]
Proper: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Moment(StrEnum):
    """The point of a request at which its process is killed."""

    BEFORE = "before the request arrives"
    AFTER = "after the request took effect and before its answer arrives"


@dataclass(frozen=True, slots=True)
class Call:
    """One request of one MIC."""

    server: Server
    method: str
    path: str
    """The path with the query."""
    mic: str
    """The name of the process that sends the request."""

    @property
    def writes(self) -> bool:
        return self.method in WRITES

    @property
    def counts(self) -> bool:
        """Whether the request can affect stored state: every call to Azure, and every write of
        anything but Events to the API server."""
        return self.server == "arm" or (self.writes and "/events" not in self.path)


@dataclass(slots=True)
class Fault:
    """A fault of the next *times* requests to which it applies."""

    server: Server
    status: int = 0
    """The status of the response that replaces the server's; 0 for the server's response."""
    code: str = "Trouble"
    writes: bool | None = None
    """Only writes, only reads, or (None) both."""
    retry_after: int = 0
    slow_seconds: float = 0.0
    lost: Moment | None = None
    """The connection breaks then."""
    times: int = 1
    host: str = ""
    """Only requests whose path contains this text, in any letter case."""
    mic: str = ""
    """Only requests of this process."""

    def concerns(self, call: Call) -> bool:
        return (
            self.times > 0
            and self.server == call.server
            and self.writes in {None, call.writes}
            and self.mic in {"", call.mic}
            and self.host.lower() in call.path.lower()
        )

    def response_to(self, call: Call) -> web.Response:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if call.server == "arm":
            return json_response(
                {"error": {"code": self.code, "message": "as a test ordered"}}, status=self.status, headers=headers
            )
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": self.code, "code": self.status}
        return json_response(status, status=self.status, headers=headers)


@dataclass
class Gate:
    """Proxy of both servers. `write_line` receives each call and its outcome."""

    alive: Callable[[str], bool]
    kill: Callable[[], None]
    write_line: Callable[[str], None]
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """The counted calls, in the order of their arrival."""
    kill_at: int = -1
    """The index in `calls` of the call at which the process is killed; negative for none."""
    kill_moment: Moment = Moment.BEFORE
    before: Callable[[Call], None] = lambda _call: None
    """Called before a counted call is made: another client's concurrent action."""
    throttled: dict[tuple[str, str, bool], float] = field(default_factory=dict)
    """The time until which the host must not be called, by process, host, and whether it is a write."""
    impatient: list[str] = field(default_factory=list)
    """Requests that arrived before their Retry-After had passed."""

    def clear(self) -> None:
        """Let all requests pass from now on."""
        self.faults.clear()
        self.kill_at, self.before = -1, lambda _call: None

    async def meet(self, server: Server, request: web.BaseRequest, proper: Proper) -> web.StreamResponse:
        """Return the response of *server* to *request*, unless a fault applies."""
        call = Call(server, request.method, request.path_qs, request.headers.get("User-Agent", "").split("/")[0])
        # The loop cancels the tasks of a killed process later, and a request that they have written still arrives.
        if not self.alive(call.mic):
            return _broken(request)
        self._patient(call)
        moment = self._killed(call)
        if call.counts:
            self.write_line(f"{call.mic}: {call.method} {call.path.split('?')[0]}")
        if moment is Moment.BEFORE:
            self.kill()
            return _broken(request)
        fault = next((fault for fault in self.faults if fault.concerns(call)), None)
        if fault is not None:
            fault.times -= 1
            self.write_line(f"  trouble: {fault}")
            if fault.slow_seconds:
                await asyncio.sleep(fault.slow_seconds)
            if fault.lost is Moment.BEFORE:
                return _broken(request)
            if fault.status:
                self._note_throttling(call, fault)
                return fault.response_to(call)
        if call.counts:
            self.before(call)
        response = await proper(request)
        if call.counts:
            self.write_line(f"  -> {response.status}")
        if moment is Moment.AFTER:
            self.kill()
        if moment is Moment.AFTER or (fault is not None and fault.lost is Moment.AFTER):
            return _broken(request)
        return response

    def _killed(self, call: Call) -> Moment | None:
        if not call.counts:
            return None
        self.calls.append(call)
        return self.kill_moment if len(self.calls) - 1 == self.kill_at else None

    def _note_throttling(self, call: Call, fault: Fault) -> None:
        if call.server == "arm" and fault.status == 429:
            key = (call.mic, _resource(call), call.writes)
            self.throttled[key] = asyncio.get_running_loop().time() + fault.retry_after

    def _patient(self, call: Call) -> None:
        until = self.throttled.get((call.mic, _resource(call), call.writes), 0.0)
        if call.server == "arm" and asyncio.get_running_loop().time() < until - 0.01:
            self.impatient.append(f"{call.method} {call.path}: {until - asyncio.get_running_loop().time():.1f} s early")


def _resource(call: Call) -> str:
    return call.path.split("?")[0].lower()


def _broken(request: web.BaseRequest) -> web.Response:
    """The connection ends without a response."""
    if request.transport is not None:
        request.transport.abort()
    # aiohttp's handlers must return a response; the aborted connection does not carry it.
    return web.Response(status=502)
