"""Permission to write rules on this node. The node's labels decide it here and nowhere else."""

import asyncio
from collections.abc import Mapping
from typing import Never

from nmi.node.host_routing import HostRouting, by_labels


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
