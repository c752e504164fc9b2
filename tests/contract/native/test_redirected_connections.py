"""A connection reports whether a nat rule redirected it: host tokens and, by an option, all fast answers need it."""

import pytest

from _native.index import Index
from _native.lane import Lane, Limits
from tests.contract.native.isolated.lanes import METADATA, lines_of
from tests.contract.native.serving import NOT_FOUND, REQUEST, serving


@pytest.mark.root
def test_a_redirected_connection_reports_its_original_destination_and_gets_fast_answers_a_direct_one_does_not() -> None:
    destinations = ["('169.254.169.254', 80)", "None"]
    wanted = ["HTTP/1.1 200 OK", "direct", "direct direct", "redirected redirected"]
    redirected_from_elsewhere = ["direct", "direct", "direct direct", "direct direct"]
    lines = lines_of("redirected.py", network_namespace=True)
    assert lines == destinations + wanted + redirected_from_elsewhere


async def test_without_a_redirect_rule_no_connection_gets_answers_for_redirected_connections() -> None:
    async with serving(redirected_from=(METADATA, 80)) as lane:
        peer = await lane.connect()
        for _ in range(3):
            assert await peer.ask() == NOT_FOUND
        assert lane.generals[0].received == REQUEST * 3
        assert lane.generals[0].connection.original_destination() is None
        assert (lane.count("fast_answers"), lane.count("handed_over")) == (0, 3)


def lane_redirected_from(address: tuple[str, int]) -> Lane:
    return Lane(index=Index(), general=lambda _: pytest.fail("never"), limits=Limits(), redirected_from=address)


@pytest.mark.parametrize(
    ("given", "error"), [(("metadata", 80), OSError), (("fd00::1", 80), OSError), ((METADATA, 65536), OverflowError)]
)
def test_an_invalid_ipv4_address_or_port_is_rejected(given: tuple[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        lane_redirected_from(given)
    lane_redirected_from((METADATA, 65535)).close()
