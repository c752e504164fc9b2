"""The cgroups of a node, with cgroup v1 and v2."""

from pathlib import Path

import pytest

from tests.realnode.cgroups import Cgroup, CgroupError


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for controller in ("cpuset", "memory"):
        (tmp_path / controller).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0")
    return tmp_path


def test_a_group_of_v1_has_a_folder_in_each_controller(v1: Path) -> None:
    group = Cgroup("a", v1)
    group.create()
    assert (
        group.entrances == group.later_entrances == [v1 / each / "a" / "cgroup.procs" for each in ("cpuset", "memory")]
    )
    assert (v1 / "cpuset" / "a" / "cpuset.cpus").read_text() == "0-1", "without it no process can enter"


def test_processes_of_v2_enter_a_child_of_the_group(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    group = Cgroup("a", tmp_path)
    group.create()
    assert group.controllers == ()
    assert group.entrances == [tmp_path / "a" / "cgroup.procs"]
    assert group.later_entrances == [tmp_path / "a" / "node" / "cgroup.procs"]


def test_a_group_is_removed_with_its_children(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    group = Cgroup("a", tmp_path)
    group.create()
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    group.remove()
    group.remove()
    assert not (tmp_path / "a").exists()


def test_a_group_that_exists_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    Cgroup("a", tmp_path).create()
    with pytest.raises(CgroupError, match="cannot create the cgroup"):
        Cgroup("a", tmp_path).create()


def test_a_group_of_v1_is_also_in_the_additional_hierarchy_of_v2(v1: Path) -> None:
    (v1 / "unified").mkdir()
    (v1 / "unified" / "cgroup.procs").touch()
    group = Cgroup("a", v1)
    group.create()
    assert v1 / "unified" / "a" / "cgroup.procs" in group.entrances
    assert "unified" not in group.controllers, "it is no controller that the node mounts"
    group.remove()
    assert not (v1 / "unified" / "a").exists()
