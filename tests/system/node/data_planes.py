"""The data planes on which NMI redirects pods: the cells of the compatibility matrix, and the test bed of each cell.

A cell is a mode of kube-proxy, a redirect backend of NMI, a target of the redirect and a kind of CNI plugin. Nodes with
Cilium are in `on_cilium/`. This module reads and writes no files.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from tests.system.node.options import Cni, Options

Proxy = Literal["iptables-nft", "iptables-legacy", "nftables"]
Backend = Literal["auto", "iptables-nft", "iptables-legacy", "nftables"]
Target = Literal["auto", "loopback", "node"]

PROXIES: Final[Mapping[Proxy, str]] = {
    "iptables-nft": "mode iptables, nft backend",
    "iptables-legacy": "mode iptables, legacy backend",
    "nftables": "mode nftables",
}
"""The kinds of nodes by the mode of kube-proxy, with their names in the tables."""
BACKENDS: Final[tuple[Backend, ...]] = ("auto", "iptables-nft", "iptables-legacy", "nftables")
TARGETS: Final[tuple[Target, ...]] = ("loopback", "node")
"""The targets of a redirect. `auto` selects one of them."""
CNIS: Final[Mapping[Cni, str]] = {"bridge": "bridge", "ptp": "point-to-point"}
CHECKS: Final = ("token", "verified", "killed", "restarted", "upgraded", "flushed", "uninstalled")
"""The checks of one cell, in their order. A cell is tested when one run has passed all of them."""


class Cell(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One cell of the matrix. *target* is `auto` in a cell to run, and the selected target in a result."""

    proxy: Proxy
    cni: Cni
    backend: Backend
    target: Target

    @property
    def name(self) -> str:
        return f"{self.proxy}-{self.cni}-{self.backend}-to-{self.target}"

    @property
    def is_usual(self) -> bool:
        """Whether `make e2e-node` runs the cell: all with a bridge, and those of `auto` with point-to-point links.

        The other cells differ from these in the CNI plugin only. `DATA_PLANES=all` runs them as well.
        """
        return self.cni == "bridge" or self.backend == "auto"

    @property
    def needs_route_localnet(self) -> bool:
        """Whether the chart must set route_localnet. kube-proxy sets it in mode iptables only."""
        return self.target == "loopback" and self.proxy == "nftables"

    @property
    def chart_values(self) -> dict[str, Any]:
        """The chart's values, all others at their defaults."""
        values = redirect_values(self.backend, self.target)
        if self.needs_route_localnet:
            values["nmi"]["routeLocalnet"] = "set"
        return values


CELLS: Final = [
    Cell(proxy=proxy, cni=cni, backend=backend, target=target)
    for proxy in PROXIES
    for cni in CNIS
    for backend in BACKENDS
    # Target `node` first, because `routeLocalnet: set` leaves route_localnet on.
    for target in (("auto",) if backend == "auto" else TARGETS[::-1])
]
"""Every cell that a test bed can run, sorted so that those of one bed follow each other."""


def bed_options(proxy: Proxy, cni: Cni, *, nodes: int = 1) -> Options:
    """Return the options of a test bed with nodes of this kind."""
    mode: Literal["iptables", "nftables"] = "nftables" if proxy == "nftables" else "iptables"
    return Options(nodes=nodes, cni=cni, proxy=mode, legacy_iptables=proxy == "iptables-legacy")


def redirect_values(backend: Backend, target: Target) -> dict[str, Any]:
    """Return the chart's values that select backend and target; none for `auto`, which is the default."""
    selected = {name: value for name, value in (("backend", backend), ("target", target)) if value != "auto"}
    return {"nmi": {"redirect": selected} if selected else {}}
