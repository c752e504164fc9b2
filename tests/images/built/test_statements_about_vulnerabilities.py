"""What vulnerabilities.yaml states about the files of the images."""

import pytest

from tests.images.built.conftest import BUILT, ROOT, Image
from tools.release.vulnerabilities import FILE, Product, differences, read


def test_the_packages_of_the_statements_are_those_of_the_image(image: Image) -> None:
    components = {each["purl"] for each in image.bill["components"] if "purl" in each}
    statements = read((ROOT / FILE).read_text())
    if (BUILT / "base.snapshot").read_text().startswith("mirror "):  # its versions change without a change here
        components = {each.partition("@")[0] for each in components}
        statements = [{**each, "package": each["package"].partition("@")[0]} for each in statements]
    assert [*differences(statements, [Product(image.name, "", components)])] == []


def test_no_program_of_coreutils_except_sleep_and_none_of_util_linux_is_in_an_image(image: Image) -> None:
    programs = {each.name for each in (image.root / "usr/bin").iterdir() if not each.name.startswith("python3")}
    assert programs == {"sleep"}
    assert not [each for each in ("chroot", "chfn", "chsh") if (image.root / "usr/sbin" / each).exists()]


@pytest.mark.parametrize("function", [b"zipOpenNewFile", b"unzOpen"])
def test_the_zlib_of_an_image_does_not_contain_minizip(image: Image, function: bytes) -> None:
    (library,) = (each for each in image.root.glob("usr/lib/*/libz.so.1*") if not each.is_symlink())
    content = library.read_bytes()
    assert b"inflateInit2_" in content
    assert function not in content
