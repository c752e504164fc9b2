"""Permissions of service accounts on a real API server: explain and doctor match the server's RBAC.

The ClusterRole and ClusterRoleBinding that explain, token and doctor print are applied by kubectl, and then allow what
the token proxy reviews, for that service account only.
"""

import asyncio
import operator
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podidctl.diagnosis.access_reviews import may_use_identity
from podidctl.diagnosis.identity_permissions import manifest_of
from podidentity.kube.client import Client
from podidentity.resources import BINDINGS, IDENTITIES, NODES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.direct_access import direct_access
from tests.support.kubectl_and_helm import Commands
from tests.support.mic.preview.run_programs import Answer, run
from tests.support.mic.real_server import add_node, create
from tests.support.objects import vm_id
from tests.support.testplane import up
from tests.support.testplane.accounts import create_account
from tests.support.waiting import until


def run_pod(plane: up.Plane, name: str, account: str, labels: dict[str, str], *flags: str, address: str = "") -> None:
    """Create a pod of *account* on the node n0. With *address* it runs there."""
    container = {"name": name.partition("-")[0], "image": "i", "args": list(flags)}
    spec = {
        "nodeName": "n0",
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    plane.api("POST", PODS.path("default"), {"metadata": {"name": name, "labels": labels}, "spec": spec})
    if address:
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        path = f"{PODS.path('default', name)}/status"
        plane.api("PATCH", path, status, content_type="application/merge-patch+json")


CORE = "/api/v1/namespaces/default"


CLIENT = "D3A0C11E-0000-4000-8000-000000000001"
FLAGS = (
    "--node=n0",
    "--operation-mode=managed",
    "--forceNamespaced",
    "--federated-identities",
    "--federated-exchange=identityBindings",
)
READER = [
    {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["get", "list"]}
    for kind in (PODS, NODES, IDENTITIES, BINDINGS)
] + [
    {
        "apiGroups": ["aadpodidentity.k8s.io"],
        "resources": ["azureassignedidentities", "azurepodidentityexceptions"],
        "verbs": ["get", "list"],
    },
    {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get", "list"]},
]
REVIEWER = ("--verb=create", "--resource=subjectaccessreviews.authorization.k8s.io")


def prepare(plane: up.Plane) -> None:
    """A node, an identity of type 3 with its binding, two pods of two service accounts, and NMI's pod."""
    apply_definitions(plane)
    add_node(plane, "n0", vm_id("n0"))
    create(plane, IDENTITIES, "demo", {"type": 3, "clientID": CLIENT, "tenantID": "contoso.com"})
    create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    for name in ("nmi", "shop", "bare"):
        plane.api("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": name}})
    run_pod(plane, "web", "shop", {"aadpodidbinding": "demo"}, address="10.0.0.7")
    run_pod(plane, "other", "bare", {"aadpodidbinding": "demo"}, address="10.0.0.8")
    run_pod(plane, "nmi-x", "nmi", {"component": "nmi"}, *FLAGS, address="10.0.0.9")


class Cluster:
    """The real API server, and podidctl as its administrator or as another user."""

    def __init__(self, plane: up.Plane, client: Client, folder: Path) -> None:
        self._plane = plane
        self._client = client
        self.folder = folder

    async def ask(self, *words: str, folder: Path | None = None) -> Answer:
        return await run(folder or self.folder, "podidctl", *words, "-o", "json", cloudconfig=False)

    async def kubectl(self, *words: str, stdin: str = "") -> None:
        """Run kubectl, which must succeed."""
        commands = await asyncio.to_thread(Commands, self._plane.kubeconfig)
        await asyncio.to_thread(commands.kubectl, *words, stdin=stdin)

    async def may(self, account: str, client_id: str = CLIENT) -> bool:
        return await may_use_identity(self._client, f"default/{account}", client_id)

    async def until_allowed(self, account: str) -> None:
        """The API server applies a change of its RBAC after some milliseconds."""
        await until(lambda: self.may(account))

    def as_reader(self) -> Path:
        """Return the folder of a user who may read all, and create no access reviews."""
        folder = self.folder / "reader"
        folder.mkdir()
        (folder / "kubeconfig").write_text(create_account(self._plane, "reader", READER))
        return folder


@pytest.fixture
async def cluster(new_plane: NewPlane, tmp_path: Path) -> AsyncIterator[Cluster]:
    plane = await asyncio.to_thread(new_plane)
    await asyncio.to_thread(prepare, plane)
    await asyncio.to_thread(shutil.copyfile, plane.kubeconfig, tmp_path / "kubeconfig")
    async with Client(direct_access(plane.server, plane.ca, plane.token), user_agent="test") as client:
        yield Cluster(plane, client, tmp_path)


def link_of(answer: Answer, name: str = "permission") -> dict[str, Any]:
    (link,) = [each for each in answer.document["links"] if each["link"] == name]
    return dict(link)


