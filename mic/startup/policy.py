"""The policy of reconcile passes, from MIC's flags and its cloud config."""

from mic.decisions.policy import Policy
from mic.startup.settings import Settings


def policy_of(settings: Settings, own_identity: str) -> Policy:
    """Return the policy. *own_identity*: the cluster's own identity by client id or resource id; empty if none is
    known."""
    own = frozenset({own_identity.lower()} - {""})
    return Policy(
        own.union(settings.immutable_client_ids),
        settings.adopt_existing,
        frozenset(settings.allowed_resource_groups),
        own,
        settings.assign_cluster_identity,
    )
