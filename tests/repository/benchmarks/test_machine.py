"""Facts about cores and processes, from files of the test."""

import gzip
import platform
import subprocess
from pathlib import Path

import pytest

from benchmarks.machine import TICKS, Cores, commit

STAT = """\
cpu  9 9 9 9 9 9 9 9 9 9
cpu0 100 20 300 4000 500 6 70 8 50 10
cpu1 1 0 2 9000 0 0 0 400 0 0
cpu20 5 5 5 5 5 5 5 5 5 5
intr 1 2 3
"""
APART = "CONFIG_HZ=250\nCONFIG_IRQ_TIME_ACCOUNTING=y\n"
UNSET = "# CONFIG_IRQ_TIME_ACCOUNTING is not set\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text(STAT)
    for pid, threads in ((7, {7: 1_500_000_000, 8: 250_000_000}), (9, {9: 1})):
        for thread, nanoseconds in threads.items():
            folder = tmp_path / str(pid) / "task" / str(thread)
            folder.mkdir(parents=True)
            (folder / "schedstat").write_text(f"{nanoseconds} 99 99\n")
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) c) S {'0 ' * 10}40 60 0 0 20 0 1 0 5\n")
    return tmp_path


def test_a_core_is_busy_if_it_is_not_idle_also_for_other_virtual_machines(proc: Path) -> None:
    assert Cores(proc, proc).busy(0) == (100 + 20 + 300 + 6 + 70 + 8) / TICKS
    assert Cores(proc, proc).busy(1) == 403 / TICKS
    assert Cores(proc, proc).stolen(1) == 400 / TICKS


@pytest.mark.parametrize(
    ("packed", "config", "ticks"), [("", APART, 428), ("", "", 504), (APART, "", 428), (UNSET, APART, 504)]
)
def test_interrupts_count_only_if_the_kernel_charges_them_to_a_process(
    proc: Path, packed: str, config: str, ticks: int
) -> None:
    if packed:
        (proc / "config.gz").write_bytes(gzip.compress(packed.encode()))
    (proc / f"config-{platform.release()}").write_text(config)
    assert Cores(proc, proc).busy(0) == ticks / TICKS


def test_the_time_of_processes_is_that_of_all_their_threads_that_run(proc: Path) -> None:
    cores = Cores(proc, proc)
    assert [cores.used(pids) for pids in ([7], [7, 9], [])] == [1.75, 1.750000001, 0]
    assert cores.split([7, 9]) == (80 / TICKS, 120 / TICKS), "user and system time, for any process name"
    (proc / "7" / "task" / "8" / "schedstat").unlink()
    assert cores.used([7]) == 1.5
    with pytest.raises(FileNotFoundError):
        cores.used([77])


def test_the_commit_is_reported_with_whether_files_differ(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    (tmp_path / "results.json").write_text("a new file changes nothing that was measured")
    assert commit(tmp_path) == (git("rev-parse", "HEAD")[:10], False)
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path)[1]
