"""Secrets of the real kube-apiserver: what NMI needs to be allowed, and how a rotation shows."""

import asyncio
import base64
import ssl
import uuid
from typing import Any

import pytest

from nmi.tokens.endpoints import Application
from nmi.tokens.secrets import CredentialError, Secrets
from podidentity.azure.clouds import Endpoint
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from tests.support.testplane import up
from tests.support.waiting import until

pytestmark = pytest.mark.plane


async def test_the_verb_get_suffices_and_each_change_has_another_version(plane: up.Plane) -> None:
    namespace = f"secrets-{uuid.uuid4().hex[:8]}"
    failed = 0

    async def api(method: str, path: str, body: Any) -> Any:
        return await asyncio.to_thread(plane.api, method, path, body)

    def count() -> None:
        nonlocal failed
        failed += 1

    await api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    await api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "nmi"}})
    asked = {"spec": {"expirationSeconds": 600}}
    given = await api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/nmi/token", asked)

    async def authorization() -> str:
        return f"Bearer {given['status']['token']}"

    application = Application(f"{namespace}/id", namespace, 1, "c", ("t",), Endpoint("x"), namespace, "sp")
    context = await asyncio.to_thread(ssl.create_default_context, cadata=plane.ca)
    async with Client(ClusterAccess(plane.server, context, authorization), user_agent="test") as client:
        secrets = Secrets(client, count_failure=count)
        with pytest.raises(CredentialError, match="verb get") as refused:
            await secrets.client_secret(application)
        assert refused.value.code == "secret_forbidden"

        rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
        group = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        await api("POST", f"{group}/roles", {"metadata": {"name": "nmi"}, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "nmi"}
        subject = {"kind": "ServiceAccount", "name": "nmi", "namespace": namespace}
        await api(
            "POST", f"{group}/rolebindings", {"metadata": {"name": "nmi"}, "roleRef": role, "subjects": [subject]}
        )

        async def code() -> str:
            with pytest.raises(CredentialError) as refused:
                await secrets.client_secret(application)
            return refused.value.code

        await until(code, "the server's authorizer knows the role", holds="secret_missing".__eq__)

        path = f"/api/v1/namespaces/{namespace}/secrets"
        stored = await api("POST", path, {"metadata": {"name": "sp"}, "stringData": {"clientSecret": "first"}})
        first = await secrets.client_secret(application)
        assert first.version == f"{stored['metadata']['uid']}/{stored['metadata']['resourceVersion']}"
        data = {"clientSecret": base64.b64encode(b"second").decode()}
        await api("PUT", f"{path}/sp", {"metadata": {"name": "sp"}, "data": data})
        second = await secrets.client_secret(application)
        assert (first.value, second.value) == ("first", "second")
        assert first.version.split("/")[0] == second.version.split("/")[0]
        assert first.version != second.version
        pfx = bytes(range(256))
        data = {"certificate": base64.b64encode(pfx).decode(), "password": base64.b64encode(b"\xff").decode()}
        await api("PUT", f"{path}/sp", {"metadata": {"name": "sp"}, "data": data})
        store = await secrets.key_store(application)
        assert (store.pfx, store.password) == (pfx, b"\xff")
    assert failed >= 2
