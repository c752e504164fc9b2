"""Ports of the sandbox.

No two processes of a machine get the same one for a program that is started later. Ports of servers are outside the
ephemeral range, so that a server gets its port back after a stop: while it is closed, the kernel may give a port of
that range to any outgoing connection."""

import json
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from aiohttp import web
from typing_extensions import override

from podidentity_sandbox import serving
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.serving import PORT_BLOCKS, HttpService, free_ports
from tests.support.fault_proxy import FaultProxy

OTHER = "import json, sys; from podidentity_sandbox.serving import free_ports; print(json.dumps(free_ports(60)))"


def block(port: int) -> int:
    return (port - PORT_BLOCKS.start) // PORT_BLOCKS.step


def test_each_port_is_returned_once_before_the_block_starts_again() -> None:
    ports = [port for _ in range(20) for port in free_ports(3)]
    assert len(set(ports)) == 60
    assert len({block(port) for port in ports}) == 1
    assert all(port not in PORT_BLOCKS for port in ports), "the first port of a block is its guard"


def test_a_port_on_which_a_program_listens_is_omitted() -> None:
    taken = free_ports(5)
    with ExitStack() as stack:
        for port in taken:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        for _ in range(4):
            assert not {*free_ports(30)} & {*taken}


def test_more_ports_than_the_block_has_are_an_error() -> None:
    with pytest.raises(OSError, match="fewer than 80 free ports"):
        free_ports(80)


def test_two_processes_have_different_blocks() -> None:
    mine = {block(port) for port in free_ports(10)}
    done = subprocess.run([sys.executable, "-c", OTHER], capture_output=True, text=True, timeout=60, check=True)
    assert mine.isdisjoint(block(port) for port in json.loads(done.stdout))


def test_a_forked_process_takes_another_block() -> None:
    mine = {block(port) for port in free_ports(10)}
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert mine.isdisjoint(block(port) for port in pool.apply(free_ports, (10,)))


def test_without_a_free_block_the_error_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = PORT_BLOCKS.start + block(free_ports(1)[0]) * PORT_BLOCKS.step
    monkeypatch.setattr(serving, "PORT_BLOCKS", range(guard, guard + 1, PORT_BLOCKS.step))
    with pytest.raises(OSError, match="no free block of ports"):
        serving._PortBlock()


def test_a_port_can_be_used_while_a_forked_child_has_a_copy_of_each_open_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, copies = socket.create_server, ExitStack()

    def create_with_a_copy(address: tuple[str, int]) -> socket.socket:
        created = create(address)
        copies.enter_context(created.dup())
        return created

    monkeypatch.setattr(socket, "create_server", create_with_a_copy)
    with copies:
        for port in free_ports(3):
            serving.listening("127.0.0.1", port).close()


class Service(HttpService):
    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()


Server = Service | KubeApi | FaultProxy

SERVERS: dict[str, Callable[[], Server]] = {
    "service": Service,
    "API server": KubeApi,
    "fault proxy": lambda: FaultProxy("127.0.0.1", 1),
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
