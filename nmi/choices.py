"""The settings of NMI that are one of several words."""

from enum import StrEnum


class OperationMode(StrEnum):
    """The source of a pod's identities: MIC's AzureAssignedIdentities, or NMI itself in the pod's namespace."""

    STANDARD = "standard"
    MANAGED = "managed"


class RedirectMode(StrEnum):
    """How requests reach NMI: by a rule of the node in one backend of netfilter, by a Cilium policy, or directly."""

    AUTO = "auto"
    NAT = "nat"
    """The former name of `auto`."""
    IPTABLES_LEGACY = "iptables-legacy"
    IPTABLES_NFT = "iptables-nft"
    NFTABLES = "nftables"
    CILIUM = "cilium"
    NONE = "none"

    @property
    def changes_rules(self) -> bool:
        """Return whether NMI writes rules of the node."""
        return self not in (RedirectMode.CILIUM, RedirectMode.NONE)


class RedirectTarget(StrEnum):
    """The address to which the node redirects pods' requests."""

    AUTO = "auto"
    LOOPBACK = "loopback"
    """The listener's address, 127.0.0.1 by default; it needs route_localnet."""
    NODE = "node"
    """The node's own address, which needs no route_localnet."""


class RouteLocalnetMode(StrEnum):
    """The handling of route_localnet, without which a nat rule cannot redirect to 127.0.0.1."""

    CHECK = "check"
    SET = "set"


class BootGuardAction(StrEnum):
    """The action on the host's boot guard, instead of serving."""

    NONE = "none"
    INSTALL = "install"
    REMOVE = "remove"


class StaleIdentity(StrEnum):
    """The response to a pod while neither the watch nor a read can confirm that it still exists."""

    SERVE = "serve"
    REFUSE = "refuse"
