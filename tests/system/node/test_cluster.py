"""The kind of node that `make cluster` starts, and the reasons why a machine cannot run a real one."""

import os
from pathlib import Path

import pytest

from tests.system.node import machine
from tools import cluster

BRIDGES = "The machine does not permit bridges: denied."
NAMESPACES = "The kernel does not permit namespaces (denied); a container needs CAP_SYS_ADMIN for them."


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The scripts in new namespaces that fail on this machine; none at first."""
    scripts: set[str] = set()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "missing_cgroups", list)
    monkeypatch.setattr(machine, "run", lambda script: "denied" if script in scripts else "")
    return scripts


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: set[str]) -> list[str]:
    """What `make cluster` did before it would wait for Ctrl-C. The machine has no nft before it installs packages."""
    names: list[str] = []
    refused.add(machine.PROBES["nftables"])

    def install(packages: str) -> None:
        names.append(packages)
        refused.discard(machine.PROBES["nftables"])

    def start(kind: str) -> int:
        names.append(kind)
        return 0

    monkeypatch.setattr(cluster, "FOLDER", tmp_path / "cluster")
    monkeypatch.setattr(cluster, "install_packages", install)
    monkeypatch.setattr(cluster, "run_sandbox", lambda: start("sandbox"))
    monkeypatch.setattr(cluster, "run_real_node", lambda options: start(f"real {options.proxy} {options.cni}"))
    return names


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "real iptables bridge"),
        (["--proxy=nftables", "--cni=ptp"], "real nftables ptp"),
        (["--node=sandbox"], "sandbox"),
    ],
)
def test_a_real_node_is_started_where_it_is_possible(steps: list[str], flags: list[str], expected: str) -> None:
    assert cluster.main(flags) == 0
    assert steps == ["test", expected]


@pytest.mark.parametrize(("script", "reason"), [(machine.PROBES["bridges"], BRIDGES), ("true", NAMESPACES)])
def test_the_sandbox_is_used_otherwise_and_the_reason_printed(
    steps: list[str], refused: set[str], capsys: pytest.CaptureFixture[str], script: str, reason: str
) -> None:
    refused.add(script)
    assert cluster.main([]) == 0
    assert steps == ["test", "sandbox"]
    assert f"because a real one is not possible:\n{reason}\n" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--node=real", "--cni=ptp"])
def test_a_real_node_that_is_required_and_not_possible_is_an_error(
    steps: list[str], refused: set[str], flag: str
) -> None:
    refused.add(machine.PROBES["bridges"])
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
    assert steps == []
