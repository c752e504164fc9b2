"""The chart's permissions for AKS identity bindings on a real API server, which decides for the token proxy."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB
from tests.repository.deploy.test_federated_values import BINDS, OWN_ACCOUNT
from tests.support.testplane import up
from tests.support.waiting import until_sync
from tools.chart.rendering import NAMESPACE, render

pytestmark = pytest.mark.plane

RBAC = "rbac.authorization.k8s.io"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
CLIENT = str(uuid.uuid4())
SUBJECTS = [{"namespace": "shop", "serviceAccount": "web"}, {"namespace": "reports"}]


def review(plane: up.Plane, namespace: str, account: str) -> dict[str, Any]:
    """Return the server's decision on the use of CLIENT by this service account."""
    spec = {
        "user": f"system:serviceaccount:{namespace}:{account}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": {"verb": BINDING_VERB, "group": BINDING_GROUP, "resource": CLIENT},
    }
    return dict(plane.api("POST", REVIEWS, {"spec": spec})["status"])


@pytest.fixture(scope="module")
def installed(plane: up.Plane) -> Iterator[up.Plane]:
    """An API server with all ClusterRoles and ClusterRoleBindings of the chart, in which SUBJECTS may use CLIENT."""
    permissions = [{"clientID": CLIENT.upper(), "subjects": SUBJECTS}]
    paths = []
    for each in render(given={"federated": {**BINDS, "identityBindings": {"permissions": permissions}}}):
        if each["kind"] in {"ClusterRole", "ClusterRoleBinding"} and each["apiVersion"].startswith(RBAC):
            path = f"/apis/{RBAC}/v1/{each['kind'].lower()}s"
            plane.api("POST", path, each)
            paths.append(f"{path}/{each['metadata']['name']}")
    until_sync(
        lambda: all(
            review(plane, each["namespace"], each.get("serviceAccount", "any"))["allowed"] for each in SUBJECTS
        ),
        "the authorizer, which follows by a watch, permits the use",
    )
    yield plane
    for path in paths:
        plane.api("DELETE", path)


@pytest.mark.parametrize(
    ("namespace", "account", "allowed"),
    [
        ("shop", "web", True),
        ("shop", "other", False),
        ("reports", "any", True),
        (NAMESPACE, OWN_ACCOUNT, False),
        (NAMESPACE, "aad-pod-identity-mic", False),
    ],
)
def test_only_the_listed_subjects_may_use_the_identity(
    installed: up.Plane, namespace: str, account: str, *, allowed: bool
) -> None:
    decision = review(installed, namespace, account)
    assert decision.get("allowed", False) is allowed, decision
