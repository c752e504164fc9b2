"""AzureIdentities that are the cluster's own identity: the one in the cloud config, with which kubelets and MIC act.

A pod that gets it has their permissions, and MIC's are those to attach further identities. Pure.
"""

from typing import Final

from mic.azure.identities import HostIdentities
from podidctl.access.cluster_objects import AzureState
from podidctl.access.hosts import user_assigned_id
from podidentity.azure.resource_ids import id_key
from podidentity.resources import AzureIdentity

CRITICAL: Final = (
    "is for the cluster's own identity, with the permissions of the kubelet and MIC; delete it, and give its pods "
    "another identity"
)


def names_of_cluster_identity(azure: AzureState | None) -> frozenset[str]:
    """Return its client id and its resource id, in lower case, as far as the cloud config and Azure show them."""
    if azure is None or not azure.own_identity:
        return frozenset()
    own = id_key(azure.own_identity)
    names = {own}
    for answer in azure.answers.values():
        for key, attached in answer.attached.items() if isinstance(answer, HostIdentities) else ():
            if own in {key, attached.client_id.lower()}:
                names |= {key, attached.client_id.lower()}
    return frozenset(names - {""})


def is_cluster_identity(identity: AzureIdentity, names: frozenset[str]) -> bool:
    """Return whether *identity* is the one with these *names*."""
    resource_id = user_assigned_id(identity) or ""
    return not names.isdisjoint({identity.spec.client_id.strip().lower(), id_key(resource_id)})
