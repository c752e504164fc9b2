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
    monkeypatch.setattr(cluster, "install_packages", lambda _: None)
    monkeypatch.setattr(cluster, "run_sandbox", lambda: start("sandbox"))
    monkeypatch.setattr(cluster, "run_real_node", lambda options: start(f"real {options.proxy} {options.cni}"))
    return kinds


def test_nft_and_iptables_are_installed_before_the_machine_is_checked(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def reasons() -> list[str]:
        steps.append("checked")
        return []

    monkeypatch.setattr(cluster, "install_packages", steps.append)
    monkeypatch.setattr(machine, "reasons", reasons)
    assert cluster.main([]) == 0
    assert (steps, started) == (["test", "checked"], ["real iptables bridge"])


def test_the_sandbox_is_used_otherwise_and_the_reason_printed(
    started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: ["The machine does not permit bridges: no."])
    assert cluster.main([]) == 0
    assert started == ["sandbox"]
    assert "because a real one is not possible:\nThe machine does not permit bridges: no." in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--node=real", "--cni=ptp"])
def test_a_real_node_that_is_required_and_not_possible_is_an_error(
    started: list[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: ["no cgroups"])
    with pytest.raises(SystemExit, match="cannot run a real node:\nno cgroups"):
        cluster.main([flag])
    assert started == []


def test_the_sandbox_can_be_selected(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "reasons", list)
    assert cluster.main(["--node=sandbox"]) == 0
    assert started == ["sandbox"]


def test_the_flags_of_a_real_node_are_its_options(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "reasons", list)
    assert cluster.main(["--proxy=nftables", "--cni=ptp"]) == 0
    assert started == ["real nftables ptp"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--node=sandbox", "--cni=ptp"], "do not apply to --node=sandbox"),
        (["--proxy=nftables", "--legacy-iptables"], "mode iptables only"),
    ],
)
def test_flags_that_exclude_each_other_are_a_usage_error(
    started: list[str], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cluster.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert started == []
