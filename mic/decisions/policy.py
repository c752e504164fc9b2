"""Limits of what a reconcile pass may change on a host: the operator's settings, and changes that must wait. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from mic.azure.identities import MOST_IN_ONE_UPDATE, HostIdentities
from podidentity.azure.resource_ids import Host, id_key


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings for attaching and detaching identities."""

    immutable: frozenset[str] = frozenset()
    """Client ids (or resource ids), lower-case, that MIC never detaches: `--immutable-user-msis` and the cluster's own
    identity."""
    adopt_existing: bool = False
    """Treat identities that were attached before MIC as if MIC had attached them."""
    allowed_groups: frozenset[str] = frozenset()
    """Resource groups, lower-case, as `group` or `subscription/group`, whose hosts MIC reads and changes; empty: all.
    The author of a Node names its host."""

    own: frozenset[str] = frozenset()
    """Client ids and resource ids, lower-case, of the cluster's own identity: the kubelet's, or MIC's."""
    assigns_own: bool = False
    """Assign also that identity to pods."""

    def refuses(self, *names: str) -> bool:
        """Return whether the identity with these client ids and resource ids, lower-case, is assigned to no pod."""
        return not self.assigns_own and not self.own.isdisjoint(names)

    def informed(self, azure: HostIdentities) -> "Policy":
        """Return the policy with all ids of the cluster's own identity that *azure* shows: the cloud config has one."""
        own = self.own
        for key, attached in azure.attached.items():
            # Azure may report no client id, and an empty one would join all such identities.
            names = {key, attached.client_id.lower()} - {""}
            own = own if own.isdisjoint(names) else own | names
        return self if own == self.own else replace(self, own=own)

    def allows(self, host: Host) -> bool:
        """Return whether MIC may read and change *host*."""
        group = id_key(host.resource_group)
        return not self.allowed_groups or not self.allowed_groups.isdisjoint(
            (group, f"{host.subscription.lower()}/{group}")
        )

    def refusal(self, host: Host | None) -> str:
        """Return why MIC neither reads nor changes *host*, and what to do; empty if it may, or there is none."""
        if host is None or self.allows(host):
            return ""
        return (
            f"--allowed-resource-groups does not name the resource group of {host.text}, so MIC changes nothing there: "
            f"add {host.subscription}/{host.resource_group}, or delete the node if it does not belong to this cluster"
        )


@dataclass(frozen=True, slots=True)
class Restraint:
    """Changes of a host that are due but must wait. Identities are given by their keys."""

    quarantined: Collection[str] = ()
    """Not attached or detached, because Azure has refused this recently."""
    retry_due: Collection[str] = ()
    """Attempted only if no other change is due: Azure has refused them before, and other changes must not fail with
    them."""
    in_grace_period: Collection[str] = ()
    """Not detached yet: the grace period since their last use has not passed."""
    most: int = MOST_IN_ONE_UPDATE
    """Maximum of identities in one update: fewer while it is unknown which one Azure refuses."""


UNRESTRAINED: Final = Restraint()
