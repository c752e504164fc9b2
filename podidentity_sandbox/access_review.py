"""The decision of an API server whether a user may do something, for servers of the sandbox that delegate to it."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from podidentity.kube.client import Client
from podidentity_sandbox.kubeapi.authorization import User

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


async def is_allowed(client: Client, user: User, attributes: Mapping[str, str]) -> bool:
    """Return whether *user* may do what *attributes* (`resourceAttributes` of a SubjectAccessReview) describe.

    Raise ApiError if the API server does not decide.
    """
    body: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user.name, "groups": list(user.groups), "resourceAttributes": attributes},
    }
    response = await client.request("POST", _REVIEWS, body=msgspec.json.encode(body))
    return bool(json.loads(response)["status"].get("allowed"))
