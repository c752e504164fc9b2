"""The probe of a machine, with a fake of the kernel's answers."""

from pathlib import Path

import pytest

from tests.realnode import cgroups
from tests.realnode.cgroups import Cgroup
from tests.realnode.machine import PROBES, REQUIRED_V1, missing

DENIED = "Operation not permitted"


@pytest.fixture
def v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    monkeypatch.setattr(cgroups, "REMOVAL_SECONDS", 0.0)  # rmdir removes a cgroup with its files, a directory not
    for name in REQUIRED_V1:
        (tmp_path / name).mkdir()
    for setting in ("cpuset.cpus", "cpuset.mems"):
        (tmp_path / "cpuset" / setting).write_text("0\n")
    return Cgroup("podid-probe", tmp_path)


def permitting(script: str) -> str:
    return ""


def refusing(script: str) -> str:
    return DENIED


def test_a_machine_that_permits_everything_has_no_reason(v1: Cgroup) -> None:
    assert missing(permitting, v1, root=True) == []


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"namespaces"}))
def test_each_refused_probe_is_a_reason(v1: Cgroup, name: str) -> None:
    def run(script: str) -> str:
        return DENIED if script == PROBES[name] else ""

    assert missing(run, v1, root=True) == [f"The machine does not permit {name}: {DENIED}."]


def test_a_user_other_than_root_is_the_only_reason(v1: Cgroup) -> None:
    (reason,) = missing(refusing, v1, root=False)
    assert "not root" in reason


def test_without_namespaces_nothing_else_is_tried(v1: Cgroup) -> None:
    (reason,) = missing(refusing, v1, root=True)
    assert "does not permit namespaces (Operation not permitted)" in reason


def test_a_missing_controller_is_named(v1: Cgroup) -> None:
    (v1.root / "memory").rmdir()
    assert missing(permitting, v1, root=True) == [f"The cgroups in {v1.root} lack these controllers: memory."]


def test_a_v2_hierarchy_without_the_memory_controller_is_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset pids\n")
    (reason,) = missing(permitting, Cgroup("podid-probe", tmp_path), root=True)
    assert reason.endswith("lack these controllers: memory.")


def test_a_group_that_cannot_be_created_is_named(v1: Cgroup) -> None:
    (reason,) = missing(permitting, Cgroup("absent/podid-probe", v1.root), root=True)
    assert "read-only for a node: cannot create the cgroup" in reason
