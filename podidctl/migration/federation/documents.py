"""Documents of a federation plan: commands of az, and manifests for kubectl apply. Pure."""

import yaml

from podidctl.migration.documents import commands, shell
from podidctl.migration.federation.azure_resources import AzurePlan, AzureResource, ResourceType
from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidctl.migration.workload_identity import ManualStep, PlannedCredential
from podidctl.migration.workload_identity import WorkloadIdentityPlan as Credentials
from podidentity.report import printable

NOTHING: AzurePlan = AzurePlan([], [])


def az_script(made: FederationPlan, steps: list[IdentityStep], azure: AzurePlan = NOTHING) -> str:
    """Return a script with one command per Azure resource of *steps*; it stops at the first failure.

    *azure* has the role assignments and identity bindings. The federated credentials are those of *steps*, because an
    application can have some, too.
    """
    credentials = [each for step in steps for each in step.credentials]
    # Two AzureIdentities may name the same identity on Azure.
    once = {_azures(each): each for each in reversed(credentials)}
    credentials = [each for each in credentials if once[_azures(each)] is each]
    section = Credentials(accounts=[], patches=[], credentials=credentials, by_hand=_manual(made, steps), done=[])
    script = commands(section, made.issuer, made.audience)
    others = [each for each in azure.resources if each.type is not ResourceType.CREDENTIAL]
    lines = [f"\n# {printable(each.about)}\n{shell(_command(each))}\n" for each in others]
    return script + "".join(lines)


def remarks_of(made: FederationPlan, steps: list[IdentityStep]) -> list[str]:
    """Return the remarks of a plan, one line each."""
    return [f"{each.about}: {each.why}; {each.do}" for each in _manual(made, steps)]


def _manual(made: FederationPlan, steps: list[IdentityStep]) -> list[ManualStep]:
    everywhere = [ManualStep(about="cluster", why=each.why, do=each.do) for each in made.remarks]
    return everywhere + [
        ManualStep(about=f"AzureIdentity {step.full_name}", why=each.why, do=each.do)
        for step in steps
        for each in step.remarks
    ]


def _command(resource: AzureResource) -> list[str]:
    """Return the command for a role assignment or an identity binding.

    Source: reference of the Azure CLI, `az aks identity-binding create` (also in the extension aks-preview) and
    `az role assignment create`.
    """
    if resource.type is ResourceType.BINDING:
        words = ["az", "aks", "identity-binding", "create", "--subscription", resource.parent.subscription]
        words += ["--resource-group", resource.parent.resource_group, "--cluster-name", resource.parent.name]
        identity = resource.properties["managedIdentity"]["resourceId"]
        return [*words, "--name", resource.name, "--managed-identity-resource-id", identity]
    properties = resource.properties
    words = ["az", "role", "assignment", "create", "--role", properties["roleDefinitionId"]]
    words += ["--assignee-object-id", properties["principalId"]]
    return [*words, "--assignee-principal-type", properties["principalType"], "--scope", resource.parent.text]


def manifests(steps: list[IdentityStep]) -> str:
    """Return the AzureIdentities and bindings for other namespaces, for `kubectl apply -f`."""
    head = "# kubectl apply -f this file: AzureIdentities for pods of other namespaces.\n"
    copies = [each for step in steps for each in step.copies]
    return head + (yaml.safe_dump_all(copies, sort_keys=False, allow_unicode=False) if copies else "")


def _azures(credential: PlannedCredential) -> tuple[str, ...]:
    """Return the properties by which Azure distinguishes credentials."""
    owner = (credential.subscription, credential.resource_group, credential.identity_name)
    return (*(each.lower() for each in (owner if any(owner) else (credential.client_id,))), credential.subject)
