"""The requirements of a test bed that a machine may not meet, each tried: `python -m tests.system.node.machine`.

The program prints each reason and ends with code 1 if there is any.
"""

import os
import subprocess
import sys
from typing import Final

from tests.system.node import cgroups
from tests.system.node.cgroups import Cgroup

REQUIRED: Final = frozenset({"cpu", "cpuset", "memory", "pids"})
REQUIRED_V1: Final = frozenset({*REQUIRED, "cpuacct", "devices", "freezer"})
NAMESPACES: Final = ("unshare", "--mount", "--net", "--pid", "--fork", "--uts", "--ipc", "--cgroup")
_SECONDS: Final = 20
PROBES: Final = {
    "a file system of processes": "mount -t proc proc /proc",
    "a file system of memory": "mount -t tmpfs tmpfs /mnt",
    "overlay file systems": "mount -t tmpfs tmpfs /mnt && mkdir /mnt/l /mnt/u /mnt/w && "
    "mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/l",
    "virtual links": "ip link add name a type veth peer name b",
    "bridges": "ip link add name c type bridge",
    "the nat table of iptables": "iptables --table nat --list-rules",
    "translation of addresses": "iptables -t nat -A PREROUTING -p tcp -d 169.254.169.254 -j DNAT --to 127.0.0.1:1",
    "nftables": "nft list ruleset",
    "mounts of cgroups": "mount -t cgroup2 cgroup2 /mnt" if cgroups.V2 else "mount -t cgroup -o memory cgroup /mnt",
}
"""What a node needs from the kernel, and a script that uses it in new namespaces."""


def reasons() -> list[str]:
    """Return why this machine cannot run real nodes, a sentence for each missing requirement."""
    if os.geteuid() != 0:
        return ["The user is not root, which namespaces, mounts and cgroups need; run it as root."]
    if problem := run("true"):
        return [f"The kernel does not permit namespaces ({problem}); a container needs CAP_SYS_ADMIN for them."]
    missing = [
        f"The machine does not permit {name}: {problem}." for name, script in PROBES.items() if (problem := run(script))
    ]
    return [*missing, *missing_cgroups()]


def missing_cgroups() -> list[str]:
    """Return why a node cannot have a cgroup, as a sentence; empty if it can. The group is created and removed."""
    present = (cgroups.ROOT / "cgroup.controllers").read_text().split() if cgroups.V2 else cgroups.CONTROLLERS
    if absent := sorted((REQUIRED if cgroups.V2 else REQUIRED_V1).difference(present)):
        return [f"The cgroups in {cgroups.ROOT} lack these controllers: {', '.join(absent)}."]
    cgroup = Cgroup(f"podid-probe-{os.getpid()}")
    try:
        cgroup.create()
    except OSError as failure:
        return [f"The machine's cgroups are read-only for a node: {failure}."]
    finally:
        cgroup.remove()
    return []


def run(script: str) -> str:
    """Run a shell script in new namespaces. Return an empty string, or its error in one line."""
    try:
        done = subprocess.run(
            [*NAMESPACES, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()).rstrip(".") or f"{script} ended with {done.returncode}"


if __name__ == "__main__":
    if problems := reasons():
        sys.exit("\n".join(["This machine cannot run the real nodes of tests/system/node:", *problems]))
