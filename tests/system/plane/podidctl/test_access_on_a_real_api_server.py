"""The review on the real API server: the documented permissions suffice and each missing one is named, and the resolved
permissions equal the server's own decisions.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from podidctl.access.gather import ACCESS
from podidctl.access.review import review
from podidctl.access.schema import Action
from podidctl.evaluation.rbac import Permissions, Request, SubjectKey, service_account
from podidctl.facts.model import Facts, ReadFailure
from podidctl.reading.reader import read as read_facts
from podidentity.kube import access
from podidentity.kube.client import JSON_PATCH, MERGE_PATCH, Client
from podidentity.kube.paths import object_path
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.checkout import ROOT
from tests.support.direct_access import direct_access
from tests.support.go_implementation_objects import assignment
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.mic.real_server import add_node, bind, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.accounts import RBAC, REVIEWS, create_account
from tests.support.testplane.up import Plane
from tests.support.waiting import until

pytestmark = pytest.mark.plane

PARTS = {
    "pods": "pods",
    "nodes": "nodes",
    "azureidentities": "azureidentities.aadpodidentity.k8s.io",
    "azureidentitybindings": "azureidentitybindings.aadpodidentity.k8s.io",
    "azureassignedidentities": "azureassignedidentities.aadpodidentity.k8s.io",
    "azurepodidentityexceptions": "azurepodidentityexceptions.aadpodidentity.k8s.io",
    "roles": "rbac",
    "rolebindings": "rbac",
    "clusterroles": "rbac",
    "clusterrolebindings": "rbac",
}
"""By resource in the documented role: the part of the review that needs it."""


def documented_role() -> dict[str, Any]:
    """Return the ClusterRole of docs/access.md."""
    text = (ROOT / "docs" / "access.md").read_text().partition("```yaml\napiVersion: rbac")[2].partition("```")[0]
    role: dict[str, Any] = yaml.safe_load(f"apiVersion: rbac{text}")
    return role


def without(role: dict[str, Any], resource: str) -> list[dict[str, Any]]:
    return [{**rule, "resources": [name for name in rule["resources"] if name != resource]} for rule in role["rules"]]


def bind_role(plane: Plane, name: str, subject: dict[str, Any], namespace: str = "", kind: str = "ClusterRole") -> None:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    plural = f"namespaces/{namespace}/rolebindings" if namespace else "clusterrolebindings"
    body = {"metadata": {"name": f"{name}-{subject['name'].replace(':', '-')}"}, "subjects": [subject]}
    plane.api("POST", f"{RBAC}/{plural}", {**body, "roleRef": reference})


@pytest.fixture
async def real(new_plane: NewPlane) -> Plane:
    """A cluster with a pod to which an identity is assigned."""

    def start() -> Plane:
        plane = new_plane()
        apply_definitions(plane)
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")
        run_pod(plane, "web", "n0")
        identity, binding = (plane.api("GET", kind.path("default", "demo")) for kind in (IDENTITIES, BINDINGS))
        plane.api("POST", ASSIGNED_IDENTITIES.path("default"), assignment("web", "n0", identity, binding))
        return plane

    return await asyncio.to_thread(start)


async def test_the_documented_role_suffices_and_each_missing_right_is_named(real: Plane, tmp_path: Path) -> None:
    async def ask(account: str, rules: list[dict[str, Any]]) -> CommandResult:
        kubeconfig = await asyncio.to_thread(create_account, real, account, rules)
        await asyncio.to_thread((tmp_path / "kubeconfig").write_text, kubeconfig)
        return await run(tmp_path, "podidctl", "access", "-o", "json", cloudconfig=False)

    role = documented_role()
    complete = await ask("reader", role["rules"])
    assert (complete.code, complete.err) == (0, ""), complete.out
    assert [(grant["pod"], grant["state"]) for grant in complete.document["grants"]] == [("default/web", "usable")]
    assert complete.document["summary"]["subjects"] is not None
    assert sorted(PARTS) == sorted(name for rule in role["rules"] for name in rule["resources"])
    for resource, part in PARTS.items():
        answer = await ask(f"no-{resource}", without(role, resource))
        assert (answer.code, answer.err) == (1, "")
        (unknown,) = answer.document["unknown"]
        assert unknown["part"] == part
        assert resource in unknown["right"]
        assert f'cannot list resource "{resource}"' in unknown["why"]


REQUESTS = [
    Request(verb, group, resource, namespace, name)
    for verb, group, resource in (
        ("create", "aadpodidentity.k8s.io", "azureidentitybindings"),
        ("patch", "aadpodidentity.k8s.io", "azureidentities"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "", "serviceaccounts/token"),
        ("get", "", "secrets"),
        ("create", "apps", "deployments"),
        ("bind", "rbac.authorization.k8s.io", "clusterroles"),
        ("impersonate", "", "users"),
        ("list", "", "nodes"),
    )
    for namespace in ("", "default", "kube-system")
    for name in ("", "one", "two")
]


def with_roles(plane: Plane) -> None:
    """Create roles of every form: aggregated, with wildcards and names, for groups and accounts."""
    part = {
        "metadata": {"name": "part", "labels": {"to": "whole"}},
        "rules": [{"apiGroups": ["aadpodidentity.k8s.io"], "resources": ["*"], "verbs": ["create", "patch"]}],
    }
    selectors = [{"matchLabels": {"to": "whole"}}]
    whole = {"metadata": {"name": "whole"}, "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": []}
    named = {
        "metadata": {"name": "named"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["secrets", "pods", "pods/exec"],
                "verbs": ["*"],
                "resourceNames": ["one"],
            },
            {"apiGroups": ["*"], "resources": ["*/token"], "verbs": ["create"]},
        ],
    }
    for cluster_role in (part, whole, named):
        plane.api("POST", f"{RBAC}/clusterroles", cluster_role)
    deploy = {
        "metadata": {"name": "deploy"},
        "rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}],
    }
    plane.api("POST", f"{RBAC}/namespaces/default/roles", deploy)
    bind_role(plane, "whole", {"kind": "User", "name": "anna"})
    bind_role(plane, "named", {"kind": "Group", "name": "system:serviceaccounts:default"})
    bind_role(plane, "deploy", {"kind": "ServiceAccount", "name": "it", "namespace": "default"}, "default", "Role")
    bind_role(plane, "edit", {"kind": "User", "name": "system:serviceaccount:kube-system:other"}, "kube-system")


def server_decisions(plane: Plane, user: str, groups: Sequence[str]) -> list[bool]:
    """Return the server's own decisions on REQUESTS."""
    decisions = []
    for request in REQUESTS:
        resource, _, subresource = request.resource.partition("/")
        attributes = {
            "verb": request.verb,
            "group": request.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": request.namespace,
            "name": request.name,
        }
        spec = {"user": user, "groups": list(groups), "resourceAttributes": attributes}
        decisions.append(bool(plane.api("POST", REVIEWS, {"spec": spec})["status"]["allowed"]))
    return decisions


