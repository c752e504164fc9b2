"""The kind of node that `make cluster` starts."""

import os
from pathlib import Path

import pytest

from tests.realnode import machine
from tools import cluster


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The kinds of nodes that `make cluster` started, which return at once."""
    kinds: list[str] = []

    def start(kind: str) -> int:
        kinds.append(kind)
        return 0

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster, "FOLDER", tmp_path / "cluster")
    monkeypatch.setattr(cluster, "run_sandbox", lambda: start("sandbox"))
    monkeypatch.setattr(cluster, "run_real_node", lambda: start("real"))
    return kinds


def test_the_node_is_real_where_the_machine_permits_it(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "reasons", list)
    assert cluster.main([]) == 0
    assert started == ["real"]


def test_the_sandbox_is_used_otherwise_and_the_reason_printed(
    started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: ["The machine does not permit bridges: no."])
    assert cluster.main([]) == 0
    assert started == ["sandbox"]
    assert "because a real one is not possible:\nThe machine does not permit bridges: no." in capsys.readouterr().out


def test_a_real_node_that_is_required_and_not_possible_is_an_error(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: ["no cgroups"])
    with pytest.raises(SystemExit, match="cannot run a real node:\nno cgroups"):
        cluster.main(["--node=real"])
    assert started == []


def test_the_sandbox_can_be_selected(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "reasons", list)
    assert cluster.main(["--node=sandbox"]) == 0
    assert started == ["sandbox"]
