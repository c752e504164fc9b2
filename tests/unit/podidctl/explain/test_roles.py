"""The Azure RBAC roles of the identity whose token the pod gets: what is read, what is printed, and what is not."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from rich.console import Console

from podidctl.checks.explanation import explain
from podidctl.commands.explain import show
from podidctl.facts.model import Facts
from podidctl.reading.reader import pod_parts, read
from podidctl.reading.roles import ASSIGNMENTS_MAX, PAGES_MAX, ROLES_MAX, read_roles
from podidctl.report.documents import Explanation, Link, LinkState, RoleAssignment
from podidentity.azure.errors import AzureError, Refused
from podidentity.kube.client import Client
from tests.support.nmi_objects import CLIENT_ID, OTHER_ID, pod, resource_id
from tests.support.podidctl.memory_cluster import MemoryCluster
from tests.support.podidctl.prediction_inputs import facts, federated, rules, states, trusted

PRINCIPAL = "0b1ec700-0000-0000-0000-000000000001"
READER, OWNER = (f"1017e000-0000-0000-0000-00000000000{number}" for number in (1, 2))
ROLES = "/subscriptions/s/providers/Microsoft.Authorization"
GROUP = "/subscriptions/s/resourceGroups/g"
LISTING = f"az role assignment list --assignee {PRINCIPAL} --all --include-groups -o table"
BY_RESOURCE = f'"$(az identity show --ids {resource_id("id")} --query principalId -o tsv)"'


def assignment(role: str = READER, scope: str = GROUP) -> dict[str, Any]:
    return {"properties": {"roleDefinitionId": f"{ROLES}/roleDefinitions/{role}", "scope": scope, "condition": None}}


@dataclass
class ScriptedArm:
    """Azure Resource Manager with one identity and the *pages* of its assignments."""

    pages: list[Any] = field(default_factory=lambda: [{"value": []}])
    identity: Any = field(default_factory=lambda: {"properties": {"principalId": PRINCIPAL, "clientId": CLIENT_ID}})
    names: Mapping[str, str] = field(default_factory=lambda: {READER: "Reader", OWNER: "Owner"})
    reads: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    async def read(self, path: str, query: Mapping[str, str]) -> bytes:
        self.reads.append((path, query))
        if path == resource_id("id"):
            response = self.identity
        elif path == f"{ROLES}/roleAssignments":
            response = self.pages.pop(0)
        else:
            name = self.names.get(path.removeprefix(f"{ROLES}/roleDefinitions/"))
            response = {"properties": {"roleName": name}} if name else Refused("no", status=403)
        if isinstance(response, AzureError):
            raise response
        return response if isinstance(response, bytes) else json.dumps(response).encode()


async def explained(arm: ScriptedArm, made: Facts | None = None) -> Explanation:
    return explain(await read_roles(arm, cast("Client", None), made or facts()))


def of_roles(explanation: Explanation) -> list[Link]:
    return [link for link in explanation.links if link.link == "roles"]


def printed(explanation: Explanation) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show(explanation, console)
    return cast("io.StringIO", console.file).getvalue()


async def test_the_assignments_are_listed_with_the_names_of_their_roles() -> None:
    deep = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/{'x' * 200}"
    arm = ScriptedArm([{"value": [assignment(), assignment(OWNER, deep), assignment(scope="/")]}])
    explanation = await explained(arm)
    assert [(its.role, its.scope) for its in explanation.roles] == [("Owner", deep), ("Reader", "/"), ("Reader", GROUP)]
    assert arm.reads == [
        (resource_id("id"), {"api-version": "2023-01-31"}),
        (f"{ROLES}/roleAssignments", {"api-version": "2022-04-01", "$filter": f"assignedTo('{PRINCIPAL}')"}),
        *((f"{ROLES}/roleDefinitions/{role}", {"api-version": "2022-04-01"}) for role in (READER, OWNER)),
    ]
    listed, elsewhere = of_roles(explanation)
    assert (listed.state, elsewhere.state) == (LinkState.OK, LinkState.UNKNOWN)
    assert listed.says == "the identity has 3 role assignments in subscription s and the management groups above it"
    assert elsewhere.says == "its roles in other subscriptions were not read"
    assert explanation.summary == "granted: ns/id"
    lines = printed(explanation).splitlines()
    at = lines.index("role assignments")
    assert lines[at + 1 : at + 4] == [f"  Owner: {deep}", "  Reader: /", f"  Reader: {GROUP}"]
    assert f"unknown: roles ns/id: {LISTING} --subscription SUBSCRIPTION" in lines


async def test_an_identity_without_a_role_is_named_with_the_command_and_the_pod_keeps_its_token() -> None:
    explanation = await explained(ScriptedArm())
    (link,) = of_roles(explanation)
    assert (link.state, explanation.summary) == (LinkState.UNKNOWN, "granted: ns/id")
    assert link.says.startswith("the identity has no role assignment in subscription s and")
    assert link.says.endswith("responds 403")
    assert link.next == (
        f"az role assignment create --assignee-object-id {PRINCIPAL} --assignee-principal-type ServicePrincipal "
        "--role ROLE --scope RESOURCE-ID; if the resource is in another subscription, first "
        f"{LISTING} --subscription SUBSCRIPTION"
    )


def test_without_the_flag_nothing_is_added() -> None:
    explanation = explain(facts())
    assert (of_roles(explanation), explanation.roles) == ([], [])
    assert "role" not in printed(explanation)


@pytest.mark.parametrize("made", [facts(pod=None), facts(assigned=()), facts(pod=pod(label=None))])
async def test_nothing_is_read_for_a_pod_without_a_token(made: Facts) -> None:
    arm = ScriptedArm()
    explanation = await explained(arm, made)
    assert (arm.reads, of_roles(explanation)) == ([], [])


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (Refused("no token: run az login, or pass --cloudconfig"), "no token: run az login, or pass --cloudconfig"),
        (Refused("not you", status=403, code="AuthorizationFailed"), "403 AuthorizationFailed not you"),
        (b"\xff", "cannot be used"),
        (b"[" * 100_000, "cannot be used"),
        ([], "cannot be used"),
        ({"properties": {"principalId": "') or x eq ('", "clientId": CLIENT_ID}}, "no object id"),
        ({"properties": {"principalId": PRINCIPAL, "clientId": OTHER_ID}}, f"Azure reports client id '{OTHER_ID}'"),
    ],
)
async def test_a_failed_read_of_the_identity_is_unknown(response: Any, says: str) -> None:
    arm = ScriptedArm(identity=response)
    explanation = await explained(arm)
    (link,) = of_roles(explanation)
    assert link.state is LinkState.UNKNOWN
    assert link.says.startswith("if a service responds 403 to the pod's token, the identity lacks a role there (Azure")
    assert says in link.says
    expected = LISTING.replace(PRINCIPAL, BY_RESOURCE) + " --subscription s"
    assert link.next == expected
    assert f"unknown: roles ns/id: {expected}" in printed(explanation).splitlines()
    assert (explanation.summary, len(arm.reads)) == ("granted: ns/id", 1)


@pytest.mark.parametrize("page", [Refused("not you", status=403), b"{}", {"value": None}, {"value": [{}]}])
async def test_a_failed_read_of_the_assignments_is_unknown(page: Any) -> None:
    first = {"value": [assignment()], "nextLink": "https://management.azure.com/x?$skiptoken=1"}
    (link,) = of_roles(await explained(ScriptedArm([first, page])))
    assert (link.state, link.next) == (LinkState.UNKNOWN, f"{LISTING} --subscription s")


async def test_a_role_without_a_readable_name_has_its_id() -> None:
    unknown = "1017e000-0000-0000-0000-000000000009"
    elsewhere = {"properties": {"roleDefinitionId": "https://other.example/x", "scope": "/"}}
    arm = ScriptedArm([{"value": [assignment(unknown), elsewhere]}])
    shown = (await explained(arm)).roles
    assert {its.role for its in shown} == {f"{ROLES}/roleDefinitions/{unknown}", "https://other.example/x"}
    assert not any("other.example" in path for path, _ in arm.reads)


@pytest.mark.parametrize("start", ["https://other.example/elsewhere", "https://[", "/"])
async def test_further_pages_are_of_the_same_host_path_and_principal(start: str) -> None:
    link = f"{start}?api-version=1&%24filter=assignedTo%28%27p%27%29&$skiptoken=a%2Bb"
    arm = ScriptedArm(
        [{"value": [], "nextLink": link}, {"value": [], "nextLink": f"{start}?$skiptoken=c"}, {"value": [assignment()]}]
    )
    assert len((await explained(arm)).roles) == 1
    first = {"api-version": "2022-04-01", "$filter": f"assignedTo('{PRINCIPAL}')"}
    path = f"{ROLES}/roleAssignments"
    assert arm.reads[2:4] == [(path, {**first, "$skiptoken": token}) for token in ("a+b", "c")]


async def test_pages_assignments_and_names_are_bounded() -> None:
    def several(count: int) -> list[Any]:
        return [assignment(f"1017e000-0000-0000-0000-{number:012}", f"/{number}") for number in range(count)]

    arm = ScriptedArm([{"value": several(10 * ASSIGNMENTS_MAX), "nextLink": "/next?a=b"}])
    explanation = await explained(arm)
    assert (len(explanation.roles), len(arm.reads)) == (ASSIGNMENTS_MAX, 2 + ROLES_MAX)
    assert f"{ASSIGNMENTS_MAX} role assignments or more" in of_roles(explanation)[0].says
    endless = ScriptedArm([{"value": [], "nextLink": "/next?a=b"}] * (PAGES_MAX + 1))
    (link,) = of_roles(await explained(endless))
    assert (link.state, len(endless.reads)) == (LinkState.UNKNOWN, 1 + PAGES_MAX)


async def test_texts_of_azure_control_no_terminal() -> None:
    hostile = "\x1b[31m\nevil\u202e"
    arm = ScriptedArm([{"value": [assignment(scope=f"/{hostile}")]}], names={READER: f"{hostile}{'x' * 100_000}"})
    explanation = await explained(arm)
    assert all(its.role.isprintable() and its.scope.isprintable() for its in explanation.roles)
    assert len(printed(explanation)) < 10_000


@pytest.mark.parametrize(
    ("made", "assignee"),
    [
        (trusted(), CLIENT_ID),
        (trusted(identity=federated(resource_id=resource_id("id;$(id)"))), CLIENT_ID),
        (trusted(identity=federated(client_id="x; $(id)")), "CLIENT-ID"),
        (trusted(identity=federated(type=1, resource_id=resource_id("id"))), CLIENT_ID),
    ],
)
async def test_an_identity_without_a_resource_is_named_by_its_client_id(made: Facts, assignee: str) -> None:
    arm = ScriptedArm()
    (link,) = of_roles(await explained(arm, made))
    assert (link.state, link.next) == (LinkState.UNKNOWN, LISTING.replace(PRINCIPAL, assignee))
    assert arm.reads == []


async def test_a_federated_identity_with_a_resource_is_read_as_a_managed_one() -> None:
    made = trusted(identity=federated(resource_id=resource_id("id")))
    assert (await explained(ScriptedArm([{"value": [assignment()]}]), made)).roles == [
        RoleAssignment(role="Reader", scope=GROUP)
    ]


async def test_the_roles_are_a_part_of_the_reads_about_one_pod(cluster: MemoryCluster) -> None:
    cluster.pod("web", "n0")
    cluster.identity("demo", resourceID=resource_id("id"), clientID=CLIENT_ID)
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
    cluster.api.store.patch("pods", "web", {"status": status}, "default", subresource="status")
    scope = Facts(scope=("default", "web"), configuration=rules(managed=True))
    explanation = explain(await read(cluster.client, scope, pod_parts(None, ScriptedArm([{"value": [assignment()]}]))))
    assert [its.role for its in explanation.roles] == ["Reader"]
    assert states(explanation)[-2:] == [("roles", "ok"), ("roles", "unknown")]
