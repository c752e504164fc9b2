"""Permissions that `podidctl verify` needs, and the check before the first canary."""

from typing import Final, NamedTuple

import msgspec

from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError

REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Permission(NamedTuple):
    """A permission in the canary's namespace."""

    verb: str
    resource: str


NEEDED: Final = (
    Permission("create", "pods"),
    Permission("get", "pods"),
    Permission("delete", "pods"),
)


class _Status(msgspec.Struct):
    allowed: bool = False


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


async def check_permissions(client: Client, namespace: str) -> None:
    """Raise StartError if the caller has not all NEEDED permissions. A server that does not answer this is accepted."""
    missing = [each for each in NEEDED if not await _is_allowed(client, namespace, each)]
    if missing:
        listed = ", ".join(f"{each.verb} {each.resource}" for each in missing)
        raise StartError(
            f"not allowed to run canary pods in namespace {namespace}: grant {listed}; "
            "podidctl verify --help lists all permissions"
        )


async def _is_allowed(client: Client, namespace: str, permission: Permission) -> bool:
    attributes = {"namespace": namespace, "verb": permission.verb, "resource": permission.resource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    try:
        answer = await client.request("POST", REVIEWS, body=msgspec.json.encode(body))
        return msgspec.json.decode(answer, type=_Review).status.allowed
    except (ApiError, msgspec.DecodeError):
        return True
