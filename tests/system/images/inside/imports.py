"""Runs in an image: prints which modules cannot be imported, and which imports of the standard library have no module.

The output is one JSON object: `imported` is the number of imported modules; `failed` contains the error by module,
`missing` the importing files by module.
"""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
LIBRARY = Path(sysconfig.get_path("stdlib"))


def modules(folder: Path) -> Iterator[str]:
    """Yield the names of the modules below *folder*, compiled ones included."""
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.so")]):
        parts = list(path.relative_to(folder).with_name(path.name.partition(".")[0]).parts)
        if parts[0] == "lib-dynload":
            parts = parts[1:]
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts[-1] != "__main__" and all(part.isidentifier() for part in parts):
            yield ".".join(parts)


def imported(source: bytes) -> Iterator[str]:
    """Yield the modules of the standard library that *source* imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in sys.stdlib_module_names)


def exists(name: str) -> bool:
    """Return whether the image has the module."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def main() -> None:
    """Print the result."""
    warnings.simplefilter("ignore")
    failed: dict[str, str] = {}
    number = 0
    missing: dict[str, list[str]] = {}
    for path in sorted(SITE.rglob("*.py")):
        for name in imported(path.read_bytes()):
            if not exists(name):
                missing.setdefault(name, []).append(str(path.relative_to(SITE)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for folder in (SITE, LIBRARY):
            for name in modules(folder):
                try:
                    importlib.import_module(name)
                    number += 1
                except BaseException as error:  # noqa: BLE001 - a module may end the program
                    failed[name] = f"{type(error).__name__}: {error}"
    json.dump({"imported": number, "failed": failed, "missing": missing}, sys.stdout)


if __name__ == "__main__":
    main()
