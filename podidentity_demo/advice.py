"""What to do about an answer that is not the wanted one. Pure: from where and which status to a sentence."""

from enum import Enum, auto


class Asked(Enum):
    """Who was asked."""

    TOKEN = auto()
    METADATA = auto()
    RESOURCE_MANAGER = auto()


_TOKEN = {
    0: "see that NMI runs on this pod's node (kubectl get pods -A -o wide) and that no proxy is set for this address",
    400: "see that the pod's label aadpodidbinding is the selector of an AzureIdentityBinding of this namespace, whose "
    "AzureIdentity exists, and that --clientid is its clientID",
    403: "see that --clientid is the clientID of an AzureIdentity that is bound to this pod, and what NMI logs of it",
    404: "the identity is still being assigned to the node, or never was: kubectl get azureassignedidentity -A, and "
    "MIC's log if it is not there or not Assigned",
    429: "Azure has too many requests from this node; this program goes on later",
    503: "the node's metadata service does not answer NMI; this program goes on later",
}
_RESOURCE_MANAGER = {
    0: "see that the pod may reach Azure Resource Manager: network policies, the firewall, HTTPS_PROXY",
    401: "the token is not for Azure Resource Manager: leave --aad-resourcename out",
    403: "give the identity the role Reader on the resource group (az role assignment create --role Reader --assignee "
    "CLIENT_ID --scope /subscriptions/SUBSCRIPTION/resourceGroups/GROUP); it counts after some minutes",
    404: "see that --subscriptionid and --resourcegroup are right",
    429: "Azure has too many requests of this identity; this program goes on later",
}


def advice(asked: Asked, status: int) -> str:
    """One sentence without a full stop; *status* 0: no answer came."""
    if asked is Asked.RESOURCE_MANAGER:
        known, other = _RESOURCE_MANAGER, "see whether Azure has an outage; this program goes on later"
    else:
        known, other = _TOKEN, "see what NMI on this pod's node logs about it"
    if asked is Asked.METADATA and status:
        return other
    return known.get(status, other)
