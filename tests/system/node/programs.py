"""The programs of a node: Debian's containerd, runc and CNI plugins, and the binary of tests/support/testplane.

A node with Cilium has the agent that `cilium_agent/build.sh` builds. The environment variable CILIUM names its folder.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.support.checkout import ROOT
from tests.support.testplane import up
from tests.system.node.options import POD_RANGE, Options
from tests.system.node.processes import BedError

HERE: Final = Path(__file__).parent
BUILD: Final = ROOT / "build" / "node"
PACKAGES: Final = BUILD / "packages" / "usr"
IMAGES: Final = ROOT / "build" / "images"
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread", "-D_GNU_SOURCE")
CLANG: Final = Path("/usr/bin/clang-19")
"""Cilium's agent compiles its programs for the kernel with it."""
LEGACY: Final = Path("/usr/sbin/xtables-legacy-multi")


Routing = Literal["ebpf", "legacy"]
BPF_ROOT: Final = "/sys/fs/bpf"
CILIUM_CGROUP: Final = "/run/cilium/cgroupv2"
CILIUM_LIBRARY: Final = "/var/lib/cilium"
CILIUM_HEALTH: Final = "http://127.0.0.1:9879/healthz"
CILIUM_START_SECONDS: Final = 120
"""The agent compiles its programs for the kernel at the start, and for the first pod."""
CILIUM_PREPARATION: Final = (
    f"mountpoint -q {BPF_ROOT} || {{ mkdir -p {CILIUM_CGROUP} {CILIUM_LIBRARY} && "
    f"mount -t cgroup2 cgroup2 {CILIUM_CGROUP} && mount -t bpf bpf {BPF_ROOT} && "
    f'cp -r "$1" {CILIUM_LIBRARY}/; }}'
)
"""A shell script of the node before the agent's first start; its argument is the folder of the sources of the agent's
kernel programs."""


@dataclass(frozen=True, slots=True)
class CiliumFiles:
    """The folder that `cilium_agent/build.sh` filled, and the paths of what a node needs."""

    folder: Path
    agent: Path
    plugin: Path
    kernel_programs: Path

    @property
    def definitions(self) -> list[Path]:
        """The CustomResourceDefinitions that Cilium's operator creates in a cluster."""
        return sorted((self.folder / "crds").glob("*/*.yaml"))

    @property
    def version(self) -> str:
        return (self.folder / "version").read_text().strip()


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs, and the PATH for processes of a node."""

    testplane: str
    containerd: str
    ctr: str
    cni_plugins: Path
    path: str
    cilium: CiliumFiles | None


def find_programs(folder: Path, options: Options) -> Programs:
    """Return the programs. Links for the legacy iptables, or for Cilium's plugin, are created in *folder*.

    Build tests/support/testplane if its sources have not been built yet, which takes minutes. Raise BedError if a
    package is missing, or with Cilium clang or the built programs.
    """
    programs = PACKAGES / "bin"
    if not (programs / "containerd").exists():
        raise BedError("containerd is missing; run: tools/system-packages node")
    testplane = up.build()
    plugins = PACKAGES / "lib" / "cni"
    links: dict[str, Path] = {}
    if options.legacy_iptables:
        for family in ("iptables", "ip6tables"):
            links |= {f"{family}{action}": LEGACY for action in ("", "-save", "-restore")}
    cilium = find_cilium() if options.cilium else None
    if cilium is not None:
        if not CLANG.exists():
            raise BedError(f"{CLANG} is missing; run tools/system-packages cilium")
        links |= {program.name: program for program in (*plugins.iterdir(), cilium.plugin)} | {"clang": CLANG}
        plugins = folder
    folder.mkdir()
    for name, program in links.items():
        (folder / name).symlink_to(program)
    path = f"{folder}:{programs}:{PACKAGES}/sbin:{testplane.parent}:{SYSTEM_PATH}"
    return Programs(str(testplane), str(programs / "containerd"), str(programs / "ctr"), plugins, path, cilium)


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


def build_images(sources: Path = ROOT) -> Path:
    """Return the folder of `tools/local-images` of *sources*, whose images are built first if the sources changed.

    That takes some five minutes. Raise BedError if the build fails.
    """
    images = sources / "build" / "images"
    done = subprocess.run([str(sources / "tools/local-images"), "once"], cwd=sources, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise BedError(f"tools/local-images failed; see {images / 'log'}")
    return images


def find_cilium() -> CiliumFiles:
    """Return the built programs. Raise BedError without them."""
    named = os.environ.get("CILIUM", "")
    if not named:
        raise BedError("set CILIUM to the folder that tests/system/node/cilium_agent/build.sh has filled")
    folder = Path(named).resolve()
    paths = [folder / name for name in ("cilium-agent", "cilium-cni", "bpf")]
    if absent := [path.name for path in paths if not path.exists()]:
        raise BedError(f"{named} has no {', '.join(absent)}; run tests/system/node/cilium_agent/build.sh {named}")
    return CiliumFiles(folder, *paths)


def cilium_flags(routing: Routing) -> list[str]:
    """Return the agent's flags. It replaces kube-proxy and the CNI plugin, and translates no source address."""
    return [
        "--k8s-kubeconfig-path=/etc/kubernetes/cilium.kubeconfig",
        "--enable-ipv6=false",
        "--ipam=kubernetes",
        "--routing-mode=native",
        f"--ipv4-native-routing-cidr={POD_RANGE}",
        "--enable-ipv4-masquerade=false",
        "--kube-proxy-replacement=true",
        f"--enable-host-legacy-routing={'true' if routing == 'legacy' else 'false'}",
        "--enable-local-redirect-policy=true",
        "--devices=eth0",
        f"--bpf-root={BPF_ROOT}",
        f"--cgroup-root={CILIUM_CGROUP}",
        f"--lib-dir={CILIUM_LIBRARY}",
        # Parts that need Envoy or further addresses.
        "--enable-l7-proxy=false",
        "--enable-health-checking=false",
        "--enable-endpoint-health-checking=false",
        "--enable-hubble=false",
    ]
