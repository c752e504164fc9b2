"""Connections that the listener on the node's address closes unread cause one log line per period."""

import asyncio
import logging
import socket

import pytest

from nmi.server import server as server_module
from nmi.server.decisions import PERIOD_SECONDS
from tests.nmi.server.test_server_over_sockets import serving
from tests.support.waiting import until

EVENT = "were closed unread"


async def test_any_number_of_direct_connections_causes_one_line_per_period(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert PERIOD_SECONDS == 60.0, "docs/security.md promises one line a minute"
    monkeypatch.setattr(server_module, "PERIOD_SECONDS", 0.2)
    caplog.set_level(logging.WARNING, server_module.__name__)

    def lines() -> list[logging.LogRecord]:
        return [each for each in caplog.records if EVENT in each.getMessage()]

    def counted() -> int:
        return sum(int(each.__dict__["count"]) for each in lines())

    async with serving() as running:
        with socket.create_server(("127.0.0.9", 0)) as listener:
            listener.setblocking(False)
            running.server.listen_on_node(listener, ("169.254.169.254", 80))
            for opened in (100, 50):
                expected, logged = counted() + opened, len(lines())
                for _ in range(opened):
                    socket.create_connection(listener.getsockname()).close()
                await until(counted, holds=expected.__le__)
                assert 1 <= len(lines()) - logged <= 2  # a period may end between two of the connections
            assert {each.__dict__["peer"] for each in lines()} == {"127.0.0.1"}
            await asyncio.sleep(0.5)
            assert counted() == 150
            running.server.stop_accepting()
