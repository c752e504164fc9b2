"""The programs of Cilium's agent and its settings, without running it."""

from pathlib import Path

import pytest

from tests.realnode import cilium_programs
from tests.realnode.options import POD_RANGE
from tests.realnode.processes import BedError


def test_without_the_built_programs_the_next_action_is_stated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cilium_programs.FOLDER_VARIABLE, raising=False)
    with pytest.raises(BedError, match=r"set CILIUM to the folder that .*build\.sh has filled"):
        cilium_programs.find()
    monkeypatch.setenv(cilium_programs.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(BedError, match=r"has no cilium-agent, cilium-cni, bpf; run .*build\.sh"):
        cilium_programs.find()
    for name in ("cilium-agent", "cilium-cni", "bpf"):
        (tmp_path / name).touch()
    assert cilium_programs.find().folder == tmp_path.resolve()


@pytest.mark.parametrize(("routing", "legacy"), [("ebpf", "false"), ("legacy", "true")])
def test_the_agent_translates_no_source_address(routing: cilium_programs.Routing, legacy: str) -> None:
    flags = cilium_programs.flags(routing)
    assert f"--enable-host-legacy-routing={legacy}" in flags
    assert {"--enable-ipv4-masquerade=false", f"--ipv4-native-routing-cidr={POD_RANGE}"} <= set(flags)
