"""A plan's resources as a Bicep file, a Terraform configuration, objects of Azure Service Operator, and az commands.
Text from objects is printed as text, without markup and without terminal control characters.
"""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.federation.azure_resources import (
    AzureOptions,
    AzurePlan,
    ResourceType,
    azure_plan,
    binding_name,
)
from podidctl.migration.federation.output import manifests, print_outcomes, print_plan
from podidctl.migration.federation.resource_formats import (
    NO_BINDINGS,
    az_script,
    bicep,
    bicep_string,
    hcl_string,
    service_operator_objects,
    terraform,
)
from podidctl.migration.federation.schema import (
    Application,
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    Remark,
    TokenTest,
    UnchangedIdentity,
)
from podidctl.migration.output import (
    change_script,
    credential_script,
    plan_document,
    print_differences,
    print_workload_identity,
)
from podidctl.report.text import Output, print_document
from podidentity.azure.federation import DIRECT_AUDIENCE as AUDIENCE
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.exits import StartError
from tests.support.migration import federation_sandbox
from tests.support.migration.azure_plans import BINDINGS, GRANTS, HOSTILE_ACCOUNT, PRINCIPAL, azure, mixed
from tests.support.migration.federation_sandbox import planned
from tests.support.migration.objects import ID, binding, identity, workload
from tests.support.migration.objects import planned as workload_plan
from tests.unit.migration.plan_formats import (
    Written,
    assert_valid,
    bicep_value,
    hcl_value,
    read_az,
    read_bicep,
    read_terraform,
)

Write = Callable[[AzurePlan], str]
Read = Callable[[str], list[Written]]
FORMATS = pytest.mark.parametrize(
    ("write", "read"), [(bicep, read_bicep), (terraform, read_terraform)], ids=["bicep", "terraform"]
)


def service_operator(plan: AzurePlan) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(service_operator_objects(plan)) if document]


@pytest.mark.parametrize("plan", [azure("web", HOSTILE_ACCOUNT), azure("web", options=BINDINGS), mixed()])
@FORMATS
def test_each_resource_has_arms_properties_and_its_parent(write: Write, read: Read, plan: AzurePlan) -> None:
    written = read(write(plan))
    assert [resource.symbol for resource in written] == [resource.symbol for resource in plan.resources]
    for resource, expected in zip(written, plan.resources, strict=True):
        name, parent = resource.attributes["name"], expected.parent.text
        assert (resource.type_with_version, name, resource.properties) == (
            expected.type_with_version,
            expected.name,
            expected.properties,
        )
        assert resource.parent == (parent if write is terraform else parent.partition("/providers/")[2])
        assert_valid(resource.type_with_version, name, {"properties": resource.properties})


def test_objects_of_service_operator_have_the_properties_of_the_resources() -> None:
    """They have no other field: the kinds' definitions refuse unknown ones.

    Source: github.com/Azure/azure-service-operator, v2/api/managedidentity/v1api20230131 and
    v2/api/authorization/v1api20220401 (files structure.txt).
    """
    plan = azure(HOSTILE_ACCOUNT, "web", "a" * 253)
    made = service_operator(plan)
    assert len({document["metadata"]["name"] for document in made}) == len(plan.resources) == 4
    for document, resource in zip(made, plan.resources, strict=True):
        is_role = resource.type is ResourceType.ROLE_ASSIGNMENT
        name = document["metadata"].pop("name")
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?", name)
        spec = {"azureName": resource.name, "owner": {"armId": f"{ID}demo"}, **resource.properties}
        if is_role:
            spec["roleDefinitionReference"] = {"armId": spec.pop("roleDefinitionId")}
        assert document == {
            "apiVersion": "authorization.azure.com/v1api20220401"
            if is_role
            else "managedidentity.azure.com/v1api20230131",
            "kind": "RoleAssignment" if is_role else "FederatedIdentityCredential",
            "metadata": {"namespace": "shop"},
            "spec": spec,
        }


