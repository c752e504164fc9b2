"""Documents of a federation plan: commands of az, and manifests for kubectl apply. Pure."""

import yaml

from podidctl.migration.documents import commands
from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidctl.migration.workload_identity import ManualStep, PlannedCredential
from podidctl.migration.workload_identity import WorkloadIdentityPlan as Credentials


def az_script(made: FederationPlan, steps: list[IdentityStep]) -> str:
    """Return a script with one command per federated credential of *steps*; it stops at the first failure."""
    by_hand = [
        ManualStep(about=f"AzureIdentity {step.full_name}", why=each.why, do=each.do)
        for step in steps
        for each in step.remarks
    ]
    by_hand = [ManualStep(about="cluster", why=each.why, do=each.do) for each in made.remarks] + by_hand
    credentials = [each for step in steps for each in step.credentials]
    # Two AzureIdentities may name the same identity on Azure.
    once = {_azures(each): each for each in reversed(credentials)}
    credentials = [each for each in credentials if once[_azures(each)] is each]
    section = Credentials(accounts=[], patches=[], credentials=credentials, by_hand=by_hand, done=[])
    return commands(section, made.issuer, made.audience)


def manifests(steps: list[IdentityStep]) -> str:
    """Return the AzureIdentities and bindings for other namespaces, for `kubectl apply -f`."""
    head = "# kubectl apply -f this file: AzureIdentities for pods of other namespaces.\n"
    copies = [each for step in steps for each in step.copies]
    return head + (yaml.safe_dump_all(copies, sort_keys=False, allow_unicode=False) if copies else "")


def _azures(credential: PlannedCredential) -> tuple[str, ...]:
    """Return the properties by which Azure distinguishes credentials."""
    owner = (credential.subscription, credential.resource_group, credential.identity_name)
    return (*(each.lower() for each in (owner if any(owner) else (credential.client_id,))), credential.subject)
