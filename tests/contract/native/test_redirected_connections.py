"""A connection reports whether a nat rule redirected it: host tokens and, by an option, all fast answers need it."""

import asyncio
import socket

import pytest
from typing_extensions import override

from _native.index import Index
from _native.lane import Lane
from tests.contract.native.behind_nat import METADATA, in_network_namespace, redirect
from tests.contract.native.serving import NOT_FOUND, OTHER_REQUEST, REQUEST, Recorder, serving
from tests.support.nmi.server.limits import limits_with


class Deciding(Recorder):
    """A general lane that answers each request with the lane's decision about its connection."""

    @override
    def data_received(self, data: bytes) -> None:
        self.note("data")
        destination = self.connection.original_destination()
        self.connection.write(f"{self.connection.was_redirected()} {destination}\n".encode())
        self.connection.resume()


def ask(address: tuple[str, int], *requests: bytes) -> list[str]:
    with socket.create_connection(address, timeout=60) as sock:
        lines = sock.makefile()
        responses = []
        for request in requests:
            sock.sendall(request)
            responses.append(lines.readline().strip())
        return responses


async def connections() -> None:
    from_rule, direct, fast = (METADATA, 80), "False None", "HTTP/1.1 200 OK"
    for limited_to, redirected, ready in (
        (None, f"True {from_rule}", fast),
        (from_rule, f"True {from_rule}", fast),
        ((METADATA, 81), f"False {from_rule}", f"False {from_rule}"),
    ):
        async with serving(Deciding, addresses=("127.0.0.1", METADATA), redirected_from=limited_to) as lane:
            here = ("127.0.0.1", lane.port)
            redirect(*from_rule, f"127.0.0.1:{lane.port}")
            # The decision is the same until the connection ends.
            assert await asyncio.to_thread(ask, from_rule, OTHER_REQUEST, OTHER_REQUEST) == [redirected] * 2
            assert await asyncio.to_thread(ask, from_rule, REQUEST) == [ready]
            if limited_to is not None:
                assert await asyncio.to_thread(ask, here, REQUEST, REQUEST) == [direct] * 2


@pytest.mark.root
def test_a_redirected_connection_reports_its_original_destination_and_gets_fast_answers_a_direct_one_does_not() -> None:
    in_network_namespace(connections, METADATA)


async def test_without_a_redirect_rule_no_connection_gets_answers_for_redirected_connections() -> None:
    async with serving(redirected_from=(METADATA, 80)) as lane:
        peer = await lane.connect()
        for _ in range(3):
            assert await peer.ask() == NOT_FOUND
        assert lane.generals[0].received == REQUEST * 3
        assert lane.generals[0].connection.original_destination() is None
        assert (lane.count("fast_answers"), lane.count("handed_over")) == (0, 3)


@pytest.mark.parametrize(
    ("given", "error"), [(("metadata", 80), OSError), (("fd00::1", 80), OSError), ((METADATA, 65536), OverflowError)]
)
def test_an_invalid_ipv4_address_or_port_is_rejected(given: tuple[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Lane(index=Index(), general=Recorder, limits=limits_with(), redirected_from=given)
    Lane(index=Index(), general=Recorder, limits=limits_with(), redirected_from=(METADATA, 65535)).close()
