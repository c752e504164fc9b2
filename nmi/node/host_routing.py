"""Detection of AKS's eBPF host routing by the labels of the node, and the permission to write rules that depends on it.

On a node with eBPF host routing pods' packets bypass netfilter. Cilium's agent starts there only if AKS expects every
rule of iptables in the host's network. AKS does not expect NMI's rules, so they could leave the node without a network
for pods, and AKS forbids workarounds. NMI therefore writes no rule on such a node.

AKS labels these nodes. NMI reads the labels of the node object, or those in the file of the kubelet's flags, with which
the kubelet registers the node.
"""

import asyncio
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Never

LABEL: Final = "kubernetes.azure.com/ebpf-host-routing"
READ_MAX: Final = 1 << 20
"""Bytes of the kubelet's flags that are read; real files have a few thousand."""

LABELLED: Final = r"^[[:space:]]*[^#[:space:]].*kubernetes[.]azure[.]com/ebpf-host-routing=true"
"""POSIX regular expression for `grep -Ew` in the boot guard. It matches the label outside of comments."""
# Python has neither these character classes nor the option -w, which the boundary at the end replaces.
_LABELLED: Final = re.compile(
    LABELLED.replace("[[:space:]]", r"[ \t]").replace("[:space:]", r"\s") + r"(?!\w)", re.MULTILINE
)
_LABELS: Final = re.compile(
    r"^[ \t]*(?:[^#\s].*--?node-labels[=\s]+[\"']?|(?:export )?KUBELET_NODE_LABELS=[\"']?)[\w.-]", re.MULTILINE
)
"""A line with a list of labels. AgentBaker writes KUBELET_NODE_LABELS, and other tools write the flag."""

ADVICE: Final = (
    "pods' packets bypass netfilter there, and rules could keep Cilium from starting: use --redirect=cilium with a "
    "CiliumLocalRedirectPolicy (chart value nmi.redirect.backend=cilium), or disable eBPF host routing in AKS "
    "(acceleration mode None): see docs/data-planes.md"
)


class HostRouting(StrEnum):
    """The path of pods' packets through the host."""

    EBPF = "ebpf"
    """It bypasses netfilter: NMI must not write a rule."""
    NETFILTER = "netfilter"
    """It includes netfilter: the labels of the node are known, and eBPF host routing is not among them."""
    UNKNOWN = "unknown"
    """The labels of the node are unknown."""


def by_labels(labels: Mapping[str, str]) -> HostRouting:
    """Return EBPF if the *labels* of the node object include that of eBPF host routing, else NETFILTER."""
    return HostRouting.EBPF if labels.get(LABEL) == "true" else HostRouting.NETFILTER


def by_kubelet_flags(text: str) -> HostRouting:
    """Return the same for *text*, the kubelet's flags; UNKNOWN if it contains no labels."""
    if _LABELLED.search(text):
        return HostRouting.EBPF
    return HostRouting.NETFILTER if _LABELS.search(text) else HostRouting.UNKNOWN


def by_kubelet(config: Path) -> HostRouting:
    """Return the same for the file of the kubelet's flags; UNKNOWN if NMI cannot read the file. Blocks."""
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return by_kubelet_flags(file.read(READ_MAX))
    except OSError:
        return HostRouting.UNKNOWN


class RulesForbiddenError(Exception):
    """The labels of the node forbid rules. The error ends the maintenance of the rules."""


class RulePermission:
    """The permission to write rules on one node. NMI writes nothing on the node while it is not `granted`.

    The owner sets `by_kubelet`, and calls grant() or forbid() according to `host_routing`.
    """

    def __init__(self) -> None:
        self.by_kubelet = HostRouting.UNKNOWN
        """The result of `by_kubelet` for this node."""
        self._decided = asyncio.Event()
        self._forbidden = asyncio.Event()

    @property
    def granted(self) -> bool:
        return self._decided.is_set() and not self._forbidden.is_set()

    def host_routing(self, labels: Mapping[str, str] | None) -> HostRouting:
        """Return the result of the node object's *labels*; for None, that of the labels in the kubelet's flags."""
        return by_labels(labels) if labels is not None else self.by_kubelet

    def grant(self) -> None:
        self._decided.set()

    def forbid(self) -> None:
        """Forbid rules permanently, also after grant()."""
        self._forbidden.set()
        self._decided.set()

    async def decided(self) -> None:
        """Wait until rules are permitted or forbidden."""
        await self._decided.wait()

    async def until_forbidden(self) -> Never:
        """Wait until rules are forbidden, and raise RulesForbiddenError."""
        await self._forbidden.wait()
        raise RulesForbiddenError