@pytest.mark.parametrize(
    ("string", "value", "text", "literal"),
    [
        (bicep_string, bicep_value, "${a}", "'\\${a}'"),
        (bicep_string, bicep_value, "$${a}", "'$\\${a}'"),
        (bicep_string, bicep_value, "it's", "'it\\'s'"),
        (bicep_string, bicep_value, "a\\", "'a\\\\'"),
        (bicep_string, bicep_value, "\\${a}", "'\\\\\\${a}'"),
        (bicep_string, bicep_value, "$a {b}", "'$a {b}'"),
        (hcl_string, hcl_value, "${a}", '"$${a}"'),
        (hcl_string, hcl_value, "$${a}", '"$$${a}"'),
        (hcl_string, hcl_value, "%{if true}", '"%%{if true}"'),
        (hcl_string, hcl_value, '"\\', '"\\"\\\\"'),
        (hcl_string, hcl_value, "$a %b {c}", '"$a %b {c}"'),
        (hcl_string, hcl_value, "\\${a}", '"\\\\$${a}"'),
    ],
)
def test_a_string_is_never_an_expression(
    string: Callable[[str], str], value: Callable[[str], str], text: str, literal: str
) -> None:
    assert string(text) == literal
    assert value(literal) == text


@pytest.mark.parametrize(
    ("write", "read", "remark", "comment"),
    [
        (
            bicep,
            read_bicep,
            "x\nresource y 'z' = {}\r\u2028",
            "// x?resource y 'z' = {}??\n",
        ),
        (
            terraform,
            read_terraform,
            'x\n}\nresource "local_file" "y" {}\n',
            '\n# x?}?resource "local_file" "y" {}?\n',
        ),
        (
            service_operator_objects,
            lambda text: list(yaml.safe_load_all(text)),
            "x\n---\nkind: Secret\u2028",
            "# x?---?kind: Secret?\n",
        ),
    ],
    ids=["bicep", "terraform", "aso"],
)
def test_a_remark_cannot_leave_its_comment(
    write: Write, read: Callable[[str], list[Any]], remark: str, comment: str
) -> None:
    text = write(replace(azure("web"), comments=[remark]))
    assert comment in text
    assert len(read(text)) == 2


@FORMATS
def test_a_plan_without_resources_is_a_valid_file(write: Write, read: Read) -> None:
    assert read(write(azure(options=GRANTS))) == []


def test_credentials_of_one_identity_are_created_one_after_the_other() -> None:
    by_parent: dict[str, list[tuple[str, list[str]]]] = {}
    for resource in read_bicep(bicep(azure("a", "b", "c", names=("demo", "other")))):
        if "parent" in resource.attributes:
            before = resource.attributes.get("dependsOn", [])
            by_parent.setdefault(resource.parent, []).append((f"@{resource.symbol}", before))
    assert len(by_parent) == 2
    for made in by_parent.values():
        assert [before for _, before in made] == [[], *([symbol] for symbol, _ in made[:-1])]
    locks = [resource.attributes.get("locks") for resource in read_terraform(terraform(azure("web", "batch")))]
    assert locks == [None, [f"{ID}demo"], [f"{ID}demo"]]


def test_several_resource_groups_are_rejected_by_name() -> None:
    one, other = azure("web"), azure("web", resourceID=f"{ID.replace('/g/', '/h/')}demo")
    both = type(one)([*one.resources, *other.resources], [])
    with pytest.raises(StartError, match="g: shop/demo; h: shop/demo"):
        bicep(both)
    assert "--resource-group h" in bicep(other)


@pytest.mark.parametrize(
    ("plan", "kinds"),
    [
        (azure("web", options=BINDINGS), []),
        (mixed(), ["RoleAssignment", "RoleAssignment", "FederatedIdentityCredential"]),
    ],
    ids=["all", "one"],
)
def test_service_operator_names_the_unsupported_identity_bindings(plan: AzurePlan, kinds: list[str]) -> None:
    assert f"# {NO_BINDINGS}\n" in service_operator_objects(plan)
    assert [document["kind"] for document in service_operator(plan)] == kinds


def az_commands(*accounts: str, options: AzureOptions) -> list[list[str]]:
    exchange = Exchange.IDENTITY_BINDINGS if options.cluster else Exchange.DIRECT
    users = (workload(f"w{number}", account=account) for number, account in enumerate(accounts))
    made = planned(*users, exchange=exchange)
    return read_az(az_script(made, azure_plan(made, options)))


def test_an_identity_binding_is_one_command_and_replaces_the_credentials() -> None:
    identity = parse_user_assigned(f"{ID}demo")
    assert identity is not None
    assert az_commands("web", "batch", options=BINDINGS) == [
        [
            *("az", "aks", "identity-binding", "create", "--subscription", "s", "--resource-group", "g"),
            *("--cluster-name", "c", "--name", binding_name(identity)),
            *("--managed-identity-resource-id", f"{ID}demo"),
        ]
    ]


