"""Choice of the backend and the target of the redirect from facts about the node. Pure; `node_facts` reads the facts.

A rule of iptables and a rule of nftables have the same effect. The choice follows the node's own tools, so that they
show NMI's rule and the order of the rules is defined.
"""

from enum import StrEnum

import msgspec

from nmi.choices import RedirectMode, RedirectTarget
from podidentity.exits import StartError

_CILIUM_NEXT = (
    "set bpf.hostLegacyRouting=true in Cilium, or use --redirect=cilium with a CiliumLocalRedirectPolicy (chart value "
    "nmi.redirect.backend=cilium): see docs/data-planes.md"
)


class Backend(StrEnum):
    """The mechanism that redirects pods' requests to NMI."""

    IPTABLES_LEGACY = "iptables-legacy"
    IPTABLES_NFT = "iptables-nft"
    NFTABLES = "nftables"
    CILIUM = "cilium"
    NONE = "none"

    @property
    def changes_rules(self) -> bool:
        """Return whether NMI writes rules in this backend."""
        return RedirectMode(self.value).changes_rules


class TableFacts(msgspec.Struct, frozen=True):
    """The contents of one backend of iptables."""

    rules: int = 0
    chains: frozenset[str] = frozenset()
    """The chains of users, without those of the kernel."""

    @property
    def empty(self) -> bool:
        return self.rules == 0 and not self.chains

    @property
    def of_kubelet(self) -> bool:
        """Return whether the kubelet keeps its chains here. Every kubelet since 1.17 does in mangle, in its backend."""
        return not self.chains.isdisjoint(("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"))

    @property
    def of_kube_proxy(self) -> bool:
        """Return whether kube-proxy in iptables or IPVS mode keeps its chains here."""
        return "KUBE-SERVICES" in self.chains

    @property
    def of_cilium(self) -> bool:
        """Return whether Cilium keeps its chains here."""
        return any(chain.startswith("CILIUM_") for chain in self.chains)


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the choice depends on. None in place of a backend's content means that the backend is unusable."""

    iptables_legacy: TableFacts | None = None
    iptables_nft: TableFacts | None = None
    nft_tables: frozenset[tuple[str, str]] | None = None
    """Family and name of each table of nftables; None if the program nft is missing or fails."""
    programs: frozenset[Backend] = frozenset()
    """The backends whose programs are in this image, usable or not."""
    localnet_problem: str | None = None
    """Why the kernel drops packets that a rule sends to 127.0.0.1; None if it delivers them."""
    cilium_interface: bool = False
    """Whether this node has an interface of Cilium."""
    node_address: str | None = None
    """The node's own IPv4 address, if NMI knows it."""

    @property
    def kube_proxy_uses_nftables(self) -> bool:
        return self.nft_tables is not None and ("ip", "kube-proxy") in self.nft_tables

    @property
    def kube_proxy_uses_iptables(self) -> bool:
        return any(table is not None and table.of_kube_proxy for table in (self.iptables_nft, self.iptables_legacy))

    @property
    def cilium(self) -> bool:
        """Return whether Cilium runs on this node."""
        tables = (self.iptables_nft, self.iptables_legacy)
        return self.cilium_interface or any(table is not None and table.of_cilium for table in tables)


class RedirectChoice(msgspec.Struct, frozen=True):
    """The backend and the target of the redirect, and why."""

    backend: Backend
    target: RedirectTarget
    """`loopback` or `node`, never `auto`."""
    reason: str


def choose(
    facts: NodeFacts,
    mode: RedirectMode,
    target: RedirectTarget,
    *,
    listen_address: str = "127.0.0.1",
    sets_localnet: bool = False,
) -> RedirectChoice:
    """Return backend and target for *mode* and *target*, the settings.

    *listen_address* is where a rule with the target `loopback` leads; *sets_localnet* states whether NMI may switch
    route_localnet on. Raises StartError if the node cannot satisfy the settings.
    """
    backend, backend_reason = _backend(facts, mode)
    chosen, target_reason = _target(facts, backend, target, listen_address, sets_localnet=sets_localnet)
    if chosen is RedirectTarget.NODE and facts.node_address is None:
        raise StartError(
            "the redirect to the node's address needs that address, which NMI does not know: set NODE_IP in NMI's env "
            "from status.hostIP, or use --redirect-target=loopback"
        )
    return RedirectChoice(backend, chosen, f"{backend_reason}; {target_reason}")


