"""Permissions of service accounts on a real API server: explain and doctor match the server's RBAC.

The ClusterRole and ClusterRoleBinding that explain, token and doctor print are applied by kubectl, and then allow what
the token proxy reviews, for that service account only.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from podidctl.evaluation.federated import manifest_of
from podidctl.reading.reviews import may_use_identity
from podidctl.top.sampling import Sample
from podidentity.kube.client import Client
from podidentity.resources import BINDINGS, GROUP, IDENTITIES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.direct_access import direct_access
from tests.support.kubectl_and_helm import Commands
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.mic.real_server import add_node, create
from tests.support.objects import vm_id
from tests.support.testplane import up
from tests.support.testplane.accounts import create_account, place_pod
from tests.support.waiting import until

pytestmark = pytest.mark.plane
CORE = "/api/v1/namespaces/default"
CLIENT = "D3A0C11E-0000-4000-8000-000000000001"
FLAGS = (
    "--node=n0",
    "--operation-mode=managed",
    "--forceNamespaced",
    "--federated-identities",
    "--federated-exchange=identityBindings",
)
REVIEWER = [
    {"apiGroups": ["", GROUP], "resources": ["*"], "verbs": ["get", "list"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
"""The rights of a user who may read no roles."""


def prepare(plane: up.Plane) -> None:
    """A node, an identity of type 3 with its binding, two pods of two service accounts, and NMI's pod."""
    apply_definitions(plane)
    add_node(plane, "n0", vm_id("n0"))
    create(plane, IDENTITIES, "demo", {"type": 3, "clientID": CLIENT, "tenantID": "contoso.com"})
    create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    for name in ("nmi", "shop", "bare"):
        plane.api("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": name}})
    bound = {"aadpodidbinding": "demo"}
    place_pod(plane, "web", "n0", bound, address="10.0.0.7", serviceAccountName="shop")
    place_pod(plane, "other", "n0", bound, address="10.0.0.8", serviceAccountName="bare")
    place_pod(plane, "nmi-x", "n0", {"component": "nmi"}, *FLAGS, address="10.0.0.9", serviceAccountName="nmi")


class Cluster:
    """The real API server, and podidctl as its administrator or as another user."""

    def __init__(self, plane: up.Plane, client: Client, folder: Path) -> None:
        self._plane = plane
        self._client = client
        self.folder = folder

    async def ask(self, *words: str, folder: Path | None = None) -> CommandResult:
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

    def as_reviewer(self) -> Path:
        """Return the folder of a user with the rights REVIEWER."""
        folder = self.folder / "reviewer"
        folder.mkdir()
        (folder / "kubeconfig").write_text(create_account(self._plane, "reviewer", REVIEWER))
        return folder


@pytest.fixture
async def cluster(new_plane: NewPlane, tmp_path: Path) -> AsyncIterator[Cluster]:
    plane = await asyncio.to_thread(new_plane)
    await asyncio.to_thread(prepare, plane)
    await asyncio.to_thread(shutil.copyfile, plane.kubeconfig, tmp_path / "kubeconfig")
    async with Client(direct_access(plane.server, plane.ca, plane.token), user_agent="test") as client:
        yield Cluster(plane, client, tmp_path)


def link_of(answer: CommandResult, name: str = "permission") -> dict[str, Any]:
    (link,) = [link for link in answer.document["links"] if link["link"] == name]
    return dict(link)


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

    (rest,) = [
        finding["manifest"] for finding in (await cluster.ask("doctor")).document["findings"] if finding["manifest"]
    ]
    await cluster.kubectl("apply", "-f", "-", stdin=rest)
    await cluster.until_allowed("bare")
    assert await cluster.may("shop"), "the objects of another service account replaced a permission"
    assert not [finding for finding in (await cluster.ask("doctor")).document["findings"] if finding["manifest"]]


async def test_kubectl_and_the_api_server_accept_every_valid_name(cluster: Cluster) -> None:
    owners = [f"{'n' * 63}/{'a' * 253}", f"n/{'a.' * 100}a", "y/on", "1e3/0o17", "007/null", "off/2001-01-01"]
    manifest = manifest_of({CLIENT.lower(): owners, "12345678-0000-4000-8000-000000000001": owners[:1]})
    await cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest)


def own_uses(answer: CommandResult) -> list[tuple[str, str, str]]:
    """Return the findings about NMI's own service account."""
    return [
        (finding["level"], finding["says"], finding["next"])
        for finding in answer.document["findings"]
        if "own service account" in finding["says"]
    ]


async def test_doctor_names_the_binding_that_includes_nmis_own_service_account(cluster: Cluster) -> None:
    manifest = (await cluster.ask("explain", "pod", "default/web")).document["manifest"]
    await cluster.kubectl("apply", "-f", "-", stdin=manifest)
    role = next(
        document["metadata"]["name"] for document in yaml.safe_load_all(manifest) if document["kind"] == "ClusterRole"
    )
    words = ("create", "clusterrolebinding", "whole-namespace", f"--clusterrole={role}")
    await cluster.kubectl(*words, "--group=system:serviceaccounts:default")
    await cluster.until_allowed("nmi")
    ((level, reported, then),) = own_uses(await cluster.ask("doctor"))
    assert level == "problem"
    assert f"by ClusterRoleBinding whole-namespace of ClusterRole {role}" in reported
    assert "as a member of group system:serviceaccounts:default, may use" in reported
    assert "kubectl delete clusterrolebinding whole-namespace" in then

    uses = own_uses(await cluster.ask("doctor", folder=await asyncio.to_thread(cluster.as_reviewer)))
    (reported,) = [text for level, text, _ in uses if level == "problem"]
    assert "whole-namespace" in reported, "the API server's reason names the binding"


LIST = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
PROXY = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}


async def test_for_top_a_missing_permission_and_a_refused_address_are_the_reason(
    plane: up.Plane, tmp_path: Path
) -> None:
    async def top(account: str, *rules: dict[str, Any]) -> str:
        """Return the problem of the only NMI."""
        kubeconfig = await asyncio.to_thread(create_account, plane, account, rules)
        await asyncio.to_thread((tmp_path / "kubeconfig").write_text, kubeconfig)
        answer = await run(tmp_path, "podidctl", "top", "-o", "json", "--interval=1", cloudconfig=False)
        (node,) = msgspec.json.decode(answer.out, type=Sample).nodes
        assert (answer.code, node.node) == (1, "top-node")
        return node.problem

    labels = {"app.kubernetes.io/component": "nmi"}
    await asyncio.to_thread(
        lambda: place_pod(plane, "nmi-top", "top-node", labels, address="127.0.0.1", hostNetwork=True)
    )
    try:
        problem = await top("top-lister", LIST)
        assert problem.startswith("not allowed: grant get on pods/proxy in namespace default (")
        problem = await top("top-reader", LIST, PROXY)
        assert problem.startswith("the API server cannot read the metrics: ")
        assert "address not allowed" in problem
    finally:
        await asyncio.to_thread(plane.api, "DELETE", PODS.path("default", "nmi-top"), {"gracePeriodSeconds": 0})
