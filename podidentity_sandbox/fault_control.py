"""Faults that an operator switches on a running sandbox, by a Unix socket that only the sandbox's user can open.

A fault is written `SERVICE=VALUE`. SERVICE is `imds`, `arm`, `aad`, `proxy` or `api`. VALUE is an HTTP status from 400
to 599, `hang` (requests wait until the fault is cleared) or a delay such as `2.5s`; `arm`, `aad` and `proxy`, the token
proxy of identity bindings, also have conditions such as `no-role`. A service has at most one fault. Faults of `api` do
not concern the sandbox's own requests (kubelets, scheduler), and end the watches that are open.
"""

import asyncio
import contextlib
import errno
import math
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from podidentity.exits import StartError
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.serving import HttpService, ResponseFault, bound, json_response, serve

SOCKET_NAME: Final = "control.sock"
CALL_SECONDS: Final = 10.0
DELAY_MAX_SECONDS: Final = 3600.0
ENDED: Final = "it has ended or is not ready; start one with podidctl sandbox up, then use the variables that it prints"
"""The cause and the next action of a command that does not reach its sandbox."""
RETRY_AFTER: Final = {"Retry-After": "2"}
_DELAY: Final = re.compile(r"(\d+(?:\.\d+)?)s", re.ASCII)
_STATUS: Final = re.compile(r"[45]\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Service:
    """A service whose responses can be replaced, and which may have conditions."""

    server: HttpService
    document: Callable[[int], Mapping[str, Any]]
    """Return the body of an error response with this status."""
    on_change: Callable[[], None] = lambda: None
    """Called after each change of the service's faults."""

    def start(self, name: str, value: str) -> Callable[[], Callable[[], None]]:
        """Return the function that sets the fault *value*; the result of that one removes it. Raise StartError."""
        server = self.server
        fault = None if value in server.conditions else self._fault(name, value)

        def set_fault() -> Callable[[], None]:
            if fault is None:
                server.set_condition(value)
                return lambda: server.set_condition("")
            server.faults.add(fault)
            return lambda: server.faults.remove(fault)

        return set_fault

    def _fault(self, name: str, value: str) -> ResponseFault:
        if _STATUS.fullmatch(value):
            status = int(value)
            headers = RETRY_AFTER if status in {429, 503} else {}
            return ResponseFault(status=status, document=self.document(status), headers=headers, times=math.inf)
        if value == "hang":
            return ResponseFault(hold=True, times=math.inf)
        delay = _DELAY.fullmatch(value)
        if delay is not None and float(delay[1]) <= DELAY_MAX_SECONDS:
            return ResponseFault(delay_seconds=float(delay[1]), times=math.inf)
        usual = ("a status from 400 to 599", *self.server.conditions, "hang")
        raise StartError(f"{name}={value[:40]!a}: use {', '.join(usual)}, or a delay of up to 3600s")


def split(text: str) -> tuple[str, str]:
    """Return the service and the value of `SERVICE=VALUE`. Raise StartError."""
    service, equals, value = text.partition("=")
    if not equals or not service or not value:
        raise StartError(f"{text[:80]!a} is not SERVICE=VALUE; write for example imds=500, arm=429, api=hang or aad=2s")
    return service, value


class FaultControl:
    """The switch of the services' faults, served on a Unix socket between `start` and `stop`."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self._active: dict[str, tuple[str, Callable[[], None]]] = {}
        self._runner: web.ServerRunner | None = None

    @property
    def active(self) -> dict[str, str]:
        """The value of each service's fault."""
        return {service: value for service, (value, _) in sorted(self._active.items())}

    def set(self, wanted: Mapping[str, str]) -> None:
        """Set these faults, each in place of the service's former one. Change nothing on a StartError."""
        starts = {name: self._find(name).start(name, value) for name, value in wanted.items()}
        for name, start in starts.items():
            self.clear([name])
            self._active[name] = (wanted[name], start())
            self._services[name].on_change()

    def clear(self, services: Iterable[str] = ()) -> None:
        """Remove the faults of *services*, or all. Raise StartError for an unknown service."""
        for service in tuple(services) or tuple(self._active):
            on_change = self._find(service).on_change
            if service in self._active:
                _, end = self._active.pop(service)
                end()
                on_change()

    async def start(self, path: Path) -> None:
        """Listen on a socket with mode 0600 at *path*. Raise OSError."""
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.5)
        await runner.setup()
        listener = await asyncio.to_thread(_listen, path)
        self._runner = runner
        await serve(runner, listener)

    async def stop(self) -> None:
        """Clear all faults and stop listening, also if a fault cannot be cleared. Do nothing if it is not running."""
        async with contextlib.AsyncExitStack() as parts:
            if self._runner is not None:
                parts.push_async_callback(self._runner.cleanup)
                self._runner = None
            for service in self._active:
                parts.callback(self.clear, [service])

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.method == "PUT":
                self.set(msgspec.json.decode(await request.read(), type=dict[str, str]))
            elif request.method == "DELETE":
                self.clear(request.rel_url.query.getall("service", []))
            elif request.method != "GET":
                return json_response({"error": "use GET, PUT or DELETE"}, status=405)
        except (StartError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return json_response({"error": str(error)}, status=400)
        return json_response({"faults": self.active})

    def _find(self, service: str) -> Service:
        if service not in self._services:
            raise StartError(f"unknown service {service[:40]!a}: use {', '.join(self._services)}")
        return self._services[service]


def _listen(path: Path) -> socket.socket:
    listener = bound(str(path), socket.AF_UNIX)
    path.chmod(0o600)  # until then the mode of the folder protects it
    return listener


async def call(
    path: Path, *, wanted: Mapping[str, str] | None = None, clear: Iterable[str] | None = None
) -> dict[str, str]:
    """Clear and set faults of the sandbox with this socket; return the active ones. Raise StartError.

    *clear* names the services whose faults are cleared; an empty one clears all.
    """
    url = "http://sandbox/faults"
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
            if clear is not None:
                await _checked(await session.delete(url, params=[("service", service) for service in clear]))
            if wanted:
                return await _checked(await session.put(url, json=dict(wanted)))
            return await _checked(await session.get(url))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        has_ended = isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ECONNREFUSED}
        cause = ENDED if has_ended else f"{error}; check that podidctl sandbox up runs"
        raise StartError(f"cannot reach the sandbox at {path.parent}: {cause}") from error


