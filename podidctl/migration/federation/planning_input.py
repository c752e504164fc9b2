"""The input of a federation plan: the state that was read, the options, and the policies that they imply. Pure."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from nmi.settings import NmiSettings
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from nmi.tokens.token_proxy import Exchanges
from podidctl.evaluation.federated_credentials import SUFFIX_MAX
from podidctl.evaluation.tokens import exchange_of
from podidctl.facts.model import ServerState
from podidctl.migration.federation.schema import Remark
from podidctl.migration.workloads import Key, WorkloadState
from podidctl.report.text import listed
from podidentity.azure.clouds import Cloud
from podidentity.azure.federation import DIRECT_AUDIENCE, Exchange
from podidentity.exits import StartError
from podidentity.resources import (
    EXCHANGE_ANNOTATION,
    AzureAssignedIdentity,
    AzureIdentity,
    AzurePodIdentityException,
    IdentityType,
)

_SUFFIX: Final = re.compile(rf"[A-Za-z0-9_-]{{0,{SUFFIX_MAX}}}")


@dataclass(frozen=True)
class PlanOptions:
    """Options of the command line. Raises StartError for a text that Azure does not accept."""

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

    def __post_init__(self) -> None:
        for name, text in (("--issuer", self.issuer), ("--audience", self.audience), ("--tenant", self.tenant)):
            if not text.isprintable():
                raise StartError(f"{name} {text!a} is not printable: use Azure's spelling")
        if not _SUFFIX.fullmatch(self.name_suffix):
            raise StartError(f"--name-suffix {self.name_suffix!a} is not at most {SUFFIX_MAX} letters, digits, - and _")


@dataclass(frozen=True)
class CredentialUses:
    """Identities of type 0 with tokens that an application uses as its own credential, as all NMIs have counted them.

    Such an application requests a token of its identity for api://AzureADTokenExchange, and presents this token to
    Entra ID instead of a secret. An identity of type 3 cannot get such a token (AADSTS700231), so its migration would
    break the application.
    """

    nodes: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The nodes on which NMI has fetched such a token, by AzureIdentity (`namespace/name`)."""
    incomplete: Collection[str] = ()
    """The nodes on which NMI has counted more identities than it reports by name."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """The reason why the metrics of a node could not be read, by node."""

    def nodes_of(self, identity: AzureIdentity, all_identities: Sequence[AzureIdentity]) -> list[str]:
        """Return the nodes on which NMI has fetched such a token of *identity*.

        Several AzureIdentities can have the same client id or resource id. They share NMI's cached token, and NMI
        counts its fetch for one of them. So the result includes the nodes of all of them.
        """
        ours = _ids(identity)
        names = [
            "/".join(candidate.key)
            for candidate in all_identities
            if _ids(candidate) & ours or candidate.key == identity.key
        ]
        return sorted({node for name in names for node in self.nodes.get(name, ())})


NO_USES: Final = CredentialUses()
"""The uses in a cluster without NMI."""


@dataclass(frozen=True)
class ChosenExchange:
    """The exchange of one AzureIdentity, and the remark if NMI would not serve the identity by it."""

    exchange: Exchange
    remark: Remark | None = None


@dataclass(frozen=True)
class FederationState:
    """State that was read, and the options of the command line."""

    situation: WorkloadState
    options: PlanOptions
    server: ServerState
    issuer: str = ""
    exceptions: Sequence[AzurePodIdentityException] = ()
    assigned: Sequence[AzureAssignedIdentity] = ()
    managed: bool = False
    """Whether NMI runs in managed mode, without MIC."""
    nmis: Sequence[NmiSettings] = ()
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

    @property
    def audience(self) -> str:
        """The audience of the federated credentials: the option, or else NMI's."""
        return self.options.audience or next((settings.federated_audience for settings in self.nmis), DIRECT_AUDIENCE)

    @property
    def policy(self) -> SignInPolicy:
        """NMI's policy about the endpoints that may receive credentials."""
        # If NMIs differ, only Azure's own endpoints are certain on every node.
        allowed = {settings.allowed_ad_endpoints for settings in self.nmis}
        return SignInPolicy(self.options.cloud, allowed_endpoints=allowed.pop() if len(allowed) == 1 else ())

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of an identity without an annotation."""
        return self.options.exchange or next((settings.federated_exchange for settings in self.nmis), Exchange.DIRECT)

    def exchange_of(self, identity: AzureIdentity) -> ChosenExchange:
        """Return the exchange of *identity*: the option, or else the one of NMI's rules on all nodes. The remark states
        that NMI's settings contradict it.
        """
        nodes: defaultdict[Exchange, list[str]] = defaultdict(list)
        try:
            for settings in self.nmis:
                nodes[exchange_of(settings, identity)].append(settings.node_name)
            if not self.nmis:
                # The settings of no NMI are known, so that whether NMI allows the annotation is unknown, too.
                nodes[Exchanges(by_annotation=True).choose(identity)] = []
        except PolicyError as error:
            refused = Remark(why=error.detail, do="correct it, then run this command again")
            return ChosenExchange(self.default_exchange, refused)
        chosen = self.options.exchange or next(iter(nodes))
        if len(nodes) > 1:
            by_node = "; ".join(f"{exchange} on {listed(nodes[exchange], 3)}" for exchange in sorted(nodes))
            reason = f"NMI's exchange for it differs between nodes: {by_node}"
            return ChosenExchange(chosen, Remark(why=reason, do="finish the rollout of NMI's DaemonSet"))
        if self.nmis and chosen not in nodes:
            reason = f"this plan is for the exchange {chosen}, and NMI would use {next(iter(nodes))}"
            do = (
                f"before the switch set federated.exchange in the chart's values, or the annotation "
                f"{EXCHANGE_ANNOTATION} with federated.exchangeAnnotation; or omit --exchange"
            )
            return ChosenExchange(chosen, Remark(why=reason, do=do))
        return ChosenExchange(chosen)


def as_federated(identity: AzureIdentity, tenant: str) -> AzureIdentity:
    """Return *identity* after the switch."""
    spec = replace(identity.spec, type=int(IdentityType.FEDERATED), tenant_id=tenant)
    return replace(identity, spec=spec)


def _ids(identity: AzureIdentity) -> set[str]:
    spec = identity.spec
    return {value.strip().lower() for value in (spec.client_id, spec.resource_id)} - {""}
