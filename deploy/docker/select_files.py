"""Copy the files of the build's file system that an image needs. The Dockerfile runs this.

usage: select_files.py TARGET [BASE]

Without BASE, TARGET becomes the common base of all images: Python with the modules of its standard library that the
programs can use, the C library's modules, and the shared libraries of the programs below /programs. With BASE, the
result of such a call, TARGET receives what nmi needs in addition: the programs that change a node's rules and
connections.

TARGET also receives bytecode of the standard library, the licence texts, and dpkg's status of the packages that own a
file, so that scanners and the bills of materials list them. Files have the time SOURCE_DATE_EPOCH. /etc/ssl/certs is
not copied, because builders can mount the host's certificates there: the Dockerfile copies it from the stage.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT, PROGRAMS = Path("/"), Path("/programs")
CERTIFICATES = Path("/etc/ssl/certs")
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
LIBRARIES = "usr/lib/*-linux-gnu*/"

UNUSED_MODULES = (
    # Names at the top of the standard library: development, graphics, databases, terminals.
    *("antigravity.py", "crypt.py", "curses", "dbm", "distutils", "doctest.py", "ensurepip", "idlelib", "lib2to3"),
    *("pydoc_data", "shelve.py", "sqlite3", "test", "this.py", "tkinter", "turtle.py", "turtledemo", "unittest"),
    *("venv", "xmlrpc", "__phello__*", "_distutils_system_mod.py", "config-*", "site-packages", "dist-packages"),
)
UNUSED_EXTENSIONS = (
    *("_crypt.*", "_ctypes_test.*", "_curses*", "_dbm.*", "_gdbm.*", "_sqlite3.*", "_test*", "_tkinter.*", "_xxtest*"),
    *("audioop.*", "nis.*", "ossaudiodev.*", "readline.*", "xx*"),
)
BASE_FILES = (
    *("etc/os-release", "etc/debian_version", "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/host.conf"),
    *("etc/ld.so.conf", "etc/ld.so.conf.d", "usr/lib/locale/C.utf8", "usr/share/common-licenses"),
    *("etc/ssl/openssl.cnf", "usr/lib/ssl/cert.pem", "usr/lib/ssl/certs", "usr/lib/ssl/openssl.cnf"),
    "usr/share/ca-certificates",
    # Loaded at run time: by the C library for names, and for the end of a thread.
    *(LIBRARIES + name for name in ("libnss_dns.so.*", "libnss_files.so.*", "libresolv.so.*", "libgcc_s.so.*")),
    # The container of the chart's clean-up hook that keeps its pod Ready.
    "usr/bin/sleep",
)
NMI_FILES = (
    *(f"usr/sbin/{tables}{kind}" for tables in ("iptables", "ip6tables") for kind in ("", "-legacy*", "-nft*")),
    *(f"usr/sbin/{tables}-{kind}" for tables in ("iptables", "ip6tables") for kind in ("restore", "save")),
    *("usr/sbin/nft", "usr/sbin/conntrack", "etc/protocols", "etc/services"),
    *(LIBRARIES + f"xtables/lib{family}_*.so" for family in ("xt", "ipt", "ip6t")),
    # Python finds shared libraries by the output of ldconfig: python-iptables loads libxtables in this way.
    *("usr/sbin/ldconfig", *(LIBRARIES + f"{name}.so.*" for name in ("libxtables", "libip4tc", "libip6tc"))),
)
OPTIONAL = (
    *("etc/host.conf", "usr/lib/locale/C.utf8", "usr/lib/ssl/cert.pem"),
    *(LIBRARIES + name for name in ("libnss_dns.so.*", "libnss_files.so.*")),
)
"""Files that some bases do not contain: since glibc 2.34 the C library itself contains the modules for names."""
MOUNT_POINTS = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
"""Empty files over which a container runtime mounts the files of a pod."""
DIRECTORIES = {"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}
LINKS = ("bin", "lib", "lib64", "sbin", "var/run")
"""Links of a base with merged /usr, and for pods that mount a volume at /var/run."""


def normalized(path: Path) -> Path:
    """Return *path* without symbolic links in its directories."""
    return path.parent.resolve() / path.name


def with_targets(path: Path) -> Iterator[Path]:
    """Yield *path*, the targets of symbolic links, and the content of directories."""
    path = normalized(path)
    if path.is_relative_to(CERTIFICATES):
        return
    yield path
    if path.is_symlink():
        yield from with_targets(path.parent / path.readlink())
    elif path.is_dir():
        for entry in path.iterdir():
            yield from with_targets(entry)


def matching(patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the files of each pattern. Exit if a pattern has none and is not optional."""
    for pattern in patterns:
        files = list(ROOT.glob(pattern))
        if not files and pattern not in OPTIONAL:
            sys.exit(f"select_files.py: the base contains no /{pattern}; use another base or change the list")
        for path in files:
            yield from with_targets(path)


