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


def test_without_namespaces_nothing_else_is_tried(v1: Cgroup) -> None:
    (reason,) = missing(refusing, v1, root=True)
    assert "does not permit namespaces (Operation not permitted)" in reason
