"""The comparison with the Go implementation's NMI, here with a small program that has its command line."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import cases, closed_loop
from benchmarks.load.benchmark_node import BenchmarkNode, on_loopback
from benchmarks.load.cases import Load
from benchmarks.load.closed_loop import Pace
from benchmarks.load.reference import binary, footprint, reference
from benchmarks.load.servers import ask
from benchmarks.machine import Cores
from benchmarks.results import Served
from podidentity_sandbox.processes import ProgramError

ITSELF = Path(__file__).with_name("go_nmi.py")


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return executable(tmp_path / "nmi", f'#!/bin/sh\nexec {sys.executable} {ITSELF} "$@"\n')


def test_without_the_variable_there_is_none() -> None:
    assert binary({}) is None
    assert binary({"REFERENCE_NMI": ""}) is None


@pytest.mark.root
def test_the_variable_names_an_executable_file(program: Path) -> None:
    assert binary({"REFERENCE_NMI": str(program)}) == program


@pytest.mark.parametrize("name", ["missing", "."])
def test_anything_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProgramError, match="not an executable file; set it to"):
        binary({"REFERENCE_NMI": str(tmp_path / name)})


@pytest.mark.root
def test_it_serves_pods_in_a_namespace_of_its_own(program: Path) -> None:
    with reference(program, 2, core=None) as started:
        node = started.node
        answer = node.pods.call(lambda: ask(node.address, node.port, source="127.1.0.2"))
        assert answer.status == 200
        assert started.start_seconds > 0
        with pytest.raises(OSError, match="refused"):
            ask(node.address, node.port)


@pytest.mark.root
def test_pods_reach_it_by_its_own_rule(program: Path) -> None:
    with reference(program, 2, behind=True, core=None) as started:
        node = started.node
        assert (node.address, node.port) == ("169.254.169.254", 80)
        assert node.pods.call(lambda: ask(node.address, node.port, source="10.200.0.2")).status == 200


@pytest.mark.root
def test_its_start_and_memory_are_measured(program: Path) -> None:
    found = footprint(program, 2)
    assert 0 < found.seconds < 30
    assert 0 < found.cpu_seconds < 10
    assert 5 < found.rss_mib < 100


@pytest.mark.root
def test_a_program_that_ends_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    broken = executable(tmp_path / "nmi", "#!/bin/sh\necho no such flag >&2\nexit 2\n")
    with pytest.raises(ProgramError, match="ended with code 2: no such flag"), reference(broken, 1, core=None):
        pass


@pytest.mark.root
def test_a_program_without_tokens_is_reported(tmp_path: Path) -> None:
    text = ITSELF.read_text().replace("self.reply(200, TOKEN)", "self.reply(404, b'nothing')")
    other = executable(tmp_path / "nmi", f"#!{sys.executable}\n{text}")
    with (
        pytest.raises(ProgramError, match=r"answers 127\.1\.0\.1 with 404: b'nothing'"),
        reference(other, 1, core=None),
    ):
        pass


def measured_until_all_respond(load: Load, stage: BenchmarkNode) -> dict[str, Served]:
    """Return the results of each server. Repeat a measurement that was too short for this machine."""
    for seconds in (0.4, 2.0, 20.0):
        pace = Pace(rounds=1, seconds=seconds, deadline=time.monotonic(), quick=True)
        servers = closed_loop.measured(load, stage, Cores(), pace).servers
        if all(each.rps.median > 0 for each in servers.values()):
            break
    return servers


@pytest.mark.root
@pytest.mark.tools
def test_each_closed_loop_has_a_row_of_it(program: Path) -> None:
    loads = {load.key: load for load in cases.ON_A_FULL_NODE}
    with on_loopback(cases.BACKGROUND_PODS + 1, cases.PAIR, go=program) as made:
        rows = {
            key: measured_until_all_respond(loads[key], made) for key in ("keep-alive-32", "no-header-32", "close-32")
        }
    assert all(set(servers) == {"nginx", "nmi", "go"} for servers in rows.values())
    assert {key: set(servers["go"].statuses) for key, servers in rows.items()} == {
        "keep-alive-32": {200},
        "no-header-32": {400},
        "close-32": {200},
    }
    assert all(servers["go"].rps.median > 0 for servers in rows.values())
