"""Linux capabilities that a container adds, and what it gets with them. Pure.

The tables have the names without the prefix `CAP_`. A capability that none of them has is undecided.
"""

from collections.abc import Mapping
from typing import Final

TAKES_OVER: Final = {
    "ALL": "every capability",
    "BPF": "it loads programs into the kernel",
    "DAC_READ_SEARCH": "it opens each file of the node's disks by its handle",
    "SYS_ADMIN": "it mounts the node's disks and enters the namespaces of other processes",
    "SYS_MODULE": "it loads kernel modules",
    "SYS_RAWIO": "it writes to I/O ports and the machine's memory",
}
WITH_HOST_PID: Final = {"SYS_PTRACE": "it reads and changes every process of the node"}
"""With `hostPID`."""
WITH_HOST_NETWORK: Final = {
    "NET_ADMIN": "it redirects requests of the node's other pods",
    "NET_RAW": "it reads the tokens of the node's other pods from the network",
}
"""With `hostNetwork`."""

_BY_DEFAULT: Final = "container runtimes give it by default"
_OWN_NAMESPACES: Final = "it has an effect in the pod's own namespaces only"
_LIMITS: Final = "it changes limits, priorities and locks of processes that the container reaches anyway"
HARMLESS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ),
        _BY_DEFAULT,
    ),
    **dict.fromkeys(("IPC_OWNER", "NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE"), _OWN_NAMESPACES),
    **dict.fromkeys(("IPC_LOCK", "LEASE", "LINUX_IMMUTABLE", "SYS_NICE", "SYS_RESOURCE"), _LIMITS),
}
UNDECIDED: Final = {
    "MAC_ADMIN": "it changes the profiles of AppArmor or SELinux",
    "PERFMON": "it samples the memory of other processes, as far as the kernel's settings permit",
    "SYS_BOOT": "it starts another kernel unless a seccomp profile prevents it",
}
"""Reasons of undecided ones."""
UNDECIDED_WHY: Final = "it has an effect on the whole node"
