"""The next action for an error response, from the service and the status. Pure."""

from enum import Enum, auto


class Asked(Enum):
    """The service that returned the response."""

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
    429: "Azure limits the requests of this node; this program tries again",
    503: "the node's metadata service does not answer NMI; this program tries again",
}
_RESOURCE_MANAGER = {
    0: "see that the pod may reach Azure Resource Manager: network policies, the firewall, HTTPS_PROXY",
    401: "the token is not for Azure Resource Manager: leave --aad-resourcename out",
    403: "give the identity the role Reader on the resource group (az role assignment create --role Reader --assignee "
    "CLIENT_ID --scope /subscriptions/SUBSCRIPTION/resourceGroups/GROUP); it counts after some minutes",
    404: "see that --subscriptionid and --resourcegroup are right",
    429: "Azure limits the requests of this identity; this program tries again",
}


def advice(asked: Asked, status: int) -> str:
    """Return the next action, one sentence without a full stop. *status* 0 means that there was no response."""
    if asked is Asked.RESOURCE_MANAGER:
        known, other = _RESOURCE_MANAGER, "check whether Azure has an outage; this program tries again"
    else:
        known, other = _TOKEN, "see what NMI on this pod's node logs about it"
    if asked is Asked.METADATA and status:
        return other
    return known.get(status, other)
