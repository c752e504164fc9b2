"""The programs of a node: Debian's containerd, runc and CNI plugins, and the binary of tests/support/testplane."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node.cilium_programs import CiliumFiles, find
from tests.system.node.processes import BedError

HERE: Final = Path(__file__).parent
BUILD: Final = ROOT / "build" / "node"
PACKAGES: Final = BUILD / "packages"
IMAGES: Final = ROOT / "build" / "images"
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread", "-D_GNU_SOURCE")
CLANG: Final = Path("/usr/bin/clang-19")
"""Cilium's agent compiles its programs for the kernel with it."""
LEGACY: Final = Path("/usr/sbin/xtables-legacy-multi")
LEGACY_NAMES: Final = tuple(
    f"{family}{action}" for family in ("iptables", "ip6tables") for action in ("", "-save", "-restore")
)


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs, and the PATH for processes of a node."""

    testplane: Path
    containerd: Path
    ctr: Path
    cni_plugins: Path
    pause: Path
    load_client: Path
    path: str
    cilium: CiliumFiles | None = None


def find_programs(folder: Path, *, legacy_iptables: bool, with_cilium: bool = False) -> Programs:
    """Return the programs. Links for the legacy iptables, or for Cilium's plugin, are created in *folder*.

    Build the C programs and tests/support/testplane if these sources have not been built yet, which takes minutes.
    Raise BedError if a package is missing, or with Cilium clang or the built programs.
    """
    containerd = PACKAGES / "usr" / "bin" / "containerd"
    if not containerd.exists():
        raise BedError("containerd is missing; run: tools/system-packages node")
    testplane = up.build()
    path = f"{PACKAGES}/usr/bin:{PACKAGES}/usr/sbin:{testplane.parent}:{SYSTEM_PATH}"
    if legacy_iptables:
        folder.mkdir()
        for name in LEGACY_NAMES:
            (folder / name).symlink_to(LEGACY)
        path = f"{folder}:{path}"
    plugins = PACKAGES / "usr" / "lib" / "cni"
    agent = find() if with_cilium else None
    if agent is not None:
        folder.mkdir(exist_ok=True)
        for program in (*plugins.iterdir(), agent.plugin):
            (folder / program.name).symlink_to(program)
        if not CLANG.exists():
            raise BedError(f"{CLANG} is missing; run tools/system-packages cilium")
        (folder / "clang").symlink_to(CLANG)
        plugins, path = folder, f"{folder}:{path}"
    return Programs(
        testplane,
        containerd,
        containerd.with_name("ctr"),
        plugins,
        compiled("pause"),
        compiled("load_client"),
        path,
        agent,
    )


def compiled(name: str) -> Path:
    """Return the program of a C file of this folder, compiled statically because its image has no libraries.

    Raise CalledProcessError with the compiler's output on stderr.
    """
    source = HERE / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = BUILD / f"{name}-{digest}"
    if not program.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        part = program.with_name(f"{program.name}.{os.getpid()}")
        subprocess.run(["cc", *FLAGS, "-o", str(part), str(source)], check=True)
        part.rename(program)
    return program


def build_images() -> Path:
    """Return the folder of `tools/local-images`, whose images are built first if the sources changed.

    That takes some five minutes. Raise BedError if the build fails.
    """
    done = subprocess.run([str(ROOT / "tools" / "local-images"), "once"], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise BedError(f"tools/local-images failed; see {IMAGES / 'log'}")
    return IMAGES
