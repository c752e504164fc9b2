"""Archives of a release: what is unpacked, and what is refused."""

import io
import tarfile
from pathlib import Path

import pytest

from tools.release.archives import ArchiveError, pack, unpack


def archive(to: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    """Return an archive with one file named *name*, or with another *kind* of member, that leads to /etc/passwd."""
    with tarfile.open(to, "w") as opened:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "/etc/passwd", 1 if kind == tarfile.REGTYPE else 0
        opened.addfile(member, io.BytesIO(b"x"))
    return to


def test_a_packed_folder_is_unpacked_with_its_files_and_executables(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "empty").mkdir(parents=True)
    (folder / "a" / "file").write_text("text")
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o700)
    pack(folder, tmp_path / "packed.tar", epoch=0)
    unpack(tmp_path / "packed.tar", to := tmp_path / "new" / "folder")
    assert sorted(str(each.relative_to(to)) for each in to.rglob("*")) == ["a", "a/empty", "a/file", "program"]
    assert (to / "a" / "file").read_text() == "text"
    assert [(to / each).stat().st_mode & 0o777 for each in ("program", "a/file")] == [0o755, 0o644]


@pytest.mark.parametrize("name", ["/tmp/out", "../out", "a/../../out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="is outside its folder"):
        unpack(archive(tmp_path / "x.tar", name), tmp_path / "in" / "new")
    assert not [each for each in tmp_path.rglob("*") if each.name == "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="link is neither a file nor a folder"):
        unpack(archive(tmp_path / "x.tar", "link", kind), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
