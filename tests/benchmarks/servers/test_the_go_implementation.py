"""The comparison with the Go implementation's NMI, here with a small program that has its command line."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import cases, closed_loop
from benchmarks.load.benchmark_node import on_loopback
from benchmarks.load.closed_loop import Pace
from benchmarks.load.reference import reference
from benchmarks.load.servers import ask
from benchmarks.machine import Cores
from podidentity_sandbox.processes import ProgramError

ITSELF = Path(__file__).with_name("go_nmi.py")


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return executable(tmp_path / "nmi", f'#!/bin/sh\nexec {sys.executable} {ITSELF} "$@"\n')


@pytest.mark.root
def test_pods_reach_it_by_its_own_rule(program: Path) -> None:
    with reference(program, 2, behind=True, core=None) as started:
        node = started.node
        assert (node.address, node.port) == ("169.254.169.254", 80)
        assert node.pods.call(lambda: ask(node.address, node.port, source="10.200.0.2")).status == 200


@pytest.mark.root
def test_a_program_without_tokens_is_reported(tmp_path: Path) -> None:
    text = ITSELF.read_text().replace("self.reply(200, TOKEN)", "self.reply(404, b'nothing')")
    other = executable(tmp_path / "nmi", f"#!{sys.executable}\n{text}")
    with (
        pytest.raises(ProgramError, match=r"answers 127\.1\.0\.1 with 404: b'nothing'"),
        reference(other, 1, core=None),
    ):
        pass


@pytest.mark.root
@pytest.mark.tools
def test_each_closed_loop_has_a_row_of_it(program: Path) -> None:
    pace = Pace(rounds=1, seconds=0.4, deadline=time.monotonic(), quick=True)
    loads = {load.key: load for load in cases.ON_A_FULL_NODE}
    with on_loopback(cases.BACKGROUND_PODS + 1, cases.PAIR, go=program) as made:
        rows = {
            key: closed_loop.measured(loads[key], made, Cores(), pace).servers
            for key in ("keep-alive-32", "no-header-32", "close-32")
        }
    assert all(set(servers) == {"nginx", "nmi", "go"} for servers in rows.values())
    assert {key: set(servers["go"].statuses) for key, servers in rows.items()} == {
        "keep-alive-32": {200},
        "no-header-32": {400},
        "close-32": {200},
    }
    assert all(servers["go"].rps.median > 0 for servers in rows.values())
