"""eBPF host routing of AKS: which node has it, where NMI reads that, and whether NMI may write rules on the node.

There pods' packets bypass netfilter, and Cilium's agent starts only when every rule of iptables in the host's network
is one that AKS expects. NMI's rules are not: with them the node may not get its network for pods. AKS forbids to work
around that, so NMI writes no rule there. AKS labels these nodes. The sources are the node object, and the labels with
which the kubelet registers the node, in the file of its flags, which NMI reads for kubenet anyway.
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
"""POSIX regular expression of a line with the label, for `grep -Ew` in the boot guard: not in a comment."""
_LABELLED: Final = re.compile(
    LABELLED.replace("[[:space:]]", r"[ \t]").replace("[:space:]", r"\s") + r"(?!\w)", re.MULTILINE
)
_LABELS: Final = re.compile(
    r"^[ \t]*(?:[^#\s].*--?node-labels[=\s]+[\"']?|(?:export )?KUBELET_NODE_LABELS=[\"']?)[\w.-]", re.MULTILINE
)
"""A line with a list of labels: AgentBaker writes KUBELET_NODE_LABELS, other tools the flag."""

ADVICE: Final = (
    "pods' packets bypass netfilter there, and rules could keep Cilium from starting: use --redirect=cilium with a "
    "CiliumLocalRedirectPolicy (chart value nmi.redirect.backend=cilium), or disable eBPF host routing in AKS "
    "(acceleration mode None): see docs/data-planes.md"
)


class HostRouting(StrEnum):
    """How packets of pods pass the host."""

    EBPF = "ebpf"
    """Past netfilter: NMI must write no rule."""
    NETFILTER = "netfilter"
    """The labels of the node are known, and do not show eBPF host routing."""
    UNKNOWN = "unknown"
    """The labels of the node are not known."""


def by_labels(labels: Mapping[str, str]) -> HostRouting:
    """Return what the *labels* of the node object show."""
    return HostRouting.EBPF if labels.get(LABEL) == "true" else HostRouting.NETFILTER


def by_kubelet_flags(text: str) -> HostRouting:
    """Return what the labels in the kubelet's flags show; UNKNOWN if *text* contains no labels."""
    if _LABELLED.search(text):
        return HostRouting.EBPF
    return HostRouting.NETFILTER if _LABELS.search(text) else HostRouting.UNKNOWN


def by_kubelet(config: Path) -> HostRouting:
    """Return what the file of the kubelet's flags shows; UNKNOWN if it cannot be read. Blocks."""
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return by_kubelet_flags(file.read(READ_MAX))
    except OSError:
        return HostRouting.UNKNOWN


class RulesForbiddenError(Exception):
    """The labels of the node forbid rules: ends their maintenance."""


class RulePermission:
    """The permission of one node. NMI writes nothing on the node while it is not `granted`.

    The owner sets `by_kubelet`, and calls grant() and forbid() as `host_routing` returns.
    """

    def __init__(self) -> None:
        self.by_kubelet = HostRouting.UNKNOWN
        """What the labels in the kubelet's flags show."""
        self._decided = asyncio.Event()
        self._forbidden = asyncio.Event()

    @property
    def granted(self) -> bool:
        return self._decided.is_set() and not self._forbidden.is_set()

    def host_routing(self, labels: Mapping[str, str] | None) -> HostRouting:
        """Return what the *labels* of the node object show; with None, what those in the kubelet's flags show."""
        return by_labels(labels) if labels is not None else self.by_kubelet

    def grant(self) -> None:
        self._decided.set()

    def forbid(self) -> None:
        """Forbid rules for ever, also if they were permitted."""
        self._forbidden.set()
        self._decided.set()

    async def decided(self) -> None:
        """Return when rules are permitted or forbidden."""
        await self._decided.wait()

    async def until_forbidden(self) -> Never:
        """Raise RulesForbiddenError when rules are forbidden."""
        await self._forbidden.wait()
        raise RulesForbiddenError
