"""The policy of reconcile passes, from MIC's flags and its cloud config."""

from mic.decisions.policy import Policy
from mic.startup.settings import MicSettings
from podidentity.azure.resource_ids import id_key


def policy_of(settings: MicSettings, own_identity: str) -> Policy:
    """Return the policy. *own_identity*: the cluster's own identity by client id or resource id; empty if none is
    known."""
    own = frozenset({id_key(own_identity)} - {""})
    return Policy(
        own.union(settings.immutable_client_ids),
        settings.adopt_existing,
        frozenset(settings.allowed_resource_groups),
        own,
        settings.assign_cluster_identity,
    )
