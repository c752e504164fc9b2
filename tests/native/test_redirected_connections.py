"""A connection knows whether a nat rule sent it here: host tokens hang on that, and with an option all fast answers."""

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
def test_a_redirected_connection_tells_where_it_was_meant_to_go_and_gets_fast_answers_where_a_direct_one_does_not() -> (
    None
):
    script = Path(__file__).parent / "isolated" / "redirected.py"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = ["('169.254.169.254', 80)", "None"]
    wanted = [FAST, "general", "general general"]
    redirected_from_elsewhere = ["general", "general", "general general"]
    assert done.stdout.splitlines() == told + wanted + redirected_from_elsewhere


async def test_on_loopback_without_any_rule_nobody_gets_a_fast_answer_that_only_the_redirected_get() -> None:
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
def test_what_is_no_ipv4_address_and_port_is_refused(given: tuple[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Lane(index=Index(), general=lambda _: pytest.fail("never"), limits=Limits(), redirected_from=given)
    Lane(
        index=Index(),
        general=lambda _: pytest.fail("never"),
        limits=Limits(),
        redirected_from=("169.254.169.254", 65535),
    ).close()
