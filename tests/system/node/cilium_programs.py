"""Cilium's agent as a program of a node: its files, its flags and its settings. This module starts nothing.

`cilium_agent/build.sh` builds the programs. The environment variable CILIUM names their folder.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.system.node.options import POD_RANGE
from tests.system.node.processes import BedError

FOLDER_VARIABLE: Final = "CILIUM"
Routing = Literal["ebpf", "legacy"]
BPF_ROOT: Final = "/sys/fs/bpf"
CGROUP_ROOT: Final = "/run/cilium/cgroupv2"
LIBRARY: Final = "/var/lib/cilium"
KUBECONFIG: Final = "/etc/kubernetes/cilium.kubeconfig"
HEALTH: Final = "http://127.0.0.1:9879/healthz"
START_SECONDS: Final = 120
"""The agent compiles its programs for the kernel at the start, and for the first pod."""
PREPARATION: Final = (
    f"mkdir -p {CGROUP_ROOT} {LIBRARY} && mount -t cgroup2 cgroup2 {CGROUP_ROOT} && mount -t bpf bpf {BPF_ROOT} && "
    f'cp -r "$1" {LIBRARY}/'
)
"""A shell script of the node; its argument is the folder of the sources of the agent's kernel programs."""


@dataclass(frozen=True, slots=True)
class CiliumFiles:
    """What `cilium_agent/build.sh` made."""

    folder: Path

    @property
    def agent(self) -> Path:
        return self.folder / "cilium-agent"

    @property
    def plugin(self) -> Path:
        return self.folder / "cilium-cni"

    @property
    def kernel_programs(self) -> Path:
        return self.folder / "bpf"

    @property
    def definitions(self) -> list[Path]:
        """The CustomResourceDefinitions that Cilium's operator creates in a cluster."""
        return sorted((self.folder / "crds").glob("*/*.yaml"))

    @property
    def version(self) -> str:
        return (self.folder / "version").read_text().strip()


def find() -> CiliumFiles:
    """Return the built programs. Raise BedError without them."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        raise BedError(f"set {FOLDER_VARIABLE} to the folder that tests/system/node/cilium_agent/build.sh has filled")
    found = CiliumFiles(Path(folder).resolve())
    absent = [path.name for path in (found.agent, found.plugin, found.kernel_programs) if not path.exists()]
    if absent:
        raise BedError(f"{folder} has no {', '.join(absent)}; run tests/system/node/cilium_agent/build.sh {folder}")
    return found


def flags(routing: Routing) -> list[str]:
    """Return the agent's flags. It replaces kube-proxy and the CNI plugin, and translates no source address."""
    return [
        f"--k8s-kubeconfig-path={KUBECONFIG}",
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
        f"--cgroup-root={CGROUP_ROOT}",
        f"--lib-dir={LIBRARY}",
        # Parts that need Envoy or further addresses.
        "--enable-l7-proxy=false",
        "--enable-health-checking=false",
        "--enable-endpoint-health-checking=false",
        "--enable-hubble=false",
    ]