async def _checked(response: aiohttp.ClientResponse) -> dict[str, str]:
    document = msgspec.json.decode(await response.read(), type=dict[str, Any])
    if response.status != 200:
        raise StartError(str(document.get("error", response.status)))
    return dict(document["faults"])


def azure_error(status: int) -> dict[str, Any]:
    """Return the error body of Azure Resource Manager."""
    code = "TooManyRequests" if status == 429 else "SandboxFault"
    return {"error": {"code": code, "message": f"podidctl sandbox fault arm={status}"}}


def imds_error(status: int) -> dict[str, Any]:
    """Return the error body of IMDS."""
    error = "too_many_requests" if status == 429 else "sandbox_fault"
    return {"error": error, "error_description": f"podidctl sandbox fault imds={status}"}


def aad_error(status: int) -> dict[str, Any]:
    """Return the error body of AAD: its transient error."""
    text = f"AADSTS90033: A transient error has occurred (podidctl sandbox fault aad={status})."
    return {"error": "temporarily_unavailable", "error_description": text, "error_codes": [90033]}


def proxy_error(status: int) -> dict[str, Any]:
    """Return an error body of the token proxy, which AKS does not document."""
    return {"error": "sandbox_fault", "error_description": f"podidctl sandbox fault proxy={status}"}


def api_error(status: int) -> dict[str, Any]:
    """Return the API server's Status object."""
    has_own_reason = status in {401, 403, 404, 429, 503}
    reason = HTTPStatus(status).phrase.replace(" ", "") if has_own_reason else "InternalError"
    return StatusError(status, reason, f"podidctl sandbox fault api={status}").document()
