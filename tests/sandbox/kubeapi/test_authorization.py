"""Authorization of service accounts by RBAC, and access reviews, on a server with *rbac*."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.kubeapi.client import Caller

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
PODS = "/api/v1/namespaces/default/pods"
RBAC = "rbac.authorization.k8s.io"
ROLES = f"/apis/{RBAC}/v1"
REVIEWS = "/apis/authorization.k8s.io/v1"
READ_PODS = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}


@pytest.fixture
async def rbac() -> AsyncIterator[KubeApi]:
    server = KubeApi(rbac=True)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def administrator(rbac: KubeApi) -> AsyncIterator[Caller]:
    caller = Caller(rbac.server, rbac.token, rbac.authority.client_context())
    yield caller
    await caller.close()


@pytest.fixture
async def account(rbac: KubeApi, administrator: Caller) -> AsyncIterator[Caller]:
    """A caller with the token of the service account `app`."""
    await administrator("POST", ACCOUNTS, {"metadata": {"name": "app"}})
    token = (await administrator("POST", f"{ACCOUNTS}/app/token", {"spec": {}})).body["status"]["token"]
    caller = Caller(rbac.server, token, rbac.authority.client_context())
    yield caller
    await caller.close()


async def bind(administrator: Caller, kind: str, *rules: dict[str, Any], subject: dict[str, str] | None = None) -> None:
    """Create a Role or ClusterRole `app` with *rules*, bound to *subject* or to the service account `app`."""
    folder = f"{ROLES}/clusterroles" if kind == "ClusterRole" else f"{ROLES}/namespaces/default/roles"
    await administrator("POST", folder, {"metadata": {"name": "app"}, "rules": list(rules)})
    reference = {"apiGroup": RBAC, "kind": kind, "name": "app"}
    subjects = [subject or {"kind": "ServiceAccount", "name": "app", "namespace": "default"}]
    document = {"metadata": {"name": "app"}, "roleRef": reference, "subjects": subjects}
    answer = await administrator("POST", folder.removesuffix("s") + "bindings", document)
    assert answer.status == 201


async def review(caller: Caller, **attributes: str) -> bool:
    answer = await caller("POST", f"{REVIEWS}/selfsubjectaccessreviews", {"spec": {"resourceAttributes": attributes}})
    assert answer.status == 201
    return bool(answer.body["status"]["allowed"])


async def test_a_service_account_without_roles_is_forbidden(account: Caller) -> None:
    answer = await account("GET", PODS)
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")
    user, where = "system:serviceaccount:default:app", 'in the namespace "default"'
    assert answer.body["message"] == (
        f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" {where}'
    )
    assert (await account("GET", "/version")).status == 200


async def test_a_role_allows_its_verbs_in_its_namespace_only(administrator: Caller, account: Caller) -> None:
    await bind(administrator, "Role", READ_PODS)
    assert (await account("GET", PODS)).status == 200
    assert (await account("GET", f"{PODS}?watch=1")).status == 403
    assert (await account("DELETE", PODS)).status == 403
    assert (await account("GET", "/api/v1/pods")).status == 403
    assert (await account("GET", "/api/v1/namespaces/kube-system/pods")).status == 403
    assert (await account("GET", f"{PODS}/none/log")).status == 404


async def test_a_cluster_role_applies_in_all_namespaces_and_to_the_cluster(
    administrator: Caller, account: Caller
) -> None:
    await bind(administrator, "ClusterRole", READ_PODS, {"apiGroups": ["*"], "resources": ["*"], "verbs": ["watch"]})
    for path in ("/api/v1/pods", "/api/v1/namespaces/kube-system/pods"):
        assert (await account("GET", path)).status == 200
    assert (await account("GET", "/api/v1/nodes")).status == 403
    assert await review(account, verb="watch", resource="nodes")


async def test_a_rule_with_names_allows_only_these(administrator: Caller, account: Caller) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"], "resourceNames": ["mine"]}
    await bind(administrator, "Role", rule)
    folder = "/api/v1/namespaces/default/configmaps"
    assert (await account("GET", f"{folder}/mine")).status == 404
    assert (await account("GET", f"{folder}/other")).status == 403
    assert (await account("GET", folder)).status == 403


@pytest.mark.parametrize(
    "subject",
    [
        {"kind": "Group", "name": "system:serviceaccounts:default"},
        {"kind": "User", "name": "system:serviceaccount:default:app"},
    ],
    ids=["group", "user"],
)
async def test_a_binding_names_groups_and_users(
    administrator: Caller, account: Caller, subject: dict[str, str]
) -> None:
    await bind(administrator, "ClusterRole", READ_PODS, subject=subject)
    assert (await account("GET", PODS)).status == 200


async def test_another_service_account_is_not_the_subject(administrator: Caller, account: Caller) -> None:
    await bind(
        administrator, "Role", READ_PODS, subject={"kind": "ServiceAccount", "name": "app", "namespace": "kube-system"}
    )
    assert (await account("GET", PODS)).status == 403


async def test_a_review_about_another_user_equals_that_users_requests(administrator: Caller, account: Caller) -> None:
    await bind(administrator, "Role", READ_PODS)
    attributes = {"verb": "list", "resource": "pods", "namespace": "default"}
    spec = {"user": "system:serviceaccount:default:app", "resourceAttributes": attributes}
    path = f"{REVIEWS}/subjectaccessreviews"
    assert (await administrator("POST", path, {"spec": spec})).body["status"]["allowed"] is True
    attributes["namespace"] = ""
    assert (await administrator("POST", path, {"spec": spec})).body["status"]["allowed"] is False
    assert (await account("POST", path, {"spec": spec})).status == 403
    assert await review(account, verb="get", resource="pods", subresource="log", namespace="default")
    assert not await review(account, verb="get", resource="pods", subresource="exec", namespace="default")


async def test_a_rules_review_lists_the_rules(administrator: Caller, account: Caller) -> None:
    await bind(administrator, "Role", READ_PODS)
    path = f"{REVIEWS}/selfsubjectrulesreviews"
    answer = await account("POST", path, {"spec": {"namespace": "default"}})
    assert answer.body["status"]["resourceRules"] == [{**READ_PODS, "resourceNames": []}]
    (rule,) = (await administrator("POST", path, {"spec": {"namespace": "default"}})).body["status"]["resourceRules"]
    assert (rule["verbs"], rule["resources"]) == (["*"], ["*"])


async def test_without_rbac_everything_is_allowed_and_the_review_says_why(api: KubeApi, call: Caller) -> None:
    spec = {"user": "dev", "resourceAttributes": {"verb": "delete", "resource": "nodes"}}
    answer = await call("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert answer.body["status"] == {"allowed": True, "reason": "no authorizer is active"}
