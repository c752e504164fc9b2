"""Permission checks for a daemon's service account by SubjectAccessReview, which the API server answers without storing
it.
"""

from typing import Final

import msgspec

from podidctl.diagnosis.daemons import Daemon
from podidentity.kube.client import Client

REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class _Allowed(msgspec.Struct):
    allowed: bool = False


class _Review(msgspec.Struct):
    status: _Allowed = msgspec.field(default_factory=_Allowed)


def service_account_of(daemon: Daemon) -> str:
    """Return the service account of a daemon's pod, as `namespace/name`."""
    return f"{daemon.metadata.namespace}/{daemon.spec.service_account_name or 'default'}"


async def is_allowed(client: Client, account: str, **attributes: str) -> bool:
    """Return whether *account* has the permission that *attributes* (`spec.resourceAttributes`) describe. Raises
    ApiError.
    """
    namespace, name = account.split("/")
    spec = {
        "user": f"system:serviceaccount:{namespace}:{name}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": attributes,
    }
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = await client.request("POST", REVIEWS, body=msgspec.json.encode(body))
    return msgspec.json.decode(answer, type=_Review).status.allowed


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
