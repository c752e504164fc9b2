"""The input of a federation plan: the state that was read, the options, and the policies that they imply. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from nmi.settings import Settings
from nmi.tokens.endpoints import SignInPolicy
from podidctl.migration.federation.credential_uses import NO_USES, CredentialUses
from podidctl.migration.federation.exchange_choice import ExchangeChoice
from podidctl.migration.workload_identity import AUDIENCE, WorkloadState
from podidctl.migration.workloads import Key
from podidentity.azure.clouds import Cloud
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, AzurePodIdentityException, IdentityType


@dataclass(frozen=True)
class PlanOptions:
    """Options of the command line."""

    cloud: Cloud
    tenant: str = ""
    issuer: str = ""
    audience: str = ""
    """Empty for NMI's audience."""
    exchange: Exchange | None = None
    """The exchange of all identities. None for the one by which NMI would serve each of them."""
    name_suffix: str = ""
    """Suffix of the names of federated credentials, for identities that several clusters use."""
    ignore_uses: bool = False
    """Whether identities may be switched although an application uses their tokens as its credential."""


@dataclass(frozen=True)
class FederationState:
    """State that was read."""

    situation: WorkloadState
    issuer: str = ""
    version: str = ""
    exceptions: Sequence[AzurePodIdentityException] = ()
    assigned: Sequence[AzureAssignedIdentity] = ()
    managed: bool = False
    """Whether NMI runs in managed mode, without MIC."""
    nmis: Sequence[Settings] = ()
    nmi_unknown: str = ""
    """Why the flags of an NMI are not known; empty if they are."""
    forbidden: Collection[Key] = ()
    """Service accounts whose tokens NMI may not request."""
    rights_unknown: str = ""
    """Why these permissions are not known; empty if they are."""
    uses: CredentialUses = NO_USES
    """Identities whose tokens applications use as their credential."""
    webhook: bool | None = None
    """Whether workload identity's webhook is installed; None if unknown."""


def audience_of(cluster: FederationState, options: PlanOptions) -> str:
    """Return the audience of the federated credentials: the option, or else NMI's."""
    return options.audience or next((each.federated_audience for each in cluster.nmis), AUDIENCE)


def exchange_choice(cluster: FederationState, options: PlanOptions) -> ExchangeChoice:
    """Return the rule for the exchange of each identity: the option, or else NMI's."""
    return ExchangeChoice(cluster.nmis, options.exchange)


def policy_of(cluster: FederationState, options: PlanOptions) -> SignInPolicy:
    """Return NMI's policy about the endpoints that may receive credentials."""
    allowed = {each.allowed_ad_endpoints for each in cluster.nmis}
    return SignInPolicy(options.cloud, allowed_endpoints=allowed.pop() if len(allowed) == 1 else ())


def as_federated(identity: AzureIdentity, tenant: str) -> AzureIdentity:
    """Return *identity* after the switch."""
    spec = replace(identity.spec, type=int(IdentityType.FEDERATED), tenant_id=tenant)
    return replace(identity, spec=spec)
