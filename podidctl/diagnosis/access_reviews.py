"""Permission checks for a daemon's service account by SubjectAccessReview, which the API server answers without storing
it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.input import IdentityPermissions
from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB
from podidentity.azure.identity_permissions import permission_resource
from podidentity.kube.client import Client

REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Decision(msgspec.Struct, frozen=True):
    """The API server's decision."""

    allowed: bool = False
    reason: str = ""
    """Untrusted; RBAC names the binding and the role."""


class _Review(msgspec.Struct):
    status: Decision = Decision()


def service_account_of(daemon: Daemon) -> str:
    """Return the service account of a daemon's pod, as `namespace/name`."""
    return f"{daemon.metadata.namespace}/{daemon.spec.service_account_name or 'default'}"


async def is_allowed(client: Client, account: str, **attributes: str) -> bool:
    """Return whether *account* has the permission that *attributes* (`spec.resourceAttributes`) describe. Raises
    ApiError.
    """
    return (await _decision(client, account, **attributes)).allowed


async def _decision(client: Client, account: str, **attributes: str) -> Decision:
    namespace, name = account.split("/")
    spec = {
        "user": f"system:serviceaccount:{namespace}:{name}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": attributes,
    }
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = await client.request("POST", REVIEWS, body=msgspec.json.encode(body))
    return msgspec.json.decode(answer, type=_Review).status


async def may_request_tokens(client: Client, account: str, namespace: str, service_account: str) -> bool:
    """Return whether NMI's *account* may request tokens of that service account. Raises ApiError."""
    return await is_allowed(
        client,
        account,
        verb="create",
        group="",
        resource="serviceaccounts",
        subresource="token",
        namespace=namespace,
        name=service_account,
    )


async def may_use_identity(client: Client, account: str, client_id: str) -> bool:
    """Return whether the service account *account* (`namespace/name`) may use the identity at the token proxy. Raises
    ApiError.
    """
    return (await identity_decision(client, account, client_id)).allowed


async def identity_decision(client: Client, account: str, client_id: str) -> Decision:
    """Return whether *account* may use the identity at the token proxy, with the reason; `*` for all identities.
    Raises ApiError.
    """
    resource = permission_resource(client_id)
    return await _decision(client, account, verb=BINDING_VERB, group=BINDING_GROUP, resource=resource)


async def read_identity_permissions(
    client: Client, account: str, resources: Sequence[str], limit: int
) -> IdentityPermissions:
    """Return the permissions of one service account, with at most *limit* requests. Raises ApiError."""
    checked = resources[:limit]
    allowed = await in_batches(partial(may_use_identity, client, account, each) for each in checked)
    return IdentityPermissions(dict(zip(checked, allowed, strict=True)))
