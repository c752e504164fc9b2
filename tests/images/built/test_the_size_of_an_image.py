"""The size of each image, and the files that it must not contain."""

import json
import re
import struct
from pathlib import Path, PurePosixPath

import pytest

from tests.images.built.conftest import Image
from tests.images.sizes import RECORD, RENEW, TOTAL, find_growth, list_files, measure

LIMITS = {"nmi": 100_000_000, "mic": 110_000_000, "podidctl": 140_000_000}
UNCHECKED_HASH = 1  # the second word of a .pyc (PEP 552)
WITHOUT = ["/etc/python3.11/sitecustomize.py"]
SYMBOL_TABLE = 2  # SHT_SYMTAB of ELF
UNUSED_PROGRAMS = re.compile(
    r"pip[\d.]*|easy_install|gcc|g\+\+|cc|c\+\+|ld|as|make|strip|perl[\d.]*|apt|apt-get|dpkg|(?:ba|da)?sh"
)
UNUSED_FILES = re.compile(r"/(?:tests?|gconv|perl\d?|ensurepip|idlelib|lib2to3|unittest)/|\.(?:a|c|h|o|pxd|pyi)$")


@pytest.mark.parametrize("name", LIMITS)
def test_an_image_is_smaller_than_its_limit(name: str) -> None:
    assert measure(list_files(Image(name).root))[TOTAL] <= LIMITS[name]


def test_no_group_of_files_grew(image: Image) -> None:
    record = json.loads(RECORD.read_text())[image.name]
    growth = list(find_growth(record, list_files(image.root)))
    assert not growth, "\n".join([f"{image.name}:", *growth, RENEW])


def test_no_unused_programs_and_files_are_in_an_image(image: Image) -> None:
    paths = list_files(image.root)
    commands = [path.name for path in image.root.glob("**/*bin/*")]
    assert len(commands) > 3
    assert not [name for name in commands if UNUSED_PROGRAMS.fullmatch(name)]
    assert not [path for path in paths if UNUSED_FILES.search(str(path))]


def test_each_module_has_one_bytecode_file_and_its_source(image: Image) -> None:
    paths = list_files(image.root)
    compiled = [path for path in paths if path.suffix == ".pyc"]
    tags = {path.name.partition(".")[2] for path in compiled}
    assert len(tags) == 1, "one interpreter, without optimization levels"
    sources = {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in compiled}
    links = {PurePosixPath("/") / path.relative_to(image.root) for path in image.root.glob("usr/lib/python3*/*.py")}
    assert sources - paths.keys() - links == set()
    # A start with a read-only root cannot store bytecode.
    assert {path for path in paths if path.suffix == ".py"} - sources <= {PurePosixPath(name) for name in WITHOUT}


def test_no_bytecode_is_compared_with_its_source(image: Image) -> None:
    compiled = [path for path in list_files(image.root) if path.suffix == ".pyc"]
    assert len(compiled) > 500
    flags = {struct.unpack("<I", (image.root / path.relative_to("/")).read_bytes()[4:8])[0] for path in compiled}
    assert flags == {UNCHECKED_HASH}


def test_compiled_files_have_no_symbol_tables(image: Image) -> None:
    elf = [path for each in list_files(image.root) if is_elf(path := image.root / each.relative_to("/"))]
    assert len(elf) > 50
    assert not [path for path in elf if SYMBOL_TABLE in section_types(path)]


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def section_types(path: Path) -> set[int]:
    """Return the types of the sections of a 64-bit little-endian ELF file."""
    content = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", content, 0x28)
    size, count = struct.unpack_from("<HH", content, 0x3A)
    return {struct.unpack_from("<I", content, offset + number * size + 4)[0] for number in range(count)}
