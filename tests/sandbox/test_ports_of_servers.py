"""The ports of the sandbox's servers: outside the ephemeral range, so that a server gets its port back after a stop.

While the port is closed, the kernel may give a port of the ephemeral range to any outgoing connection of the machine.
Listening again then fails, and a client that expects a refusal reaches another server.
"""

from collections.abc import Callable

import pytest
from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.faults import FaultProxy, StatusProxy
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.serving import PORT_BLOCKS, HttpService


class Service(HttpService):
    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()


Server = Service | KubeApi | FaultProxy | StatusProxy

SERVERS: dict[str, Callable[[], Server]] = {
    "service": Service,
    "API server": KubeApi,
    "fault proxy": lambda: FaultProxy("127.0.0.1", 1),
    "status proxy": lambda: StatusProxy("http://127.0.0.1:1"),
}


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
async def test_a_server_gets_a_port_that_no_outgoing_connection_takes(make: Callable[[], Server]) -> None:
    server = make()
    await server.start()
    port = server.port
    await server.stop()
    assert PORT_BLOCKS.start < port < PORT_BLOCKS.stop
    await server.start(port=port)
    assert server.port == port
    await server.stop()