def test_a_role_assignment_is_one_command_next_to_the_credentials() -> None:
    credential, hostile, role = az_commands("web", HOSTILE_ACCOUNT, options=GRANTS)
    assert credential[:4] == hostile[:4] == ["az", "identity", "federated-credential", "create"]
    assert f"system:serviceaccount:shop:{HOSTILE_ACCOUNT}" in hostile
    definitions = "/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions"
    assert role == [
        *("az", "role", "assignment", "create", "--role", f"{definitions}/e40ec5ca-96e0-45a2-b4ff-59039f2c2b59"),
        *("--assignee-object-id", PRINCIPAL, "--assignee-principal-type", "ServicePrincipal"),
        *("--scope", f"{ID}demo"),
    ]


@pytest.mark.parametrize("fault", ["missing", "unknown", "name"])
def test_the_schemas_of_resources_reject_a_fault(fault: str) -> None:
    for resource in mixed().resources:
        properties = dict(resource.properties)
        if fault == "missing":
            properties.pop(next(iter(properties)))
        elif fault == "unknown":
            properties["colour"] = "green"
        name = "A/" if fault == "name" else resource.name
        with pytest.raises((AssertionError, KeyError)):
            assert_valid(resource.type_with_version, name, {"properties": properties})


EVIL = "\x1b]0;owned\x07[bold]x[/bold]\x9b2J"
SHOWN = "?]0;owned?[bold]x[/bold]?2J"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=400, color_system=None)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_of_differences(console: Console) -> None:
    print_differences([Difference(DifferenceLevel.REVIEW, EVIL, EVIL, EVIL)], Output.TABLE, console)
    assert output_of(console).count(SHOWN) == 3
    assert "\x1b" not in output_of(console)


def test_a_plan_for_workload_identity(console: Console) -> None:
    made = workload_plan(workload(EVIL, account="web"), workload("lost", label=EVIL))
    print_workload_identity(made, "https://oidc.example.org/", AUDIENCE, console)
    assert SHOWN in output_of(console)
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))


def test_scripts_and_documents_contain_only_printable_characters(console: Console) -> None:
    evil = "\x1b]0;owned\x07\u202e\x7f\U000e0041"
    objects = [identity(resourceID=f"{ID}demo".replace("/g/", "/g(é)/")), binding()]
    for made in (workload_plan(workload(evil, account=evil)), workload_plan(workload(account="web"), objects=objects)):
        document = plan_document(made, f"https://oidc.example.org/{evil}", AUDIENCE)
        print_document(document, Output.JSON, console)
        assert json.loads(output_of(console)) == document
        print_document(document, Output.YAML, console)
        for text in (
            change_script(made),
            credential_script(made.credentials, [step.line for step in made.by_hand], document["issuer"], AUDIENCE),
            output_of(console),
        ):
            assert all(line.isprintable() for line in text.split("\n"))
        console.file = io.StringIO()


def test_a_plan_for_federated_identities(console: Console) -> None:
    objects = [identity(namespace="ids"), binding(namespace="ids", selector=EVIL)]
    made = federation_sandbox.planned(
        workload(EVIL, account=EVIL, label=EVIL), objects=objects, issuer=f"https://{EVIL}"
    )
    texts = ("api_version", "kind", "namespace", "name", "account", "identity", "client_id", "tenant_id")
    remarks = [Remark(why=EVIL, do=EVIL)]
    application = Application(**dict.fromkeys(texts, EVIL), state=ApplicationState.MANUAL, remarks=remarks)
    made = msgspec.structs.replace(
        made,
        applications=[application],
        leftovers=[UnchangedIdentity(identity=EVIL, why=EVIL, do=EVIL)],
    )
    print_plan(made, console, applications=True)
    assert output_of(console).count(SHOWN) > 8
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))
    for text in (az_script(made, AzurePlan([], [])), manifests(made.steps)):
        assert all(line.isprintable() for line in text.split("\n"))
    assert list(yaml.safe_load_all(manifests(made.steps)))[-1]["spec"]["selector"] == EVIL
    console.file = io.StringIO()
    print_document(made, Output.JSON, console)
    assert msgspec.json.decode(output_of(console), type=FederationPlan) == made


def test_the_result_of_switching_identities(console: Console) -> None:
    tried = TokenTest(account=EVIL, bound_to=EVIL, problem=EVIL, do=EVIL)
    print_outcomes(
        [ChangeOutcome(about=EVIL, ending=ChangeResult.NOT_CHANGED, why=EVIL, do=EVIL, tried=[tried])],
        console,
        dry=False,
    )
    assert output_of(console).count(SHOWN) == 8
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))
