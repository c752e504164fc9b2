"""Link that only an identity with identity bindings has: the service account's permission to use it. Pure."""

from collections.abc import Iterator
from typing import Final

from podidctl.diagnosis.identity_permissions import APPLY, REVIEW_ACCESS, Permission, permissions_of
from podidctl.diagnosis.input import DiagnosisInput
from podidctl.diagnosis.service_accounts import account_name, federated_identities
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.azure.federation import BINDING_VERB
from podidentity.azure.identity_permissions import is_grantable
from podidentity.resources import Pod
from podidentity.telemetry.logs import redacted

LINK_NAME: Final = "permission"


def permission_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the link of each identity that the pod gets from the token proxy, by client id."""
    if not pod.spec.service_account_name:
        return  # another link reports it
    for each in permissions_of(data, federated_identities(data, pod)):
        yield _link(account_name(pod), each)


def _link(account: str, permission: Permission) -> Link:
    client = redacted(permission.resource)
    about = f"{account}, client id {client}"
    if permission.allowed:
        says = f"RBAC lets the service account use the identity ({BINDING_VERB})"
        return make_link(LINK_NAME, about, LinkState.OK, says)
    if permission.unread is not None:
        says = f"it could not be checked whether the service account may use the identity: {permission.unread.why}"
        then = f"{permission.unread.next_action(REVIEW_ACCESS)}; if the permission is missing, {APPLY}"
        return make_link(LINK_NAME, about, LinkState.UNKNOWN, says, then)
    says = (
        f"RBAC does not let the service account use the identity ({BINDING_VERB}), so the cluster's token proxy "
        f"refuses its next exchange"
    )
    if is_grantable(permission.resource):
        return make_link(LINK_NAME, about, LinkState.BROKEN, says, APPLY)
    names = ", ".join("/".join(each.key) for each in permission.identities)
    then = f"set clientID of AzureIdentity {names} to the client id of the identity, which is a GUID"
    return make_link(LINK_NAME, about, LinkState.BROKEN, says, then)
