"""Debian packages in an image's bill of materials. Excluded: Python packages and schema, tested on real images."""

from pathlib import Path

import pytest

from deploy.docker.bill_of_materials import debian_packages, python_of_the_base

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 Status: a line of prose: not a field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2025b-0
"""


def test_installed_packages_are_named_by_their_package_urls(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('ID=debian\nVERSION_ID="12"\nNAME="Debian GNU/Linux"\n')
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    assert [component["purl"] for component in debian_packages(tmp_path)] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@1%3A2025b-0?arch=all&distro=debian-12",
    ]


@pytest.mark.parametrize(
    ("home", "purls"),
    [("/usr/bin", []), ("/usr/local/bin", ["pkg:generic/python@3.13.9", "pkg:pypi/pip@25.3"])],
)
def test_a_python_outside_debian_is_named_with_its_packages(tmp_path: Path, home: str, purls: list[str]) -> None:
    (tmp_path / "opt/podidentity").mkdir(parents=True)
    lines = f"home = {home}\ninclude-system-site-packages = false\nversion = 3.13.9\n"
    (tmp_path / "opt/podidentity/pyvenv.cfg").write_text(lines)
    pip = (tmp_path / home.lstrip("/")).parent / "lib/python3.13/site-packages/pip-25.3.dist-info"
    pip.mkdir(parents=True)
    (pip / "METADATA").write_text("Metadata-Version: 2.1\nName: pip\nVersion: 25.3\n")
    components = list(python_of_the_base(tmp_path))
    assert [component["purl"] for component in components] == purls
    assert len({component["bom-ref"] for component in components}) == len(components)