def python_files() -> Iterator[Path]:
    """Yield the interpreter, and the used modules of its standard library without bytecode."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for command in (name, "python3"):
        yield from with_targets(Path(sys.base_prefix) / "bin" / command)
    yield STANDARD_LIBRARY
    for module in STANDARD_LIBRARY.iterdir():
        if not any(fnmatch(module.name, pattern) for pattern in UNUSED_MODULES):
            for path in with_targets(module):
                unused = any(fnmatch(path.name, pattern) for pattern in UNUSED_EXTENSIONS)
                if not (unused and path.parent.name == "lib-dynload") and not (
                    {"__pycache__", "test", "tests"} & set(path.parts)
                ):
                    yield path


def is_elf(path: Path) -> bool:
    """Return whether *path* is a program or a shared library."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def shared_libraries(files: Iterable[Path]) -> Iterator[Path]:
    """Yield the shared libraries that *files* load, in the system's directories. Exit if one is missing."""
    names = [str(path) for path in files if is_elf(path)]
    # The exit code is 1 if a file is linked statically.
    listed = subprocess.run(["/usr/bin/ldd", *names], capture_output=True, text=True, check=False).stdout
    if missing := sorted(set(re.findall(r"(\S+) => not found", listed))):
        sys.exit(f"select_files.py: shared libraries not found: {', '.join(missing)}")
    for name in sorted(set(re.findall(r"(/\S+) \(0x[0-9a-f]+\)$", listed, re.MULTILINE))):
        if not Path(name).is_relative_to(PROGRAMS):
            yield from with_targets(Path(name))


def owners(files: set[Path]) -> set[str]:
    """Return the names of the Debian packages that own one of *files*, as dpkg's lists of files spell them."""
    names = set()
    links = {f"/{name}": (ROOT / name).resolve() for name in LINKS if (ROOT / name).is_symlink()}
    for file in (ROOT / "var/lib/dpkg/info").glob("*.list"):
        for line in file.read_text().splitlines():
            top = f"/{line.split('/')[1]}" if line.count("/") > 1 else ""
            path = links[top] / line[len(top) + 1 :] if top in links else ROOT / line[1:]
            if path in files and not path.is_dir():
                names.add(file.stem.partition(":")[0])
                break
    return names


def paragraphs(packages: set[str]) -> str:
    """Return dpkg's status of *packages*."""
    status = (ROOT / "var/lib/dpkg/status").read_text()
    kept = [
        paragraph
        for paragraph in status.split("\n\n")
        if paragraph.partition("\n")[0].removeprefix("Package: ") in packages
    ]
    return "".join(f"{paragraph.strip()}\n\n" for paragraph in kept)


def licences(packages: set[str]) -> Iterator[Path]:
    """Yield each package's copyright file, and the link if its directory is that of another. Exit if one is missing."""
    for package in sorted(packages):
        folder = ROOT / "usr/share/doc" / package
        if not (folder / "copyright").exists():
            sys.exit(f"select_files.py: the base has no {folder}/copyright; licences must be in the images")
        while folder.is_symlink():
            yield folder
            folder = folder.parent / folder.readlink()
        yield from with_targets(folder / "copyright")


def copy(path: Path, target: Path) -> None:
    """Copy a file, a link or an empty directory into *target*, with the modes of the directories above it."""
    parents = [directory for directory in reversed(path.parents) if directory.is_relative_to(ROOT)]
    missing = [directory for directory in parents if not (target / directory.relative_to(ROOT)).exists()]
    for directory in [*missing, *([path] if path.is_dir() and not path.is_symlink() else [])]:
        new = target / directory.relative_to(ROOT)
        new.mkdir(exist_ok=True)
        shutil.copystat(directory, new)
    if path.is_symlink() or path.is_file():
        shutil.copy2(path, target / path.relative_to(ROOT), follow_symlinks=False)


def add_skeleton(target: Path) -> None:
    """Create the directories and files of *target* that no package contains."""
    for name in LINKS:
        if (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to((ROOT / name).readlink())
    for name, mode in DIRECTORIES.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name).chmod(mode)
    for name in MOUNT_POINTS:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).touch()


def compile_modules(target: Path) -> None:
    """Add bytecode of the standard library without times, because a start with a read-only root cannot store it."""
    library = target / STANDARD_LIBRARY.relative_to(ROOT)
    command = [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash"]
    command += ["-s", str(target), "-p", "/", str(library)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})


def write_library_cache(target: Path, base: Path | None) -> None:
    """Write ld.so.cache of an image with the files of *base* and *target*."""
    with TemporaryDirectory() as name:
        for tree in filter(None, (base, target)):
            shutil.copytree(tree, name, symlinks=True, dirs_exist_ok=True)
        subprocess.run(["/usr/sbin/ldconfig", "-X", "-r", name], check=True)
        (target / "etc").mkdir(exist_ok=True)
        shutil.copy(Path(name) / "etc/ld.so.cache", target / "etc/ld.so.cache")


def select(target: Path, base: Path | None) -> None:
    """Copy the files of the common base into *target*, or nmi's if *base* contains the common base."""
    target.mkdir()
    if base is None:
        add_skeleton(target)
        files = {*python_files(), *matching(BASE_FILES)}
        files |= set(shared_libraries([*files, *PROGRAMS.rglob("*.so*")]))
        present = set()
    else:
        files = set(matching(NMI_FILES))
        files |= set(shared_libraries(files))
        present = {ROOT / path.relative_to(base) for path in base.rglob("*")}
    packages = owners(files | present)
    for path in sorted({*files, *licences(packages)} - present):
        copy(path, target)
    if base is None:
        compile_modules(target)
    write_library_cache(target, base)
    status = target / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(paragraphs(packages))
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or "0")
    for path in [target, *target.rglob("*")]:
        os.utime(path, (moment, moment), follow_symlinks=False)


def main() -> None:
    """Copy the common base into the first argument, or nmi's files if there is a second argument."""
    target, *base = map(Path, sys.argv[1:])
    select(target, base[0] if base else None)


if __name__ == "__main__":
    main()
