"""Archives of a release: what is unpacked, what is refused, and images without the time of their build."""

import io
import os
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tools.release.archives import pack, unpack
from tools.release.commands import ReleaseError
from tools.release.images import IMAGES, collect


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
    assert sorted(str(path.relative_to(to)) for path in to.rglob("*")) == ["a", "a/empty", "a/file", "program"]
    assert [(to / name).stat().st_mode & 0o777 for name in ("program", "a/file")] == [0o755, 0o644]
    assert (to / "a" / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["/tmp/out", "../out", "a/../../out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match="is outside its folder"):
        unpack(archive(tmp_path / "x.tar", name), tmp_path / "in" / "new")
    assert not [path for path in tmp_path.rglob("*") if path.name == "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ReleaseError, match="link is neither a file nor a folder"):
        unpack(archive(tmp_path / "x.tar", "link", kind), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


EPOCH: Final = 1_700_000_000
FILES: Final = {"oci-layout": b"{}", "index.json": b"digest", "blobs/sha256/a": b"layer", "blobs/sha256/b": b"manifest"}


def built(folder: Path, time: int) -> Path:
    """A folder as tools/local-images leaves it, with archives that were written at *time*."""
    (folder / "sbom").mkdir(parents=True)
    for program in IMAGES:
        with tarfile.open(folder / f"{program}.tar", "w") as archive:
            for name, content in FILES.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.uid, entry.mode = len(content), time, 1000, 0o600
                archive.addfile(entry, io.BytesIO(content))
        (folder / "sbom" / f"{program}.cdx.json").write_text(program)
    (folder / "base").write_text("localhost/base@sha256:abc\n")
    (folder / "compared").touch()
    return folder


def test_two_builds_of_equal_images_give_equal_files(tmp_path: Path) -> None:
    collected = []
    for number, umask in ((1, 0o022), (2, 0o077)):
        out = tmp_path / f"out{number}"
        out.mkdir()
        before = os.umask(umask)
        collected.append(collect(built(tmp_path / f"images{number}", EPOCH + number), out, EPOCH)[0])
        os.umask(before)
    first, second = collected
    assert len(first) == 2 * len(IMAGES)
    assert [image.name for image in first] == [image.name for image in second]
    assert [image.read_bytes() for image in first] == [image.read_bytes() for image in second]


def test_the_contents_of_an_archive_stay_and_images_that_were_not_compared_are_refused(tmp_path: Path) -> None:
    images, out = built(tmp_path / "images", 5), tmp_path / "out"
    out.mkdir()
    files, base = collect(images, out, EPOCH)
    assert sorted(out.iterdir()) == sorted(files)
    assert base == "localhost/base@sha256:abc"
    with tarfile.open(files[0]) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        contents = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert contents == FILES
    assert {member.mtime for member in members} == {EPOCH}

    (images / "compared").unlink()
    with pytest.raises(ReleaseError, match="run tools/local-images"):
        collect(images, tmp_path, EPOCH)
