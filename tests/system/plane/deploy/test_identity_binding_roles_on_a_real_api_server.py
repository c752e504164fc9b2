"""The chart's permissions for AKS identity bindings on a real API server, which decides for the token proxy."""

import json
import uuid
from collections.abc import Iterator

import pytest

from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB
from tests.support.testplane import up
from tests.support.testplane.accounts import REVIEWS
from tests.support.waiting import until_sync
from tests.system.plane.deploy.helm_cluster import Cluster
from tools.chart.rendering import NAMESPACE, render

BINDS = {"enabled": True, "exchange": "identityBindings", "namespaces": [{"name": "shop"}]}
OWN_ACCOUNT = "aad-pod-identity-nmi"
CLIENT = str(uuid.uuid4())
SUBJECTS = [{"namespace": "shop", "serviceAccount": "web"}, {"namespace": "reports"}]


def is_allowed(plane: up.Plane, namespace: str, account: str) -> bool:
    """Return the server's decision on the use of CLIENT by this service account."""
    spec = {
        "user": f"system:serviceaccount:{namespace}:{account}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": {"verb": BINDING_VERB, "group": BINDING_GROUP, "resource": CLIENT},
    }
    return bool(plane.api("POST", REVIEWS, {"spec": spec})["status"].get("allowed"))


@pytest.fixture(scope="module")
def installed(plane: up.Plane) -> Iterator[up.Plane]:
    """An API server with all ClusterRoles and ClusterRoleBindings of the chart, in which SUBJECTS may use CLIENT."""
    permissions = [{"clientID": CLIENT.upper(), "subjects": SUBJECTS}]
    objects = render(given={"federated": {**BINDS, "identityBindings": {"permissions": permissions}}})
    roles = [manifest for manifest in objects if manifest["kind"] in {"ClusterRole", "ClusterRoleBinding"}]
    cluster, text = Cluster(plane), json.dumps({"apiVersion": "v1", "kind": "List", "items": roles})
    cluster.kubectl("create", "-f", "-", stdin=text)
    for namespace, account in (("shop", "web"), ("reports", "any")):
        until_sync(lambda where=namespace, name=account: is_allowed(plane, where, name))  # type: ignore[misc]
    yield plane
    cluster.kubectl("delete", "-f", "-", stdin=text)


@pytest.mark.plane
@pytest.mark.parametrize(
    ("namespace", "account"), [("shop", "other"), (NAMESPACE, OWN_ACCOUNT), (NAMESPACE, "aad-pod-identity-mic")]
)
def test_only_the_listed_subjects_may_use_the_identity(installed: up.Plane, namespace: str, account: str) -> None:
    assert not is_allowed(installed, namespace, account)
