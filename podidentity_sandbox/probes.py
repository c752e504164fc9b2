"""HTTP requests to programs of the sandbox: pages, readiness probes, and whether MIC and NMI are Active."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import MappingProxyType
from typing import Final

from podidentity.exits import StartError
from podidentity_sandbox.network import ExecutionContext, Network
from podidentity_sandbox.pod_projection import Container, HttpGet, NodePod
from podidentity_sandbox.processes import Program

ACTIVE_SECONDS: Final = 30.0  # both programs take about a second; a busy machine takes longer
POLL_SECONDS: Final = 0.05
ACTIVITY_SECONDS: Final = 2.0
READINESS_SECONDS: Final = 1.0
PAGE_SECONDS: Final = 5.0
PAGE_MAX: Final = 8 << 20
"""Bytes: more than a page of metrics has."""


@contextlib.contextmanager
def response_of(
    connection: HTTPConnection, path: str, headers: Mapping[str, str] = MappingProxyType({})
) -> Iterator[HTTPResponse]:
    """Yield the response to a GET, without its body, then close the connection. Block. Raise OSError."""
    try:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            yield response
    except (HTTPException, ValueError) as error:
        raise OSError(f"no HTTP response: {error}") from error
    finally:
        connection.close()


def read_page(host: str, port: int, path: str, seconds: float = PAGE_SECONDS) -> tuple[int, str, bytes]:
    """Return status, content type and body of a page, cut to PAGE_MAX bytes. Block at most *seconds* for each read.

    Raise OSError.
    """
    with response_of(HTTPConnection(host, port, timeout=seconds), path) as response:
        return response.status, response.headers.get("Content-Type", "text/plain"), response.read(PAGE_MAX)


def is_active(port: int) -> bool:
    """Return whether a program's /healthz returns Active."""
    try:
        return read_page("127.0.0.1", port, "/healthz", ACTIVITY_SECONDS)[2].strip() == b"Active"
    except OSError:
        return False


async def becomes_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Return whether *condition* is true now or within *seconds*."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                if await condition():
                    return True
                await asyncio.sleep(POLL_SECONDS)
    return False


async def until_active(program: Program, probe: Callable[[], bool]) -> None:
    """Wait until *probe*, which blocks, is true. Raise StartError, or ProgramError if the program ends."""

    async def is_active_now() -> bool:
        if program.returncode is not None:
            raise program.exit_error()
        return await asyncio.to_thread(probe)

    if not await becomes_true(is_active_now, ACTIVE_SECONDS):
        raise StartError(
            f"{program.name} is not Active after {ACTIVE_SECONDS:g} s; its last line: {program.last_line()}"
        )


def probe_of(container: Container) -> HttpGet | None:
    """Return the container's HTTP probe, if it has one."""
    return container.readiness_probe.http_get if container.readiness_probe is not None else None


def is_ready(network: Network, node: str, pod: NodePod, context: ExecutionContext) -> bool:
    """Return whether every probe of the pod's containers succeeds. Block for more than a second."""

    def succeeds(container: Container, probe: HttpGet) -> bool:
        named = {port.name: port.container_port for port in container.ports}
        port = probe.port if isinstance(probe.port, int) else named.get(probe.port, 0)
        try:
            connection = HTTPConnection(context.address, port, timeout=READINESS_SECONDS)
            with response_of(connection, probe.path) as response:
                return HTTPStatus.OK <= response.status < HTTPStatus.BAD_REQUEST
        except OSError:
            return False

    def all_succeed() -> bool:
        probed = [(container, probe) for container in pod.spec.containers if (probe := probe_of(container)) is not None]
        return all(succeeds(container, probe) for container, probe in probed)

    if pod.spec.host_network:
        return network.call_on_node(node, all_succeed)
    return network.call_in_pod(pod.metadata.uid, all_succeed)
