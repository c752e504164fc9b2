"""`podidctl preflight --roles` on an API server in memory and a scripted Azure: roles that suffice, and each lack."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from podidctl.preflight.checks import preflight
from podidctl.preflight.reader import read_state
from podidctl.preflight.roles import ASSIGN, GROUPS_MAX, OPERATIONS, check_mic_roles
from podidctl.reading.roles import ASSIGNMENTS_MAX
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from podidentity.azure.errors import AzureError, Refused
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.checkout import ROOT
from tests.support.podidctl.memory_cluster import MemoryCluster

PRINCIPAL: Final = "0b1ec700-0000-0000-0000-000000000001"
MACHINES, OPERATOR, OTHER = (f"1017e000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))
NODES: Final = "/subscriptions/s/resourceGroups/MC_nodes"
IDENTITIES: Final = "/subscriptions/t/resourceGroups/identities"
SET: Final = f"{NODES}/providers/Microsoft.Compute/virtualMachineScaleSets/pool"
VM: Final = f"{NODES}/providers/Microsoft.Compute/virtualMachines/vm"
IDENTITY: Final = f"{IDENTITIES}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web"
CLUSTER: Final = "/subscriptions/s/resourcegroups/clusters/providers/Microsoft.ContainerService/managedClusters/aks"
AUTHORIZATION: Final = "/providers/Microsoft.Authorization"
DEFINITIONS: Final[Mapping[str, Any]] = {
    MACHINES: [{"actions": ["Microsoft.Compute/virtualMachines/*", "Microsoft.Compute/virtualMachineScaleSets/*",
                            "Microsoft.Compute/locations/*"], "notActions": []}],
    OPERATOR: [{"actions": ["Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action"], "notActions": []}],
}  # fmt: skip
"""The parts of Virtual Machine Contributor and Managed Identity Operator that MIC needs, as Azure returns them."""
Assignment = tuple[str, str]


@dataclass
class ScriptedArm:
    """Azure with one AKS cluster, and the role assignments (role, scope) of one principal."""

    assignments: Sequence[Assignment] = ((MACHINES, NODES), (OPERATOR, IDENTITIES))
    definitions: Mapping[str, Any] = field(default_factory=lambda: DEFINITIONS)
    group: Any = field(default_factory=lambda: {"properties": {}, "managedBy": CLUSTER})
    cluster: Any = field(
        default_factory=lambda: {"properties": {"identityProfile": {"kubeletidentity": {"objectId": PRINCIPAL}}}}
    )
    refused: Sequence[str] = ()
    """Parts of paths of reads that Azure refuses."""
    reads: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    async def read(self, path: str, query: Mapping[str, str]) -> bytes:
        self.reads.append((path, query))
        if any(part in path for part in self.refused):
            raise Refused("not you", status=403, code="AuthorizationFailed")
        if path == NODES:
            return json.dumps(self.group).encode()
        if path == CLUSTER:
            return json.dumps(self.cluster).encode()
        if path.endswith(f"{AUTHORIZATION}/roleAssignments"):
            several = [{"properties": _assignment(role, scope)} for role, scope in self.assignments]
            return json.dumps({"value": several}).encode()
        definition = self.definitions.get(path.rpartition("/")[2])
        if definition is None:
            raise AzureError("no such role", status=404)
        return json.dumps({"properties": {"permissions": definition}}).encode()


def _assignment(role: str, scope: str) -> dict[str, str]:
    return {"roleDefinitionId": f"/subscriptions/s{AUTHORIZATION}/roleDefinitions/{role}", "scope": scope}


def node(cluster: MemoryCluster, name: str, host: str) -> None:
    meta = {"name": name, "labels": {"kubernetes.io/os": "linux"}}
    cluster.api.store.create("nodes", {"metadata": meta, "spec": {"providerID": f"azure://{host}"}})


async def check(cluster: MemoryCluster, arm: ScriptedArm, principal: str = "") -> list[CheckResult]:
    state = await read_state(cluster.client, "default")
    roles = await check_mic_roles(cluster.client, arm, state, principal)
    return [its for its in preflight(replace(state, roles=roles)).findings if its.check == "roles"]


def levels(results: Sequence[CheckResult]) -> list[Level]:
    return [result.level for result in results]


def command(role: str, scope: str) -> str:
    return (
        f"az role assignment create --role '{role}' --assignee-object-id {PRINCIPAL} --assignee-principal-type "
        f"ServicePrincipal --scope {scope}"
    )


@pytest.fixture(autouse=True)
def _pool(cluster: MemoryCluster) -> None:
    node(cluster, "n0", f"{SET}/virtualMachines/0")
    cluster.identity("web", resourceID=IDENTITY)


async def test_the_kubelet_identity_with_the_documented_roles_lacks_nothing(cluster: MemoryCluster) -> None:
    arm = ScriptedArm()
    results = await check(cluster, arm)
    assert levels(results) == [Level.OK, Level.OK]
    assert results[0].says.endswith(f"virtualMachineScaleSets/write in {NODES}")
    assert results[1].says == f"MIC's principal {PRINCIPAL} has {ASSIGN} in {IDENTITIES}"
    query = {"api-version": "2022-04-01", "$filter": f"assignedTo('{PRINCIPAL}')"}
    listings = [(path, its) for path, its in arm.reads if path.endswith("roleAssignments")]
    assert listings == [(f"{group}{AUTHORIZATION}/roleAssignments", query) for group in (NODES, IDENTITIES)]


async def test_the_smaller_role_of_the_documentation_suffices_for_the_nodes(cluster: MemoryCluster) -> None:
    page = (ROOT / "docs/install-on-aks.md").read_text()
    (actions,) = re.findall(r'"Actions": (\[[^]]*\])', page)
    definitions = {**DEFINITIONS, MACHINES: [{"actions": json.loads(actions)}]}
    node(cluster, "n1", VM)
    assert levels(await check(cluster, ScriptedArm(definitions=definitions))) == [Level.OK, Level.OK]


async def test_a_principal_without_roles_gets_the_commands_with_full_values(cluster: MemoryCluster) -> None:
    node(cluster, "n1", VM)
    results = await check(cluster, ScriptedArm(assignments=()))
    contributor, lacks = command("Virtual Machine Contributor", NODES), f"MIC's principal {PRINCIPAL} lacks "
    machines, sets = (f"Microsoft.Compute/{kind}" for kind in ("virtualMachines", "virtualMachineScaleSets"))
    assert {(its.level, its.says.removeprefix(lacks), its.next) for its in results} == {
        (Level.PROBLEM, f"{machines}/read on vm in {NODES}", contributor),
        (Level.PROBLEM, f"{machines}/write on vm in {NODES}", contributor),
        (Level.PROBLEM, f"{sets}/read on pool in {NODES}", contributor),
        (Level.PROBLEM, f"{sets}/write on pool in {NODES}", contributor),
        (Level.WARNING, f"{OPERATIONS} on pool, vm in {NODES}", contributor),
        (Level.PROBLEM, f"{ASSIGN} on web in {IDENTITIES}", command("Managed Identity Operator", IDENTITY)),
    }


@pytest.mark.parametrize(
    ("scope", "suffices"),
    [
        ("/", True),
        ("/providers/Microsoft.Management/managementGroups/m", True),
        ("/subscriptions/S", True),
        (NODES.lower(), True),
        (SET, True),
        (f"{NODES}-2", False),
        (f"{SET}2", False),
        (f"{SET}/virtualMachines/0", False),
    ],
)
async def test_an_assignment_applies_to_its_scope_and_below(
    cluster: MemoryCluster, scope: str, *, suffices: bool
) -> None:
    results = await check(cluster, ScriptedArm([(MACHINES, scope), (OPERATOR, IDENTITY)]))
    assert (levels(results) == [Level.OK, Level.OK]) is suffices


@pytest.mark.parametrize(
    ("permissions", "suffices"),
    [
        ([{"actions": ["*"]}], True),
        ([{"actions": ["microsoft.compute/*"]}], True),
        ([{"actions": ["*/read"]}], False),
        ([{"actions": ["*"], "notActions": ["Microsoft.Compute/*/write"]}], False),
        ([{"actions": ["*"], "notActions": ["*/write"]}, {"actions": ["*/write"]}], True),
        ([{"actions": ["Microsoft.Compute/virtualMachines/*"]}], False),
        ([{"dataActions": ["*"]}], False),
        ([], False),
    ],
)
async def test_actions_and_their_exceptions_decide(
    cluster: MemoryCluster, permissions: list[Any], *, suffices: bool
) -> None:
    arm = ScriptedArm([(OTHER, NODES), (OPERATOR, IDENTITY)], definitions={**DEFINITIONS, OTHER: permissions})
    assert (Level.PROBLEM in levels(await check(cluster, arm))) is not suffices


async def test_only_an_identity_outside_of_the_scope_is_reported(cluster: MemoryCluster) -> None:
    cluster.identity("api", resourceID=f"{IDENTITY}-2")
    cluster.identity("again", resourceID=IDENTITY.upper())
    results = await check(cluster, ScriptedArm([(MACHINES, NODES), (OPERATOR, IDENTITY)]))
    assert [its.next for its in results if its.level is not Level.OK] == [
        command("Managed Identity Operator", f"{IDENTITY}-2")
    ]


async def test_a_given_principal_is_not_looked_up(cluster: MemoryCluster) -> None:
    arm = ScriptedArm()
    assert levels(await check(cluster, arm, PRINCIPAL)) == [Level.OK, Level.OK]
    assert not {NODES, CLUSTER} & {path for path, _ in arm.reads}


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        (ScriptedArm(group={"properties": {}}), f"{NODES} is not the node resource group of an AKS cluster"),
        (ScriptedArm(group={"properties": {}, "managedBy": f"{CLUSTER}/../x?y"}), "is not the node resource group"),
        (ScriptedArm(cluster={"properties": {"identityProfile": None}}), "has no kubelet identity"),
        (
            ScriptedArm(cluster={"properties": {"identityProfile": {"kubeletidentity": {"objectId": "') or ('"}}}}),
            "has no kubelet identity",
        ),
        (ScriptedArm(group=[]), "cannot be used"),
        (ScriptedArm(refused=[CLUSTER]), "403 AuthorizationFailed not you"),
    ],
)
async def test_an_unknown_principal_is_requested_from_the_operator(
    cluster: MemoryCluster, arm: ScriptedArm, reason: str
) -> None:
    (result,) = await check(cluster, arm)
    assert (result.level, reason in result.says) == (Level.UNKNOWN, True)
    assert result.next.startswith("pass --principal OBJECT-ID, on AKS the output of: az aks show")
    assert not any("roleAssignments" in path for path, _ in arm.reads)


@pytest.mark.parametrize("refused", ["roleAssignments", MACHINES])
async def test_without_rights_to_read_the_command_for_another_person_is_shown(
    cluster: MemoryCluster, refused: str
) -> None:
    result, *_ = await check(cluster, ScriptedArm(refused=[refused]))
    assert (result.level, "403 AuthorizationFailed not you" in result.says) == (Level.UNKNOWN, True)
    assert result.next == (
        "let a person with permission to read role assignments there run: az role assignment list --assignee "
        f"{PRINCIPAL} --scope {NODES} --include-groups --include-inherited -o table"
    )


async def test_more_assignments_than_one_run_reads_are_unknown(cluster: MemoryCluster) -> None:
    arm = ScriptedArm([(MACHINES, f"{NODES}/{number}") for number in range(ASSIGNMENTS_MAX + 1)])
    assert levels(await check(cluster, arm)) == [Level.UNKNOWN, Level.UNKNOWN]


async def test_other_identities_and_an_absent_kind_need_no_role(cluster: MemoryCluster) -> None:
    cluster.api.store.delete("azureidentities.aadpodidentity.k8s.io", "web", "default", grace_seconds=0)
    cluster.identity("principal", type=1, resourceID=IDENTITY)
    cluster.identity("wrong", resourceID="x")
    nodes, identities = await check(cluster, ScriptedArm([(MACHINES, NODES)]))
    assert levels([nodes, identities]) == [Level.OK, Level.OK]
    assert identities.says.startswith("no AzureIdentity of type 0 exists")
    cluster.api.refuse(404, "NotFound", "GET", what="/azureidentities")
    assert levels(await check(cluster, ScriptedArm([(MACHINES, NODES)]))) == [Level.OK, Level.OK]


async def test_identities_that_cannot_be_listed_are_unknown_and_the_nodes_are_checked(cluster: MemoryCluster) -> None:
    def intercept(request: Recorded) -> StatusError | None:
        return StatusError(403, "Forbidden", "no") if "/azureidentities" in request.path else None

    cluster.api.intercept = intercept
    assert levels(await check(cluster, ScriptedArm([(MACHINES, NODES)]))) == [Level.OK, Level.UNKNOWN]


async def test_authors_of_identities_cannot_cause_any_number_of_reads(cluster: MemoryCluster) -> None:
    for number in range(GROUPS_MAX):
        cluster.identity(f"i{number}", resourceID=IDENTITY.replace("/identities/", f"/g{number}/"))
    arm = ScriptedArm([(MACHINES, NODES), (OPERATOR, "/")])
    results = await check(cluster, arm)
    assert len([path for path, _ in arm.reads if path.endswith("roleAssignments")]) == GROUPS_MAX
    assert [its.says for its in results if its.level is Level.UNKNOWN] == [
        f"one run reads {GROUPS_MAX} of the {GROUPS_MAX + 2} resource groups of nodes and identities"
    ]


async def test_a_name_with_characters_of_the_shell_is_quoted(cluster: MemoryCluster) -> None:
    node(cluster, "n1", VM.replace("MC_nodes", "MC_(b)"))
    results = await check(cluster, ScriptedArm([(MACHINES, NODES), (OPERATOR, "/")]), PRINCIPAL)
    assert {its.next for its in results if its.level is Level.PROBLEM} == {
        command("Virtual Machine Contributor", "'/subscriptions/s/resourceGroups/MC_(b)'")
    }


async def test_a_cluster_outside_of_azure_is_not_read(cluster: MemoryCluster) -> None:
    cluster.api.store.delete("nodes", "n0", grace_seconds=0)
    arm = ScriptedArm()
    assert (await check(cluster, arm), arm.reads) == ([], [])
