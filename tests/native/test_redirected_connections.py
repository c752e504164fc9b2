"""A connection reports whether a nat rule redirected it: host tokens and, by an option, all fast answers need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from _native.index import Index
from _native.lane import Lane, Limits
from tests.native.serving import NOT_FOUND, REQUEST, serving

ROOT = Path(__file__).parents[2]
FAST = "HTTP/1.1 200 OK"


@pytest.mark.root
def test_a_redirected_connection_reports_its_original_destination_and_gets_fast_answers_a_direct_one_does_not() -> None:
    script = Path(__file__).parent / "isolated" / "redirected.py"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    destinations = ["('169.254.169.254', 80)", "None"]
    wanted = [FAST, "direct", "direct direct", "redirected redirected"]
    redirected_from_elsewhere = ["direct", "direct", "direct direct", "direct direct"]
    assert done.stdout.splitlines() == destinations + wanted + redirected_from_elsewhere


async def test_without_a_redirect_rule_no_connection_gets_answers_for_redirected_connections() -> None:
    async with serving(redirected_from=("169.254.169.254", 80)) as lane:
        peer = await lane.connect()
        for _ in range(3):
            assert await peer.ask() == NOT_FOUND
        assert lane.generals[0].received == REQUEST * 3
        assert lane.generals[0].connection.peer == "127.0.0.1"
        assert lane.generals[0].connection.original_destination() is None
        assert (lane.count("fast_answers"), lane.count("handed_over")) == (0, 3)
    async with serving() as lane:
        assert b" 200 " in await (await lane.connect()).ask()


@pytest.mark.parametrize(
    ("given", "error"),
    [(("metadata", 80), OSError), (("fd00::1", 80), OSError), (("169.254.169.254", 65536), OverflowError)],
)
def test_an_invalid_ipv4_address_or_port_is_rejected(given: tuple[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Lane(index=Index(), general=lambda _: pytest.fail("never"), limits=Limits(), redirected_from=given)
    Lane(
        index=Index(),
        general=lambda _: pytest.fail("never"),
        limits=Limits(),
        redirected_from=("169.254.169.254", 65535),
    ).close()
