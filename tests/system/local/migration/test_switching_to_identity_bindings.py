"""`podidctl migrate apply` where NMI uses identity bindings: permissions are tested, and no token is claimed."""

from typing import Any

import pytest
import yaml

from podidentity.azure.identity_permissions import permission_binding, permission_role
from tests.support.migration.federation_sandbox import Federation

CLIENT = "d3a0c11e-0000-4000-8000-000000000001"
RULE = {"verbs": ["use-managed-identity"], "apiGroups": ["cid.wi.aks.azure.com"], "resources": ["client-demo"]}


@pytest.fixture
def flags() -> tuple[str, ...]:
    return "--federated-exchange=identityBindings", "--federated-exchange-annotation"


def grant(cloud: Federation, name: str, rule: dict[str, Any], namespace: str, account: str) -> None:
    meta = {"metadata": {"name": name}}
    cloud.store.create("clusterroles.rbac.authorization.k8s.io", {**meta, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    cloud.store.create(
        "clusterrolebindings.rbac.authorization.k8s.io", {**meta, "roleRef": reference, "subjects": [subject]}
    )


def allow(cloud: Federation, account: str = "web") -> None:
    """Use RBAC, with the permissions of NMI and of one service account."""
    cloud.cloud.api._authorizer._rbac = True
    tokens = {"verbs": ["create"], "apiGroups": [""], "resources": ["serviceaccounts/token"]}
    grant(cloud, "nmi", tokens, "kube-system", "nmi")
    grant(cloud, "use-demo", RULE, "default", account)


async def outcome(cloud: Federation, *arguments: str) -> dict[str, Any]:
    tenant = ("--tenant", cloud.cloud.directory.tenant_id)
    answer = await cloud.migrate("apply", *tenant, *arguments, "-o", "json")
    assert answer.document["outcomes"], answer.err
    (document,) = answer.document["outcomes"]
    return dict(document)


@pytest.mark.parametrize(
    ("client_id", "do", "documents"),
    [
        (CLIENT, "kubectl apply", [permission_role(CLIENT), permission_binding(CLIENT, "default", "web")]),
        ("*", "which is a GUID", []),
    ],
    ids=["guid", "wildcard"],
)
async def test_without_the_permission_the_objects_are_printed(
    cloud: Federation, client_id: str, do: str, documents: list[Any]
) -> None:
    allow(cloud, account="other")
    cloud.store.patch(
        "azureidentities.aadpodidentity.k8s.io", "demo", {"spec": {"clientID": client_id.upper()}}, "default"
    )
    result = await outcome(cloud, "--untested")
    assert result["why"] == "not all of its service accounts may use it"
    (tried,) = result["tried"]
    assert (
        tried["problem"] == "service account default/web has no permission to use the identity (use-managed-identity)"
    )
    assert do in tried["do"]
    assert list(yaml.safe_load_all(tried["manifest"])) == documents
    assert cloud.cloud.aad.calls == []


async def test_with_the_permission_it_is_changed_only_if_the_operator_accepts_an_untested_exchange(
    cloud: Federation,
) -> None:
    async def obstacles() -> list[str]:
        plan = await cloud.migrate("plan", "--tenant", cloud.cloud.directory.tenant_id, "-o", "json")
        (step,) = plan.document["steps"]
        return [remark["why"] for remark in (*plan.document["remarks"], *step["remarks"]) if remark["blocks"]]

    cloud.cloud.api._authorizer._rbac = True
    assert await obstacles() == ["NMI may not request tokens of service account default/web"]
    allow(cloud)
    assert await obstacles() == []
    refused = await outcome(cloud, "--yes")
    assert refused["ending"] == "left as it was"
    assert "--untested" in refused["do"]
    assert "the exchange was not tested" in refused["tried"][0]["note"]
    assert (await outcome(cloud, "--untested"))["ending"] == "would be changed"
    assert cloud.identity()["spec"]["type"] == 0
    assert cloud.cloud.aad.calls == []


async def test_an_identity_that_chooses_the_direct_exchange_is_tested_by_a_token(cloud: Federation) -> None:
    cloud.trust()
    cloud.store.patch(
        "azureidentities.aadpodidentity.k8s.io",
        "demo",
        {"metadata": {"annotations": {"aadpodidentity.k8s.io/federated-exchange": "direct"}}},
        "default",
    )
    result = await outcome(cloud)
    assert (result["ending"], result["why"]) == ("would be changed", "a token of it can be obtained")
    assert len(cloud.cloud.aad.calls) == 1
