"""The memory limit of a cgroup, of version 1 and 2: the smallest limit of the cgroup and its parents."""

from pathlib import Path

import pytest

from nmi.node.memory_limit import memory_limit

ROOT = 9223372036854771712


def proc(folder: Path, cgroup: str, *mounts: str) -> Path:
    """A /proc/self with these lines."""
    made = folder / "proc"
    made.mkdir()
    (made / "cgroup").write_text(cgroup)
    (made / "mountinfo").write_text("".join(f"{mount}\n" for mount in mounts))
    return made


def states(folder: Path, name: str, value: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{value}\n")


def v2(top: Path, root: str = "/") -> str:
    return f"30 20 0:26 {root} {top} rw - cgroup2 cgroup2 rw"


def v1(top: Path, root: str = "/") -> str:
    return f"31 20 0:27 {root} {top} rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(("own", "parent", "least"), [("max", "max", None), (500, "max", 500), (500, 400, 400)])
def test_cgroup_version_2(tmp_path: Path, own: object, parent: object, least: int | None) -> None:
    top = tmp_path / "cgroup"
    states(top / "kubepods", "memory.max", parent)
    states(top / "kubepods" / "pod1", "memory.max", own)
    assert memory_limit(proc(tmp_path, "0::/kubepods/pod1\n", v2(top))) == least


@pytest.mark.parametrize(("own", "parent", "least"), [(ROOT, ROOT, None), (500, ROOT, 500), (500, 400, 400)])
def test_cgroup_version_1(tmp_path: Path, own: int, parent: int, least: int | None) -> None:
    top = tmp_path / "memory"
    states(top, "memory.limit_in_bytes", ROOT)
    states(top / "pods", "memory.limit_in_bytes", parent)
    states(top / "pods" / "pod1", "memory.limit_in_bytes", own)
    cgroup = "5:cpu:/elsewhere\n4:memory:/pods/pod1\n0::/\n"
    assert memory_limit(proc(tmp_path, cgroup, v1(top), v2(tmp_path / "unified"))) == least


def test_cgroup_namespace_of_a_container(tmp_path: Path) -> None:
    top = tmp_path / "memory"
    states(top, "memory.limit_in_bytes", 700)
    assert memory_limit(proc(tmp_path, "4:memory:/pods/pod1\n", v1(top, root="/pods/pod1"))) == 700


@pytest.mark.parametrize("text", ["", "nonsense", "0::/x\n0"])
def test_an_unreadable_file_means_no_limit(tmp_path: Path, text: str) -> None:
    assert memory_limit(proc(tmp_path, text)) is None
    assert memory_limit(tmp_path / "missing") is None
