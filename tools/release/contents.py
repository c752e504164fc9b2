"""Rules for the files in a source distribution and in a wheel."""

import configparser
import os
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from email.parser import Parser
from pathlib import Path
from typing import Final

PACKAGES: Final = ("_native", "mic", "nmi", "podidctl", "podidentity", "podidentity_demo", "podidentity_sandbox")
LOCKS: Final = ("build.lock", "requirements.lock")
AT_THE_ROOT: Final = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py", *LOCKS)
"""Files of the repository's root in a source distribution."""
GENERATED: Final = ("PKG-INFO", "setup.cfg", "MANIFEST.in")
SOURCES: Final = (".py", ".pyi", ".pyx", ".pxd")


def files_below(tree: Path, *names: str) -> Iterator[str]:
    """Yield the paths of the files in the directories *names* of *tree*. A link to a directory is followed."""
    for name in names:
        for folder, folders, files in os.walk(tree / name, followlinks=True):
            folders[:] = [subfolder for subfolder in folders if subfolder != "__pycache__"]
            yield from (str((Path(folder) / file).relative_to(tree)) for file in files)


def sdist_sources(tree: Path) -> set[str]:
    """Return the files of *tree*, which has none that git ignores, that its source distribution must have."""
    return {*AT_THE_ROOT, *files_below(tree, *PACKAGES)}


def sdist_problems(names: Collection[str], wanted: AbstractSet[str]) -> Iterator[str]:
    """Yield a message for each file that a source distribution lacks or must not have.

    *names* are the files in the archive, relative to its top directory; *wanted* are those of `sdist_sources`.
    """
    generated = {name for name in names if name in GENERATED or name.split("/")[0].endswith(".egg-info")}
    yield from (f"the source distribution lacks {name}: see MANIFEST.in" for name in sorted(wanted - set(names)))
    for name in sorted(set(names) - wanted - generated):
        yield f"the source distribution contains {name}, which is not a source: see MANIFEST.in"


def wheel_problems(files: Mapping[str, bytes], tree: Path, scripts: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for each file that the wheel of *tree* lacks or must not have.

    *files* are the contents by path; *scripts* are the entry points in pyproject.toml.
    """
    sources = set(files_below(tree, *PACKAGES))
    wanted = {file for file in sources if file.endswith(SOURCES) or Path(file).name == "py.typed"}
    yield from (f"the wheel lacks {file}" for file in sorted(wanted - set(files)))
    for source in sorted(file for file in sources if file.endswith(".pyx")):
        compiled = [
            file for file in files if file.startswith(f"{source.removesuffix('.pyx')}.") and file.endswith(".so")
        ]
        if len(compiled) != 1:
            yield f"the wheel has {len(compiled)} compiled modules of {source}, not 1"
    metadata = {file.partition("/")[2]: file for file in files if file.split("/")[0].endswith(".dist-info")}
    for file in sorted(set(files) - sources - set(metadata.values())):
        if not (file.startswith("_native/") and file.endswith(".so")):
            yield f"the wheel contains {file}, which is not a file of a package"
    yield from _metadata_problems({name: files[path] for name, path in metadata.items()}, tree, scripts)


def _metadata_problems(files: Mapping[str, bytes], tree: Path, scripts: Mapping[str, str]) -> Iterator[str]:
    if files.get("licenses/LICENSE") != (tree / "LICENSE").read_bytes():
        yield "the wheel lacks the licence: license-files in pyproject.toml"
    entries = configparser.ConfigParser(delimiters=["="])
    entries.read_string(files.get("entry_points.txt", b"").decode())
    entry_points = dict(entries["console_scripts"]) if "console_scripts" in entries else {}
    if entry_points != dict(scripts):
        yield f"the wheel's entry points are {sorted(entry_points)}, but pyproject.toml has {sorted(scripts)}"
    if Parser().parsestr(files.get("WHEEL", b"").decode()).get("Root-Is-Purelib") != "false":
        yield "the wheel states that it has no compiled module"
