"""Files that a source distribution or a wheel lacks, or must not have, and installed archives without a lock."""

from pathlib import Path
from typing import Any, Final

import pytest

from tools.release.contents import AT_THE_ROOT, sdist_problems, sdist_sources, wheel_problems
from tools.release.installation import unlocked, without_hashes

SCRIPTS: Final = {"nmi": "nmi.__main__:main"}
FILES: Final = {
    **dict.fromkeys(AT_THE_ROOT, "text"),
    "_native/lane.pyx": "source",
    "_native/lane.pyi": "stub",
    "nmi/cli.py": "source",
    "nmi/py.typed": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one compiled and one Python module."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


INFORMATION: Final = "aad_pod_identity-1.0.0.dist-info"


@pytest.fixture
def wheel(tree: Path) -> dict[str, bytes]:
    """The complete wheel of that tree."""
    return {
        **{name: text.encode() for name, text in FILES.items() if name not in AT_THE_ROOT},
        "_native/lane.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        f"{INFORMATION}/METADATA": b"Name: aad-pod-identity\n",
        f"{INFORMATION}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\n",
        f"{INFORMATION}/entry_points.txt": b"[console_scripts]\nnmi = nmi.__main__:main\n",
        f"{INFORMATION}/licenses/LICENSE": (tree / "LICENSE").read_bytes(),
    }


GENERATED: Final = ("PKG-INFO", "setup.cfg", "MANIFEST.in", "aad_pod_identity.egg-info/SOURCES.txt")


def test_missing_sources_and_other_files_of_a_source_distribution_are_named(tree: Path) -> None:
    assert list(sdist_problems([*FILES, *GENERATED], sdist_sources(tree))) == []
    for name in ("_native/lane.pyx", "nmi/py.typed", "LICENSE", "build.lock"):
        (problem,) = sdist_problems([file for file in FILES if file != name], sdist_sources(tree))
        assert f"lacks {name}" in problem
    for name in ("tests/unit/test_a.py", "_native/lane.c", "_native/lane.so", ".git/config"):
        (problem,) = sdist_problems([*FILES, name], sdist_sources(tree))
        assert f"contains {name}" in problem


def test_files_behind_a_link_belong_to_the_package(tree: Path) -> None:
    (tree / "deploy").mkdir()
    (tree / "deploy" / "pod.yaml").write_text("kind: Pod")
    (tree / "nmi" / "manifests").symlink_to("../deploy")
    assert "nmi/manifests/pod.yaml" in sdist_sources(tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("_native/lane.cpython-311-x86_64-linux-gnu.so", "0 compiled modules of _native/lane.pyx"),
        ("_native/lane.pyi", "lacks _native/lane.pyi"),
        ("nmi/py.typed", "lacks nmi/py.typed"),
        (f"{INFORMATION}/licenses/LICENSE", "lacks the licence"),
        (f"{INFORMATION}/entry_points.txt", "entry points are [], but pyproject.toml has ['nmi']"),
        (f"{INFORMATION}/WHEEL", "no compiled module"),
    ],
)
def test_what_a_wheel_lacks_is_named(tree: Path, wheel: dict[str, bytes], name: str, message: str) -> None:
    assert list(wheel_problems(wheel, tree, SCRIPTS)) == []
    del wheel[name]
    (problem,) = wheel_problems(wheel, tree, SCRIPTS)
    assert message in problem


def test_a_file_of_no_package_and_a_changed_licence_are_named(tree: Path, wheel: dict[str, bytes]) -> None:
    for name in ("tests/repository/suite/test_language.py", "_native/lane.c", "setup.py", "nmi/cli.so"):
        (problem,) = wheel_problems({**wheel, name: b""}, tree, SCRIPTS)
        assert f"contains {name}" in problem
    wheel[f"{INFORMATION}/licenses/LICENSE"] = b"another"
    (problem,) = wheel_problems(wheel, tree, SCRIPTS)
    assert "lacks the licence" in problem


FIRST, SECOND, OWN, OTHER = (digit * 64 for digit in "1234")
LOCK: Final = f"""\
aiohttp==3.14.5 \\
    --hash=sha256:{FIRST} \\
    --hash=sha256:{SECOND}
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{SECOND}
"""


def test_an_installed_archive_that_is_neither_locked_nor_the_own_wheel_is_named() -> None:
    def installed(*digests: str) -> dict[str, Any]:
        """Return pip's report of an installation of archives with these hashes."""
        archives = [(f"https://x/{digest[0]}.whl", {"hashes": {"sha256": digest}}) for digest in digests]
        return {"install": [{"download_info": {"url": url, "archive_info": info}} for url, info in archives]}

    assert unlocked(installed(FIRST, SECOND, OWN), LOCK, {OWN}) == []
    assert unlocked(installed(FIRST, OTHER, OWN), LOCK, {OWN}) == ["https://x/4.whl"]


def test_the_constraints_keep_versions_and_markers() -> None:
    assert without_hashes(LOCK) == "aiohttp==3.14.5\ncolorama==0.4.6 ; sys_platform == 'win32'\n"
