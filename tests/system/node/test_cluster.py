"""The kind of node that `make cluster` starts."""

import os
from pathlib import Path

import pytest

from tests.system.node import machine
from tools import cluster

BRIDGES = "The machine does not permit bridges: no."


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What `make cluster` did before it would wait for Ctrl-C."""
    found: list[str] = []

    def start(kind: str) -> int:
        found.append(kind)
        return 0

    def reasons() -> list[str]:
        found.append("checked")
        return []

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster, "FOLDER", tmp_path / "cluster")
    monkeypatch.setattr(cluster, "install_packages", found.append)
    monkeypatch.setattr(machine, "reasons", reasons)
    monkeypatch.setattr(cluster, "run_sandbox", lambda: start("sandbox"))
    monkeypatch.setattr(cluster, "run_real_node", lambda options: start(f"real {options.proxy} {options.cni}"))
    return found


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # nft and iptables are installed before the machine is checked.
        ([], ["test", "checked", "real iptables bridge"]),
        (["--proxy=nftables", "--cni=ptp"], ["test", "checked", "real nftables ptp"]),
        (["--node=sandbox"], ["test", "sandbox"]),
    ],
)
def test_a_real_node_is_started_where_it_is_possible(steps: list[str], flags: list[str], expected: list[str]) -> None:
    assert cluster.main(flags) == 0
    assert steps == expected


def test_the_sandbox_is_used_otherwise_and_the_reason_printed(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: [BRIDGES])
    assert cluster.main([]) == 0
    assert steps == ["test", "sandbox"]
    assert f"because a real one is not possible:\n{BRIDGES}" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--node=real", "--cni=ptp"])
def test_a_real_node_that_is_required_and_not_possible_is_an_error(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(machine, "reasons", lambda: [BRIDGES])
    with pytest.raises(SystemExit, match=f"cannot run a real node:\n{BRIDGES}"):
        cluster.main([flag])
    assert steps == ["test"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--node=sandbox", "--cni=ptp"], "do not apply to --node=sandbox"),
        (["--proxy=nftables", "--legacy-iptables"], "mode iptables only"),
    ],
)
def test_flags_that_exclude_each_other_are_a_usage_error(
    steps: list[str], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cluster.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not any(each.startswith(("real", "sandbox")) for each in steps)
