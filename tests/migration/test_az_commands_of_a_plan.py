"""Commands of az for a plan's resources."""

import shlex

from podidctl.migration.federation.azure_resources import AzureOptions, azure_plan, binding_name
from podidctl.migration.federation.documents import az_script
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import parse_user_assigned
from tests.migration.azure_plans import BINDINGS, GRANTS, HOSTILE_ACCOUNT, PRINCIPAL
from tests.migration.federation_sandbox import planned
from tests.migration.objects import ID
from tests.migration.workloads import workload


def commands(*accounts: str, options: AzureOptions) -> list[list[str]]:
    exchange = Exchange.IDENTITY_BINDINGS if options.cluster else Exchange.DIRECT
    users = (workload(f"w{number}", account=each) for number, each in enumerate(accounts))
    made = planned(*users, exchange=exchange)
    script = az_script(made, made.steps, azure_plan(made, made.steps, options))
    return [shlex.split(line) for line in script.splitlines() if line.startswith("az ")]


def test_an_identity_binding_is_one_command_and_replaces_the_credentials() -> None:
    identity = parse_user_assigned(f"{ID}demo")
    assert identity is not None
    assert commands("web", "batch", options=BINDINGS) == [
        [
            *("az", "aks", "identity-binding", "create", "--subscription", "s", "--resource-group", "g"),
            *("--cluster-name", "c", "--name", binding_name(identity)),
            *("--managed-identity-resource-id", f"{ID}demo"),
        ]
    ]


def test_a_role_assignment_is_one_command_next_to_the_credentials() -> None:
    credential, hostile, role = commands("web", HOSTILE_ACCOUNT, options=GRANTS)
    assert credential[:4] == hostile[:4] == ["az", "identity", "federated-credential", "create"]
    assert f"system:serviceaccount:shop:{HOSTILE_ACCOUNT}" in hostile
    definitions = "/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions"
    assert role == [
        *("az", "role", "assignment", "create", "--role", f"{definitions}/e40ec5ca-96e0-45a2-b4ff-59039f2c2b59"),
        *("--assignee-object-id", PRINCIPAL, "--assignee-principal-type", "ServicePrincipal"),
        *("--scope", f"{ID}demo"),
    ]
