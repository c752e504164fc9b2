"""AKS identity bindings on a real node: the chart's `federated.exchange`, the sandbox's token proxy, and azure-identity
in a pod, unmodified."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.token_proxy import PREFIX, SERVER_NAME, ProxyCall
from tests.realnode import client, manifests
from tests.realnode.bed import Bed
from tests.realnode.options import OUTSIDE_ADDRESS, PROXY_PORT
from tests.realnode.processes import wait_for
from tests.realnode.scenarios.applications import SECONDS, Applications, applications
from tests.realnode.scenarios.test_diagnosis import Explanation, podidctl

pytestmark = pytest.mark.long

CODE = """
import base64, json
from azure.identity import ManagedIdentityCredential
token = ManagedIdentityCredential().get_token("https://vault.azure.net/.default").token
body = token.split(".")[1]
print(json.dumps(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["appid"]))
"""
"""The program of the pod. It prints whose token it got, and no token."""


@dataclass(frozen=True)
class Bound:
    """A pod `app` whose identity has an identity binding, and the permission of its service account."""

    apps: Applications
    identity: ManagedIdentity

    def calls(self) -> list[ProxyCall]:
        return self.apps.bed.azure.call(lambda emulator: list(emulator.token_proxy.calls))

    def sign_ins(self) -> int:
        """Return the number of requests to Entra ID."""
        return self.apps.bed.azure.call(lambda emulator: len(emulator.aad.calls))

    def request(self, resource: str) -> client.Response:
        """Return the response to the pod's request for a token for *resource*. Tokens for another one are cached."""
        query = urlencode({"api-version": "2018-02-01", "resource": resource})
        return client.request(self.apps.bed, "app", f"{client.TOKEN}?{query}", namespace=self.apps.namespace)

    def permission(self) -> dict[str, Any]:
        """Return the chart's ClusterRoleBinding for the identity."""
        bindings = self.apps.bed.objects("clusterrolebindings")
        (found,) = (each for each in bindings if each["metadata"]["name"].endswith(f"-use-{self.identity.client_id}"))
        return found


@pytest.fixture(scope="module")
def bound(bed: Bed) -> Iterator[Bound]:
    with applications(bed) as apps:
        identity = apps.create_identity("bound")
        bed.azure.call(lambda emulator: emulator.token_proxy.bind(identity.client_id))
        subjects = [{"namespace": apps.namespace, "serviceAccount": "default"}]
        proxy = {
            "tokenProxy": f"https://{OUTSIDE_ADDRESS}:{PROXY_PORT}{PREFIX}",
            "serverName": SERVER_NAME,
            "caData": bed.files.certificates.read_text(),
            "permissions": [{"clientID": identity.client_id, "subjects": subjects}],
        }
        federated = {
            "enabled": True,
            "exchange": "identityBindings",
            "namespaces": [{"name": apps.namespace}],
            "identityBindings": proxy,
        }
        bed.install({"federated": federated}, command="upgrade")
        tenant = bed.azure.emulator.directory.tenant_id
        bed.apply(
            manifests.identity("bound", "", identity.client_id, namespace=apps.namespace, type=3, tenantID=tenant),
            manifests.binding("bound", namespace=apps.namespace),
        )
        apps.run("app", "bound")
        yield Bound(apps, identity)
    bed.install(command="upgrade")


def test_an_unmodified_client_gets_a_token_through_the_token_proxy_alone(bound: Bound) -> None:
    apps = bound.apps
    apps.eventually("app", "bound")
    before = bound.sign_ins()
    printed = apps.bed.kubectl("exec", "app", f"--namespace={apps.namespace}", "--", "python3", "-c", CODE)
    assert json.loads(printed) == bound.identity.client_id
    assert bound.request("https://storage.azure.com").status == 200
    call = bound.calls()[-1]
    assert (call.status, call.server_name, call.pod) == (200, SERVER_NAME, f"{apps.namespace}/app")
    assert call.path.startswith(f"{PREFIX}/")
    assert bound.sign_ins() == before, "no exchange at Entra ID"


def test_a_removed_permission_is_refused_at_the_next_exchange_and_explained(bound: Bound) -> None:
    bed, pod = bound.apps.bed, f"{bound.apps.namespace}/app"
    bound.apps.eventually("app", "bound")
    before = podidctl(bed, "explain", "pod", pod)
    assert (before.code, before.read(Explanation).broken) == (0, []), before.text
    permission = bound.permission()
    bed.kubectl("delete", "clusterrolebinding", permission["metadata"]["name"])

    refused = bound.request("https://database.windows.net")
    assert refused.status == 403, refused
    assert "use-managed-identity" in refused.body
    assert client.token(bed, "app", namespace=bound.apps.namespace).status == 200, "its cached token remains valid"

    def explained() -> bool:
        found = podidctl(bed, "explain", "pod", pod)
        broken = [str(each) for each in json.loads(found.text)["links"] if each["state"] == "broken"]
        return found.code == 3 and any("use-managed-identity" in each for each in broken)

    wait_for(explained, SECONDS, "explain does not name the missing permission")

    for field in ("uid", "resourceVersion", "creationTimestamp"):
        del permission["metadata"][field]
    bed.apply(permission)
    wait_for(
        lambda: bound.request("https://graph.microsoft.com").status == 200, SECONDS, "the permission has no effect"
    )
