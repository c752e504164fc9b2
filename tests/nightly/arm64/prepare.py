"""An environment for arm64 below build/arm64, on a machine of another architecture.

`python tests/nightly/arm64/prepare.py`. It consists of

* `root`: Debian's Python and C library for arm64, unpacked and not installed.
* `site`: the locked packages that the tests need, each verified by its hash.
* `source`: a copy of the sources, in which the cross compiler has compiled `_native` with the flags of setup.py.

Nothing for arm64 runs here, so that no step is slowed down by the emulator.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[3]
OUTPUT: Final = ROOT / "build" / "arm64"
SYSTEM, SITE, SOURCE = OUTPUT / "root", OUTPUT / "site", OUTPUT / "source"
DEBIAN_PACKAGES: Final = "python3,libpython3-dev"
COMPILER: Final = "aarch64-linux-gnu-gcc"
NEEDED: Final = (
    *("aad-pod-identity[nmi]", "blockbuster", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout"),
    *("pytest-xdist", "PyYAML", "typing-extensions"),
)
"""The packages that the tests import; their dependencies are added."""
LEFT_OUT: Final = {"aad-pod-identity"}
"""This project, whose sources are copied."""
WITHOUT_WHEELS: Final = {"forbiddenfruit", "python-iptables"}
"""Packages without a wheel for arm64. The cross compiler compiles their sources."""
PLATFORMS: Final = ("linux", "manylinux2014", "manylinux_2_17", "manylinux_2_26", "manylinux_2_28", "manylinux_2_31")
"""The platforms of the wheels that run with Debian 12 and later; `linux` is that of compiled sources."""


def closure(names: Iterable[str]) -> set[str]:
    """Return the names of the packages that *names* need, as they are installed here."""
    todo, seen = [Requirement(name) for name in names], set[tuple[str, str]]()
    while todo:
        requirement = todo.pop()
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) in seen:
                continue
            seen.add(key)
            for line in metadata.requires(requirement.name) or ():
                dependency = Requirement(line)
                if dependency.marker is None or dependency.marker.evaluate({"extra": extra}):
                    todo.append(dependency)
    return {name for name, _ in seen}


def locked(lock: str, names: set[str]) -> str:
    """Return the lines of *lock* for *names*, with their hashes. Raise ValueError if one is not in it."""
    entries = re.split(r"\n(?=\S)", lock.rstrip())
    requirements: dict[str, str] = {
        canonicalize_name(re.split(r"[=\s;]", entry, maxsplit=1)[0]): entry for entry in entries
    }
    if missing := names - set(requirements):
        raise ValueError(f"requirements.lock has no {', '.join(sorted(missing))}; run make lock")
    return "".join(f"{requirements[name]}\n" for name in sorted(names))


def unpack_system(folder: Path, names: str, site: str) -> None:
    """Unpack Debian's packages *names* for arm64 into *folder*, if it is not there.

    Its Python finds other packages in *site*.
    """
    if folder.exists():
        return
    release = Path("/etc/os-release").read_text()
    codename = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)["VERSION_CODENAME"]
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = ["mmdebstrap", "-q", "--architectures=arm64", "--variant=extract", f"--include={names}"]
    subprocess.run([*command, codename, str(part)], check=True)
    # Debian's Python reads the lines of such a file as folders of packages.
    packages = part / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "tests.pth").write_text(f"{site}\n")
    part.rename(folder)


def python_version() -> str:
    """Return the version of SYSTEM's Python, such as 3.11."""
    return (SYSTEM / "usr/bin/python3").readlink().name.removeprefix("python")


def cross_compiler(*flags: str) -> dict[str, str]:
    """Return the environment in which setuptools compiles modules for SYSTEM's Python."""
    version = python_version()
    headers = [SYSTEM / "usr/include" / f"python{version}", SYSTEM / "usr/include"]
    return {
        **os.environ,
        "CC": " ".join((COMPILER, *flags, *(f"-I{folder}" for folder in headers))),
        "LDSHARED": f"{COMPILER} -shared",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version.replace('.', '')}-aarch64-linux-gnu.so",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }


def install_packages() -> None:
    """Install the locked packages into SITE, if it is not of this lock."""
    lock = (ROOT / "requirements.lock").read_text()
    names = closure(NEEDED) - LEFT_OUT
    wheels, sources = locked(lock, names - WITHOUT_WHEELS), locked(lock, WITHOUT_WHEELS)
    record = OUTPUT / "site.lock"
    content = f"{python_version()}\n{wheels}{sources}"
    if record.exists() and record.read_text() == content:
        return
    for folder in (SITE, OUTPUT / "wheels"):
        shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    for name, text in (("wheels.lock", wheels), ("sources.lock", sources)):
        (OUTPUT / name).write_text(text)
    target = [f"--python-version={python_version()}", "--implementation=cp", "--only-binary=:all:", f"--target={SITE}"]
    target += [f"--platform={platform}_aarch64" for platform in PLATFORMS]
    subprocess.run(
        [*pip, "install", "--no-deps", "--require-hashes", *target, "-r", str(OUTPUT / "wheels.lock")], check=True
    )
    build = ["wheel", "--no-deps", "--no-build-isolation", "--require-hashes", "-w", str(OUTPUT / "wheels")]
    subprocess.run([*pip, *build, "-r", str(OUTPUT / "sources.lock")], env=cross_compiler(), check=True)
    for wheel in (OUTPUT / "wheels").iterdir():
        subprocess.run([*pip, "install", "--no-deps", *target, str(wheel)], check=True)
    record.write_text(content)


def copy_sources() -> None:
    """Make SOURCE equal to the files of the working tree that git tracks or would add."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, SOURCE / name)


def compile_native() -> None:
    """Compile `_native` in SOURCE for arm64. Warnings are errors, because `char` has no sign there."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=SOURCE, env=cross_compiler("-Werror"), check=True)


def main() -> None:
    """Prepare everything. Raise CalledProcessError; the messages of the programs are on stderr."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    unpack_system(SYSTEM, DEBIAN_PACKAGES, str(SITE))
    install_packages()
    copy_sources()
    compile_native()


if __name__ == "__main__":
    main()