async def read(plane: Plane) -> Facts:
    async with Client(direct_access(plane.server, plane.ca, plane.token), user_agent="test") as client:
        return await read_facts(client, Facts(), ACCESS)


async def test_resolved_permissions_equal_the_servers_decisions(real: Plane) -> None:
    await asyncio.to_thread(with_roles, real)
    await until(
        lambda: asyncio.to_thread(real.api, "GET", f"{RBAC}/clusterroles/whole"),
        "the controller copies the rules of the aggregated role",
        holds=lambda role: role.get("rules"),
    )
    objects = await read(real)
    assert not isinstance(objects.rbac, ReadFailure)
    permissions = Permissions(objects.rbac)
    authenticated = SubjectKey("Group", "", "system:authenticated")
    clients = {
        "anna": ([SubjectKey("User", "", "anna"), authenticated], ("system:authenticated",)),
        **{
            f"system:serviceaccount:{name.replace('/', ':')}": (
                service_account(name),
                [subject.name for subject in service_account(name)[1:]],
            )
            for name in ("default/it", "kube-system/other", "default/none")
        },
    }
    allowed = 0
    for user, (subjects, groups) in clients.items():
        mine = [permissions.allows(subjects, request) for request in REQUESTS]
        theirs = await asyncio.to_thread(server_decisions, real, user, groups)
        assert [request for request, own, its in zip(REQUESTS, mine, theirs, strict=True) if own != its] == [], user
        allowed += sum(mine)
    assert allowed > 20
    (anna,) = (subject for subject in review(objects).subjects if subject.name == "anna")
    assert {Action.BINDINGS, Action.IDENTITIES} <= {right.action for right in anna.rights}


CHANGES: list[tuple[str, Any]] = [
    ("pods", {"metadata": {"labels": {"aadpodidbinding": "another"}}}),
    ("pods/status", {"metadata": {"labels": {"aadpodidbinding": "third"}}}),
    ("pods/status", {"status": {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}}),
    ("pods", [{"op": "replace", "path": "/spec/containers/0/image", "value": "registry.invalid/other"}]),
]
"""Changes of a pod by a resource, each of which is reason for the action LABELS."""


async def test_the_permission_to_label_pods_suffices_for_what_the_review_says(real: Plane, tmp_path: Path) -> None:
    for resource in ("pods", "pods/status"):
        subresource = resource.partition("/")[2]
        name = f"labeller-{subresource or 'pods'}"
        rules = [{"apiGroups": [""], "resources": [resource], "verbs": ["patch"]}]
        file = tmp_path / name
        file.write_text(await asyncio.to_thread(create_account, real, name, rules))
        async with Client(await access.find(str(file), {}), user_agent="test") as client:
            for change in [change for changed, change in CHANGES if changed == resource]:
                form = JSON_PATCH if isinstance(change, list) else MERGE_PATCH
                path, body = object_path(PODS, "default", "web", subresource), json.dumps(change).encode()
                await client.request("PATCH", path, body=body, content_type=form)
        subjects = review(await read(real)).subjects
        actions = {subject.name: [right.action for right in subject.rights] for subject in subjects}
        assert actions[name] == [Action.LABELS]
    changed = await asyncio.to_thread(real.api, "GET", PODS.path("default", "web"))
    assert changed["metadata"]["labels"]["aadpodidbinding"] == "third"
    assert changed["status"]["podIP"] == "10.9.9.9"
    assert changed["spec"]["containers"][0]["image"] == "registry.invalid/other"
