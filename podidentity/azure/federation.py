"""The two ways to exchange a pod's service account token for a token of a federated identity (type 3). Pure.

`direct` sends the token to Entra ID, where a federated credential of the identity trusts the service account. With AKS
identity bindings the token goes to a proxy of the cluster, which authorises the service account by Kubernetes RBAC; the
identity then needs one federated credential for all clusters and service accounts, which AKS owns.
"""

from enum import StrEnum
from typing import Final

BINDING_AUDIENCE: Final = "api://AKSIdentityBinding"
"""The audience of the tokens that the cluster's proxy accepts."""
DIRECT_AUDIENCE: Final = "api://AzureADTokenExchange"
"""The audience of the tokens that Entra ID accepts in Azure's public cloud."""
BINDING_GROUP: Final = "cid.wi.aks.azure.com"
"""The API group of the permission to use an identity. Its resources are client ids."""
BINDING_VERB: Final = "use-managed-identity"


class Exchange(StrEnum):
    """The way to exchange, in the spelling of flags, chart values and the annotation."""

    DIRECT = "direct"
    IDENTITY_BINDINGS = "identityBindings"
