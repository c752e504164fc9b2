"""A plan for federated identities as what people run: commands of az, and manifests for kubectl apply. Pure."""

import yaml

from podidctl.migration.documents import commands
from podidctl.migration.federation.schema import FederationPlan, IdentityStep
from podidctl.migration.workload_identity import FederatedCredential, ManualStep
from podidctl.migration.workload_identity import WorkloadIdentityPlan as Credentials


def az_script(made: FederationPlan, steps: list[IdentityStep]) -> str:
    """The federated credentials of *steps*, a command for each; it ends at the first that fails."""
    by_hand = [
        ManualStep(about=f"AzureIdentity {step.identity}", why=each.why, do=each.do)
        for step in steps
        for each in step.remarks
    ]
    by_hand = [ManualStep(about="cluster", why=each.why, do=each.do) for each in made.remarks] + by_hand
    credentials = [each for step in steps for each in step.credentials]
    # Two AzureIdentities may stand for one identity of Azure's.
    once = {_azures(each): each for each in reversed(credentials)}
    credentials = [each for each in credentials if once[_azures(each)] is each]
    told = Credentials(accounts=[], patches=[], credentials=credentials, by_hand=by_hand, done=[])
    return commands(told, made.issuer, made.audience)


def manifests(steps: list[IdentityStep]) -> str:
    """AzureIdentities and bindings for other namespaces, for `kubectl apply -f`."""
    head = "# kubectl apply -f this: what gives pods of other namespaces an AzureIdentity of their own.\n"
    copies = [each for step in steps for each in step.copies]
    return head + (yaml.safe_dump_all(copies, sort_keys=False, allow_unicode=False) if copies else "")


def _azures(credential: FederatedCredential) -> tuple[str, ...]:
    """What Azure tells credentials by."""
    owner = (credential.subscription, credential.resource_group, credential.identity_name)
    return (*(each.lower() for each in (owner if any(owner) else (credential.client_id,))), credential.subject)
