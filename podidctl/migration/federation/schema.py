"""Types of federation plans and of the outcomes of changes, which commands print as tables or as JSON."""

from enum import StrEnum
from typing import Any

import msgspec

from podidctl.migration.workload_identity import PlannedCredential
from podidctl.report.documents import Advice, NamespacedPart
from podidentity.azure.federation import Exchange
from podidentity.report import ReportModel


class IdentityState(StrEnum):
    """State of an AzureIdentity in the migration."""

    TO_DO = "to do"
    """It is of type 0."""
    UNFINISHED = "not followed yet"
    """podidctl has set it to type 3, and MIC has not updated all its AzureAssignedIdentities yet."""
    SWITCHED = "switched"
    """podidctl has set it to type 3, and can roll this back."""
    FEDERATED = "federated"
    """It is of type 3, and was not switched by podidctl."""


class Remark(Advice, frozen=True, kw_only=True):
    """A fact that the operator must know (*why*), and the action that follows from it (*do*)."""

    blocks: bool = True
    """Whether podidctl makes no change before the operator has done the action."""


class AccountUsage(NamespacedPart, frozen=True):
    """A service account whose pods have the identity."""

    workloads: list[str]
    pod: str = ""
    """A pod with this service account, for the token test; empty if there is none."""
    pod_uid: str = ""


class IdentityStep(NamespacedPart, frozen=True):
    """The part of the plan for one AzureIdentity."""

    state: IdentityState
    tenant: str
    """The identity's tenant after the switch; empty if unknown."""
    exchange: Exchange
    """The exchange by which it will get tokens."""
    resource_id: str
    """The resource id of the identity on Azure; empty if the AzureIdentity does not have a valid one."""
    accounts: list[AccountUsage]
    credentials: list[PlannedCredential]
    """The federated credentials to create: one for each service account with the exchange `direct`, else none."""
    remarks: list[Remark]
    copies: list[dict[str, Any]]
    """Manifests that create the identity in the other namespaces whose pods have it now."""

    @property
    def blocked(self) -> bool:
        return any(remark.blocks for remark in self.remarks)

    @property
    def is_federated(self) -> bool:
        """Whether it is of type 3, and podidctl has nothing more to change."""
        return self.state in {IdentityState.SWITCHED, IdentityState.FEDERATED}


class ApplicationState(StrEnum):
    """State of an application in its migration to workload identity."""

    TO_DO = "to do"
    WAITS_FOR_IDENTITY = "after its identity"
    """Its identity is not of type 3 yet."""
    DONE = "done"
    MANUAL = "by hand"


class Application(ReportModel, frozen=True):
    """A workload that can move to workload identity."""

    api_version: str
    kind: str
    namespace: str
    name: str
    account: str
    identity: str
    """The AzureIdentity, as `namespace/name`."""
    client_id: str
    tenant_id: str
    state: ApplicationState
    remarks: list[Remark]

    @property
    def description(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class UnchangedIdentity(Advice, frozen=True):
    """An AzureIdentity that podidctl does not change."""

    identity: str


class FederationPlan(ReportModel, frozen=True):
    """The plan for all identities and applications of a cluster."""

    issuer: str
    """The issuer of the cluster's service account tokens; empty if unknown."""
    audience: str
    exchange: Exchange
    """The exchange of identities without an annotation that chooses one."""
    remarks: list[Remark]
    """Remarks about the whole cluster."""
    steps: list[IdentityStep]
    applications: list[Application]
    leftovers: list[UnchangedIdentity]

    @property
    def remark_lines(self) -> list[str]:
        """The remarks about the cluster and its identities, one line each."""
        remarks = [("cluster", remark) for remark in self.remarks]
        remarks += [(f"AzureIdentity {step.full_name}", remark) for step in self.steps for remark in step.remarks]
        return [f"{about}: {remark.why}; {remark.do}" for about, remark in remarks]


class TokenTest(ReportModel, frozen=True):
    """Result of a token test for one service account.

    The test sends the same requests as NMI and discards the token. If that is not possible, the test checks something
    else, which *note* names.
    """

    account: str
    bound_to: str
    """The pod to which the service account token was bound; empty if none."""
    client_id: str = ""
    object_id: str = ""
    expires: str = ""
    problem: str = ""
    """The reason of the failure; empty on success."""
    do: str = ""
    note: str = ""
    """What was checked instead; empty if a token was obtained."""
    manifest: str = ""
    """YAML for `kubectl apply -f -` that grants a missing permission."""


class ChangeResult(StrEnum):
    """The result of a change, for one object."""

    WOULD_CHANGE = "would be changed"
    CHANGED = "changed"
    UNCHANGED = "as it is"
    NOT_CHANGED = "left as it was"
    ROLLED_BACK = "taken back"
    INCOMPLETE = "changed, and not finished"


class ChangeOutcome(ReportModel, frozen=True):
    """The outcome of a change of one AzureIdentity or application; with a dry run, the expected outcome."""

    about: str
    ending: ChangeResult
    why: str = ""
    do: str = ""
    tried: list[TokenTest] = msgspec.field(default_factory=list)

    @property
    def is_success(self) -> bool:
        return self.ending in {ChangeResult.CHANGED, ChangeResult.UNCHANGED}