def _backend(facts: NodeFacts, mode: RedirectMode) -> tuple[Backend, str]:
    if mode not in (RedirectMode.AUTO, RedirectMode.NAT):
        backend = Backend(mode.value)
        if backend.changes_rules:
            _require(facts, backend)
        return backend, f"--redirect={mode} requires this backend"
    usable_natively = facts.nft_tables is not None
    # Next to kube-proxy's chains of nftables the order of rules of iptables is undefined, so kube-proxy could translate
    # a connection first. NMI's own table has a priority before its.
    if facts.kube_proxy_uses_nftables:
        return Backend.NFTABLES, "kube-proxy uses nftables (table ip kube-proxy)"
    iptables = _iptables(facts)
    if iptables is not None and (iptables[2] or not usable_natively):
        return iptables[:2]
    if usable_natively:
        return (Backend.NFTABLES, "this node has no rules of iptables" if iptables else "only nft is usable")
    if Backend.IPTABLES_LEGACY in facts.programs:
        return Backend.IPTABLES_LEGACY, "the kernel has no nf_tables"
    raise StartError(
        "no backend of netfilter is usable: install the packages iptables (1.8 or newer) and nftables in NMI's image, "
        "or start NMI with --redirect=none if pods reach it in another way"
    )


def _iptables(facts: NodeFacts) -> tuple[Backend, str, bool] | None:
    """Return the backend of iptables that this node uses, the reason, and whether it holds anything."""
    nft, legacy = facts.iptables_nft, facts.iptables_legacy
    if nft is None and legacy is None:
        return None
    if nft is None or legacy is None:
        usable, content = (Backend.IPTABLES_LEGACY, legacy) if nft is None else (Backend.IPTABLES_NFT, nft)
        assert content is not None  # noqa: S101  checked above
        return usable, "the other backend of iptables is not in use", not content.empty
    # The kubelet's chains show which backend the node's own tools use; the number of rules is weaker evidence.
    for backend, content in ((Backend.IPTABLES_NFT, nft), (Backend.IPTABLES_LEGACY, legacy)):
        if content.of_kubelet:
            return backend, "the kubelet keeps its chains in this backend", True
    if legacy.rules > nft.rules:
        return Backend.IPTABLES_LEGACY, "this backend of iptables holds more rules than the other", True
    reason = "this backend of iptables holds no fewer rules than the other"
    return Backend.IPTABLES_NFT, reason, not (nft.empty and legacy.empty)


def _require(facts: NodeFacts, backend: Backend) -> None:
    """Raise StartError unless *backend* is usable on this node."""
    if backend is Backend.IPTABLES_LEGACY:
        usable = backend in facts.programs  # its tables need not exist yet
    else:
        usable = (facts.nft_tables if backend is Backend.NFTABLES else facts.iptables_nft) is not None
    if not usable:
        raise StartError(
            f"--redirect={backend} is not usable on this node: its program is missing from NMI's image, or the kernel "
            f"does not support it; use --redirect=auto"
        )


def _target(
    facts: NodeFacts, backend: Backend, target: RedirectTarget, listen_address: str, *, sets_localnet: bool
) -> tuple[RedirectTarget, str]:
    if target is not RedirectTarget.AUTO:
        return target, f"--redirect-target={target} requires this target"
    if backend is Backend.CILIUM:
        return RedirectTarget.NODE, "Cilium redirects to the address of NMI's pod"
    if (reason := _loopback_reason(facts, backend, listen_address, sets_localnet=sets_localnet)) is not None:
        return RedirectTarget.LOOPBACK, reason
    return RedirectTarget.NODE, "route_localnet is off"


def _loopback_reason(facts: NodeFacts, backend: Backend, listen_address: str, *, sets_localnet: bool) -> str | None:
    """Return why the target is the listener's address; None if it is not."""
    reasons = (
        (backend is Backend.NONE, "without a redirect NMI listens on --nmi-listen-address only"),
        (
            not listen_address.startswith("127."),
            f"--nmi-listen-address is {listen_address}, which needs no route_localnet",
        ),
        (facts.localnet_problem is None, "route_localnet is on"),
        (sets_localnet, "--route-localnet=set switches route_localnet on"),
        (facts.node_address is None, "NMI does not know the node's address"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def bypass(facts: NodeFacts, backend: Backend, *, redirected: bool) -> str | None:
    """Return why a rule in *backend* is not effective on this node, with the next action; None if nothing shows that.

    *redirected* states whether a packet has matched the rule.
    """
    if not backend.changes_rules:
        return None
    kube_proxy = facts.kube_proxy_uses_iptables or facts.kube_proxy_uses_nftables
    # eBPF host routing requires that Cilium replaces kube-proxy.
    if facts.cilium and not kube_proxy and not redirected:
        return (
            f"Cilium runs here without kube-proxy, and no connection has matched the redirect: pods' packets may "
            f"bypass netfilter; {_CILIUM_NEXT}"
        )
    return None
