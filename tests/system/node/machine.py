"""The requirements of a test bed that a machine may not meet, each tried: `python -m tests.system.node.machine`.

The program prints each reason and ends with code 1 if there is any.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from tests.system.node.cgroups import Cgroup, CgroupError

REQUIRED_V2: Final = frozenset({"cpu", "cpuset", "memory", "pids"})
REQUIRED_V1: Final = frozenset({*REQUIRED_V2, "cpuacct", "devices", "freezer"})
NAMESPACES: Final = ("unshare", "--mount", "--net", "--pid", "--fork", "--uts", "--ipc", "--cgroup")
_SECONDS: Final = 20

Run = Callable[[str], str]
"""Runs a shell script in new namespaces. Returns an empty string, or the error of the command that failed."""

PROBES: Final = {
    "namespaces": "true",
    "a file system of processes": "mount -t proc proc /proc",
    "a file system of memory": "mount -t tmpfs tmpfs /mnt",
    "overlay file systems": "mount -t tmpfs tmpfs /mnt && mkdir /mnt/l /mnt/u /mnt/w && "
    "mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/l",
    "virtual links": "ip link add name a type veth peer name b",
    "bridges": "ip link add name c type bridge",
    "the nat table of iptables": "iptables --table nat --list-rules",
    "translation of addresses": "iptables -t nat -A PREROUTING -p tcp -d 169.254.169.254 -j DNAT --to 127.0.0.1:1",
    "nftables": "nft list ruleset",
}
"""What a node needs from the kernel, and a script that uses it in new namespaces."""


def missing(run: Run, cgroup: Cgroup, *, root: bool) -> list[str]:
    """Return each requirement that this machine does not meet, as a sentence; empty if it can run real nodes."""
    if not root:
        return ["The user is not root, which namespaces, mounts and cgroups need; run it as root."]
    if problem := run(PROBES["namespaces"]):
        return [f"The kernel does not permit namespaces ({problem}); a container needs CAP_SYS_ADMIN for them."]
    found = [
        f"The machine does not permit {name}: {problem}." for name, script in PROBES.items() if (problem := run(script))
    ]
    return found + ([problem] if (problem := missing_cgroups(cgroup, run)) else [])


def missing_cgroups(cgroup: Cgroup, run: Run) -> str:
    """Return why a node cannot have *cgroup*, as a sentence; empty if it can. The group is created and removed."""
    if cgroup.v2:
        present, required = frozenset((cgroup.root / "cgroup.controllers").read_text().split()), REQUIRED_V2
    else:
        present, required = frozenset(cgroup.controllers), REQUIRED_V1
    if absent := sorted(required - present):
        return f"The cgroups in {cgroup.root} lack these controllers: {', '.join(absent)}."
    try:
        cgroup.create()
    except CgroupError as failure:
        return f"The machine's cgroups are read-only for a node: {failure}."
    finally:
        cgroup.remove()
    mount = "mount -t cgroup2 cgroup2 /mnt" if cgroup.v2 else "mount -t cgroup -o memory cgroup /mnt"
    return f"The machine does not permit mounts of cgroups: {problem}." if (problem := run(mount)) else ""


def run_in_namespaces(script: str) -> str:
    """Run a shell script in new namespaces. Return an empty string, or its error in one line."""
    try:
        done = subprocess.run(
            [*NAMESPACES, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()).rstrip(".") or f"{shlex.join([script])} ended with {done.returncode}"


def reasons() -> list[str]:
    """Return why this machine cannot run real nodes, a sentence for each missing requirement."""
    return missing(run_in_namespaces, Cgroup(f"podid-probe-{os.getpid()}"), root=os.geteuid() == 0)


def main() -> None:
    """Print the reasons and exit with code 1, if there are any."""
    if found := reasons():
        sys.exit("\n".join(["This machine cannot run the real nodes of tests/system/node:", *found]))


if __name__ == "__main__":
    main()