@pytest.mark.plane
@pytest.mark.timeout(240)
async def test_nmis_permission_to_request_tokens_and_missing_service_accounts_are_reported(cluster: Cluster) -> None:
    words = ("--verb=create", "--resource=serviceaccounts/token", "--resource-name=shop")
    await cluster.kubectl("create", "role", "nmi", *words)
    await cluster.kubectl("create", "rolebinding", "nmi", "--role=nmi", "--serviceaccount=default:nmi")

    async def says() -> list[str]:
        findings = (await cluster.ask("doctor")).document["findings"]
        return [each["says"] for each in findings if each["check"] == "federated"]

    forbidden = "NMI's service account default/nmi may not request tokens of service accounts default/bare"
    await until(says, "the authorizer follows by a watch", holds=lambda found: forbidden in found)
    web, other = [
        link_of(await cluster.ask("explain", "pod", f"default/{pod}"), "service account") for pod in ("web", "other")
    ]
    assert (web["state"], web["about"]) == ("ok", "default/shop")
    assert (other["state"], other["about"]) == ("broken", "default/bare")
    await cluster.kubectl("delete", "serviceaccount", "shop")
    gone = "service account default/shop does not exist"
    assert f"{gone}; Azure identifies these pods by it: default/web" in await says()
    assert link_of(await cluster.ask("explain", "pod", "default/web"), "service account")["says"] == gone


@pytest.mark.plane
@pytest.mark.timeout(240)
async def test_the_printed_objects_permit_exactly_one_service_account_and_identity(cluster: Cluster) -> None:
    assert not await cluster.may("shop")
    before = await cluster.ask("explain", "pod", "default/web")
    assert link_of(before)["state"] == "broken"
    manifest = before.document["manifest"]
    assert (await cluster.ask("token", "default/web")).document["manifest"] == manifest

    await cluster.kubectl("apply", "-f", "-", stdin=manifest)
    await cluster.until_allowed("shop")
    assert not await cluster.may("bare")
    assert not await cluster.may("shop", CLIENT.replace("1", "2"))
    after = await cluster.ask("explain", "pod", "default/web")
    assert (link_of(after)["state"], after.document["manifest"]) == ("ok", "")

    (rest,) = [each["manifest"] for each in (await cluster.ask("doctor")).document["findings"] if each["manifest"]]
    await cluster.kubectl("apply", "-f", "-", stdin=rest)
    await cluster.until_allowed("bare")
    assert await cluster.may("shop"), "the objects of another service account replaced a permission"
    assert not [each for each in (await cluster.ask("doctor")).document["findings"] if each["manifest"]]


@pytest.mark.plane
@pytest.mark.timeout(240)
async def test_kubectl_and_the_api_server_accept_every_valid_name(cluster: Cluster) -> None:
    owners = [f"{'n' * 63}/{'a' * 253}", f"n/{'a.' * 100}a", "y/on", "1e3/0o17", "007/null", "off/2001-01-01"]
    manifest = manifest_of({CLIENT.lower(): owners, "12345678-0000-4000-8000-000000000001": owners[:1]})
    await cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest)


def own_uses(answer: Answer) -> list[tuple[str, str, str]]:
    """Return the findings about NMI's own service account."""
    return [
        (each["level"], each["says"], each["next"])
        for each in answer.document["findings"]
        if "own service account" in each["says"]
    ]


@pytest.mark.plane
@pytest.mark.timeout(240)
async def test_doctor_names_the_binding_that_includes_nmis_own_service_account(cluster: Cluster) -> None:
    manifest = (await cluster.ask("explain", "pod", "default/web")).document["manifest"]
    await cluster.kubectl("apply", "-f", "-", stdin=manifest)
    await cluster.until_allowed("shop")
    assert own_uses(await cluster.ask("doctor")) == [], "only the pod's service account has the permission"

    role = next(each["metadata"]["name"] for each in yaml.safe_load_all(manifest) if each["kind"] == "ClusterRole")
    words = ("create", "clusterrolebinding", "whole-namespace", f"--clusterrole={role}")
    await cluster.kubectl(*words, "--group=system:serviceaccounts:default")
    await cluster.until_allowed("nmi")
    ((level, says, then),) = own_uses(await cluster.ask("doctor"))
    assert level == "problem"
    assert f"by ClusterRoleBinding whole-namespace of ClusterRole {role}" in says
    assert "as a member of group system:serviceaccounts:default, may use" in says

    reader = await asyncio.to_thread(cluster.as_reader)
    unread = own_uses(await cluster.ask("doctor", folder=reader))
    assert [each for each, _, _ in unread] == ["unknown", "unknown"], unread
    await cluster.kubectl("create", "clusterrole", "reviewer", *REVIEWER)
    bound = ("--clusterrole=reviewer", "--serviceaccount=default:reader")
    await cluster.kubectl("create", "clusterrolebinding", "reviewer", *bound)

    async def uses() -> list[tuple[str, str, str]]:
        return own_uses(await cluster.ask("doctor", folder=reader))

    unread = await until(
        uses,
        "the authorizer, which follows by a watch",
        holds=lambda found: "problem" in {each for each, _, _ in found},
    )
    (says,) = [each for level, each, _ in unread if level == "problem"]
    assert "whole-namespace" in says, "the API server's reason names the binding"

    assert "kubectl delete clusterrolebinding whole-namespace" in then
    await cluster.kubectl("delete", "clusterrolebinding", "whole-namespace")
    await until(lambda: cluster.may("nmi"), "NMI's right ends", holds=operator.not_)
    assert own_uses(await cluster.ask("doctor")) == []
