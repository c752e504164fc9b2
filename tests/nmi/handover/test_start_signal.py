"""The start signal: the command of the startup probe succeeds only while an NMI of this container gives the signal."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmi.handover.start_signal import BACKLOG, StartSignal, is_given, wait


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        yield Path(folder) / "started"


@pytest.fixture
def signal(path: Path) -> Iterator[StartSignal]:
    given = StartSignal(path)
    yield given
    given.close()


def test_the_signal_is_given_until_it_is_closed(path: Path, signal: StartSignal) -> None:
    assert not is_given(str(path))
    signal.give()
    signal.give()
    assert is_given(str(path))
    signal.close()
    assert not is_given(str(path))
    assert not path.exists()


def test_an_unlimited_number_of_probes_sees_the_signal(path: Path, signal: StartSignal) -> None:
    signal.give()
    assert all(is_given(str(path)) for _ in range(3 * BACKLOG))


def test_the_socket_of_a_killed_nmi_is_no_signal(path: Path) -> None:
    steps = ["import os, pathlib, nmi.handover.start_signal as s", f"s.StartSignal(pathlib.Path({str(path)!r})).give()"]
    killed = "; ".join([*steps, "os._exit(9)"])
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert path.exists()
    assert not is_given(str(path))
    next_one = StartSignal(path)
    next_one.give()
    assert is_given(str(path))
    next_one.close()


def test_a_file_at_the_path_is_no_signal(path: Path) -> None:
    path.write_text("")
    assert not is_given(str(path))


def test_without_a_path_nothing_is_given() -> None:
    signal = StartSignal(None)
    signal.give()
    signal.close()


def test_a_signal_that_comes_later_ends_the_wait(path: Path, signal: StartSignal) -> None:
    later = threading.Timer(0.1, signal.give)
    later.start()
    assert wait(str(path), 30)
    later.join()  # the signal must not be closed while it is given


def test_the_command_of_the_probe(path: Path, signal: StartSignal) -> None:
    command = [sys.executable, "-I", "-m", "nmi.handover.start_signal", str(path), "0.1"]
    without = subprocess.run(command, capture_output=True, text=True, check=False)
    assert without.returncode == 1
    assert "has not taken over its ports within 0.1 s" in without.stderr
    signal.give()
    assert subprocess.run(command, check=False).returncode == 0
