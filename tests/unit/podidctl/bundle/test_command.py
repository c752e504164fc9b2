"""The two files that `podidctl bundle` writes: both or none, for this user only, and never over another file."""

import asyncio
import errno
import json
import os
import signal
import tarfile
from pathlib import Path

import pytest

import podidctl.cli
from podidctl.bundle import command
from podidctl.bundle.contents import Files
from podidctl.commands.signals import SIGNALS
from podidentity.exits import StartError


@pytest.fixture(autouse=True)
def collection(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls that read the cluster, which has one file."""
    calls: list[object] = []

    async def collect(settings: object) -> Files:
        calls.append(settings)
        return {"pods.json": [{"metadata": {"name": "payroll-1"}}]}

    monkeypatch.setattr(command, "_collect", collect)
    return calls


def test_the_archive_and_the_names_are_for_this_user_only(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    assert podidctl.cli.main(["bundle", str(archive)]) == 0
    names = tmp_path / "a.tar.gz.names.json"
    assert json.loads(names.read_text()) == {"payroll-1": "name-1"}
    assert {path.stat().st_mode & 0o777 for path in (archive, names)} == {0o600}
    with tarfile.open(archive) as opened:
        assert opened.getnames() == ["podidctl-bundle/pods.json", "podidctl-bundle/README.txt"]


@pytest.mark.parametrize("existing", ["a.tar.gz", "a.tar.gz.names.json"])
def test_an_existing_file_stays_and_the_cluster_is_not_read(
    existing: str, tmp_path: Path, collection: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / existing).write_text("mine")
    assert podidctl.cli.main(["bundle", str(tmp_path / "a.tar.gz")]) == 1
    assert capsys.readouterr().err.endswith(f"{existing} cannot be written (File exists): choose another FILE\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "mine")]
    assert collection == []


@pytest.mark.parametrize("full", ["a.tar.gz", "a.tar.gz.names.json"])
def test_a_full_disk_leaves_no_file(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_bytes

    def limited(path: Path, content: bytes) -> int:
        if path.name == full:
            write(path, content[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", limited)
    assert podidctl.cli.main(["bundle", str(tmp_path / "a.tar.gz")]) == 1
    assert capsys.readouterr().err.endswith("(No space left on device): free space on its disk\n")
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_cannot_be_read_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> Files:
        raise StartError("no response")

    monkeypatch.setattr(command, "_collect", fail)
    assert podidctl.cli.main(["bundle", str(tmp_path / "a.tar.gz")]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", ["_collect", "_packed"])
def test_a_signal_leaves_no_file_or_both(
    step: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> list[Path]:
        return list(tmp_path.iterdir())

    async def interrupted(_: object) -> Files:
        assert len(files()) == 2
        signal.raise_signal(number)
        await asyncio.sleep(60)
        return {}

    def interrupted_there(*_: object) -> bytes:
        signal.raise_signal(number)
        return b""

    monkeypatch.setattr(command, step, interrupted if step == "_collect" else interrupted_there)
    before = signal.signal(number, signal.default_int_handler)  # also under nohup
    try:
        code = podidctl.cli.main(["bundle", str(tmp_path / "a.tar.gz")])
    finally:
        signal.signal(number, before)
    is_late = step == "_packed"  # both files are written immediately after this
    assert (code, len(files())) == ((0, 2) if is_late else (128 + number, 0))
