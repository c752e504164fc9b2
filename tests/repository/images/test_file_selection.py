"""Which files of the build's file system `select_files.py` copies into the images."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.docker import select_files

UNCHECKED_HASH = 1


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system with merged /usr, as `ROOT` of the script."""
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    monkeypatch.setattr(select_files, "ROOT", root)
    return root


@pytest.fixture
def package(root: Path) -> Callable[..., None]:
    """Add a package with the given files to the file system and to dpkg's lists and status."""

    def add(name: str, *files: str, architecture: str = "", copyright_file: bool = True) -> None:
        listed = "".join(f"/{file}\n" for file in ("", "usr", *files))
        (root / f"var/lib/dpkg/info/{name}{architecture}.list").write_text(listed)
        with (root / "var/lib/dpkg/status").open("a") as status:
            status.write(f"Package: {name}\nStatus: install ok installed\nDescription: {name}\n text\n\n")
        if copyright_file:
            (root / "usr/share/doc" / name).mkdir(parents=True)
            (root / "usr/share/doc" / name / "copyright").write_text(name)

    return add


def test_a_package_is_listed_if_one_of_its_files_is_in_the_image(root: Path, package: Callable[..., None]) -> None:
    package("libc6", "lib/libc.so.6", "lib/unused.so", architecture=":amd64")
    package("perl", "usr/bin/perl")
    kept = select_files.owners({root / "usr", root / "usr/lib/libc.so.6"})
    assert kept == {"libc6"}
    assert select_files.paragraphs(kept) == (
        "Package: libc6\nStatus: install ok installed\nDescription: libc6\n text\n\n"
    )


def test_a_link_is_copied_with_its_targets(root: Path) -> None:
    (root / "usr/lib/libx.so.1.2").touch()
    (root / "usr/lib/libx.so.1").symlink_to("libx.so.1.2")
    (root / "usr/lib/alternative").symlink_to("libx.so.1")
    names = [path.name for path in select_files.with_targets(root / "lib/alternative")]
    assert names == ["alternative", "libx.so.1", "libx.so.1.2"]


def test_certificates_are_not_read_from_the_file_system_of_a_build_command(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = root / "etc/ssl/certs"
    certificates.mkdir(parents=True)
    (certificates / "host.crt").touch()
    (root / "usr/lib/cert.pem").symlink_to("../../etc/ssl/certs/host.crt")
    (root / "usr/lib/certs").symlink_to("../../etc/ssl/certs")
    monkeypatch.setattr(select_files, "CERTIFICATES", certificates)
    assert [path.name for path in select_files.with_targets(root / "usr/lib/cert.pem")] == ["cert.pem"]
    assert [path.name for path in select_files.with_targets(root / "usr/lib/certs")] == ["certs"]


def test_a_missing_file_or_licence_ends_the_build(root: Path, package: Callable[..., None]) -> None:
    assert list(select_files.matching(["etc/host.conf"])) == [], "that file is optional"
    with pytest.raises(SystemExit, match=r"the base contains no /usr/bin/sleep"):
        list(select_files.matching(["usr/bin/sleep"]))
    package("free")
    assert list(select_files.licences({"free"})) == [root / "usr/share/doc/free/copyright"]
    package("unknown", copyright_file=False)
    with pytest.raises(SystemExit, match=r"no .*/usr/share/doc/unknown/copyright"):
        list(select_files.licences({"free", "unknown"}))


def test_a_missing_shared_library_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = SimpleNamespace(stdout="/x:\n\tlibm.so.6 => /lib/libm.so.6 (0x1)\n\tlibq.so.1 => not found\n")
    monkeypatch.setattr("deploy.docker.select_files.subprocess.run", lambda *_, **__: listed)
    with pytest.raises(SystemExit, match=r"shared libraries not found: libq\.so\.1"):
        list(select_files.shared_libraries([tmp_path]))


def test_modes_are_kept_and_the_temporary_directory_is_writable_for_every_user(root: Path, tmp_path: Path) -> None:
    (root / "usr/lib/data").mkdir(mode=0o750)
    (root / "usr/lib/data/file").write_text("x")
    (root / "usr/lib/data/file").chmod(0o640)
    target = tmp_path / "target"
    select_files.copy(root / "usr/lib/data/file", target)
    copied = target / "usr/lib/data/file"
    assert (copied.read_text(), copied.stat().st_mode & 0o777) == ("x", 0o640)
    assert copied.parent.stat().st_mode & 0o777 == 0o750
    select_files.add_skeleton(target)
    assert (target / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (target / "lib").readlink() == Path("usr/lib")


def test_bytecode_of_the_standard_library_contains_no_time_and_the_path_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_files, "STANDARD_LIBRARY", Path("/usr/lib/python3"))
    module = tmp_path / "usr/lib/python3/module.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n")
    select_files.compile_modules(tmp_path)
    (compiled,) = module.parent.glob("__pycache__/module.*.pyc")
    content = compiled.read_bytes()
    assert struct.unpack("<I", content[4:8]) == (UNCHECKED_HASH,)
    assert b"/usr/lib/python3/module.py" in content
    assert os.fsencode(tmp_path) not in content
