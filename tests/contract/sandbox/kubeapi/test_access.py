"""Access to the emulator: certificates, credentials, and authorization of service accounts by RBAC with access reviews.

Excluded: valid and impossible token requests (`tests/contract/kube/test_token_requests_against_servers.py`)."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.certificates import Authority, KeyPair
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import PODS, Caller, pod
from tests.support.sandbox.kubeapi.fixtures import serving
from tests.support.waiting import LIMIT_SECONDS

TOKEN = "/api/v1/namespaces/default/serviceaccounts/default/token"


@pytest.mark.parametrize("token", ["", "wrong", "a.b.c", "é"])
async def test_without_valid_credentials_everything_is_401(api: KubeApi, token: str) -> None:
    caller = Caller(api.url, token, api.authority.client_context())
    for path in ("/api", "/healthz", "/api/v1/pods", "/nosuch"):
        response = await caller("GET", path)
        assert (response.status, response.body["reason"], response.body["code"]) == (401, "Unauthorized", 401)
    await caller.close()


async def test_a_service_account_token_is_valid_until_it_expires() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    async with serving(now=lambda: moment) as (api, administrator):
        token = (await administrator("POST", TOKEN, {"spec": {}})).body["status"]["token"]
        caller = Caller(api.url, token, api.authority.client_context())
        assert (await caller("GET", "/healthz")).status == 200
        moment += datetime.timedelta(hours=2)
        assert (await caller("GET", "/healthz")).status == 401
        await caller.close()


@pytest.mark.parametrize(
    "spec",
    [
        {"audiences": "x"},
        {"audiences": [1]},
        {"expirationSeconds": "600"},
        {"expirationSeconds": 1e300},
        {"boundObjectRef": []},
        {"boundObjectRef": {"kind": 1}},
        [],
    ],
    ids=str,
)
async def test_a_token_request_of_the_wrong_shape_is_refused(call: Caller, spec: Any) -> None:
    assert (await call("POST", TOKEN, {"spec": spec})).status == 400


async def test_the_token_of_an_overdue_pod_is_rejected() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    async with serving(now=lambda: moment) as (api, administrator):
        api.store.create("pods", pod("p", node="n1"), "default")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": "p"}
        token = (await administrator("POST", TOKEN, {"spec": {"boundObjectRef": bound}})).body["status"]["token"]
        caller = Caller(api.url, token, api.authority.client_context())
        await administrator("DELETE", f"{PODS}/p")
        moment += datetime.timedelta(seconds=80)
        assert (await caller("GET", "/healthz")).status == 200
        moment += datetime.timedelta(seconds=20)
        assert (await caller("GET", "/healthz")).status == 401
        await caller.close()


async def test_only_the_owner_can_read_the_kubeconfig(api: KubeApi, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    await asyncio.to_thread(api.write_kubeconfig, path)
    assert path.stat().st_mode & 0o777 == 0o600


ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
RBAC = "rbac.authorization.k8s.io"
ROLES = f"/apis/{RBAC}/v1"
REVIEWS = "/apis/authorization.k8s.io/v1"
READ_PODS = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}


@pytest.fixture
async def rbac() -> AsyncIterator[tuple[KubeApi, Caller]]:
    """A server with RBAC, and its administrator."""
    async with serving(rbac=True) as made:
        yield made


@pytest.fixture
def administrator(rbac: tuple[KubeApi, Caller]) -> Caller:
    return rbac[1]


@pytest.fixture
async def account(rbac: tuple[KubeApi, Caller]) -> AsyncIterator[Caller]:
    """A caller with the token of the service account `app`."""
    server, administrator = rbac
    await administrator("POST", ACCOUNTS, {"metadata": {"name": "app"}})
    token = (await administrator("POST", f"{ACCOUNTS}/app/token", {"spec": {}})).body["status"]["token"]
    caller = Caller(server.url, token, server.authority.client_context())
    yield caller
    await caller.close()


async def bind(administrator: Caller, kind: str, *rules: dict[str, Any], subject: dict[str, str] | None = None) -> None:
    """Create a Role or ClusterRole `app` with *rules*, bound to *subject* or to the service account `app`."""
    folder = f"{ROLES}/clusterroles" if kind == "ClusterRole" else f"{ROLES}/namespaces/default/roles"
    await administrator("POST", folder, {"metadata": {"name": "app"}, "rules": list(rules)})
    reference = {"apiGroup": RBAC, "kind": kind, "name": "app"}
    subjects = [subject or {"kind": "ServiceAccount", "name": "app", "namespace": "default"}]
    document = {"metadata": {"name": "app"}, "roleRef": reference, "subjects": subjects}
    response = await administrator("POST", folder.removesuffix("s") + "bindings", document)
    assert response.status == 201


async def review(caller: Caller, **attributes: str) -> bool:
    response = await caller("POST", f"{REVIEWS}/selfsubjectaccessreviews", {"spec": {"resourceAttributes": attributes}})
    assert response.status == 201
    return bool(response.body["status"]["allowed"])


async def test_a_service_account_without_roles_is_forbidden(account: Caller) -> None:
    response = await account("GET", PODS)
    assert (response.status, response.body["reason"]) == (403, "Forbidden")
    user, where = "system:serviceaccount:default:app", 'in the namespace "default"'
    assert response.body["message"] == (
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
    ("subject", "status"),
    [
        ({"kind": "Group", "name": "system:serviceaccounts:default"}, 200),
        ({"kind": "User", "name": "system:serviceaccount:default:app"}, 200),
        ({"kind": "ServiceAccount", "name": "app", "namespace": "kube-system"}, 403),
    ],
    ids=["group", "user", "another account"],
)
async def test_a_binding_names_groups_users_and_accounts(
    administrator: Caller, account: Caller, subject: dict[str, str], status: int
) -> None:
    await bind(administrator, "ClusterRole", READ_PODS, subject=subject)
    assert (await account("GET", PODS)).status == status


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
    response = await account("POST", path, {"spec": {"namespace": "default"}})
    assert response.body["status"]["resourceRules"] == [{**READ_PODS, "resourceNames": []}]
    (rule,) = (await administrator("POST", path, {"spec": {"namespace": "default"}})).body["status"]["resourceRules"]
    assert (rule["verbs"], rule["resources"]) == (["*"], ["*"])


async def test_without_rbac_everything_is_allowed_and_the_review_says_why(api: KubeApi, call: Caller) -> None:
    spec = {"user": "dev", "resourceAttributes": {"verb": "delete", "resource": "nodes"}}
    response = await call("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert response.body["status"] == {"allowed": True, "reason": "no authorizer is active"}


async def response_of_a_server(context: ssl.SSLContext, trust: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as server, asyncio.timeout(LIMIT_SECONDS):
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_a_server_certificate_passes_strict_checks() -> None:
    authority = Authority()
    trust = authority.client_context()
    trust.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    assert await response_of_a_server(authority.server_context(), trust) == b"hello"


async def test_a_certificate_is_valid_only_for_the_hosts_that_it_names() -> None:
    authority = Authority()
    context = authority.server_context(["management.example", "127.0.0.1"])
    assert await response_of_a_server(context, authority.client_context(), "management.example") == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        await response_of_a_server(context, authority.client_context(), "other.example")


def test_a_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(Authority().server())
    assert "PRIVATE" not in str(KeyPair("certificate", "PRIVATE"))
