"""The archives of the images contain no time of their build, and the images themselves are not changed."""

import io
import os
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tools.release.images import IMAGES, ImagesError, collect

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
    assert [each.name for each in first] == [each.name for each in second]
    assert [each.read_bytes() for each in first] == [each.read_bytes() for each in second]


def test_the_contents_of_an_archive_stay(tmp_path: Path) -> None:
    files, base = collect(built(tmp_path / "images", 5), tmp_path, EPOCH)
    assert base == "localhost/base@sha256:abc"
    with tarfile.open(files[0]) as archive:
        members = [each for each in archive.getmembers() if each.isfile()]
        contents = {each.name: archive.extractfile(each).read() for each in members}  # type: ignore[union-attr]
    assert contents == FILES
    assert {each.mtime for each in members} == {EPOCH}


def test_only_archives_and_bills_are_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    files, _ = collect(built(tmp_path / "images", 5), out, EPOCH)
    assert sorted(out.iterdir()) == sorted(files)


def test_images_that_were_not_compared_are_refused(tmp_path: Path) -> None:
    images = built(tmp_path / "images", 5)
    (images / "compared").unlink()
    with pytest.raises(ImagesError, match="run tools/local-images"):
        collect(images, tmp_path, EPOCH)
