"""Schema of federation plans and outcomes, for tables and for programs."""

from enum import StrEnum
from typing import Any

import msgspec

from mic.preview.schema import ReportModel
from podidctl.migration.workload_identity import PlannedCredential
from podidctl.report_parts import Advice, NamespacedPart


class IdentityState(StrEnum):
    """State of an AzureIdentity."""

    TO_DO = "to do"
    """It is of type 0."""
    UNFINISHED = "not followed yet"
    """This tool has set it to type 3, and MIC has not updated all AzureAssignedIdentities."""
    SWITCHED = "switched"
    """This tool has set it to type 3, and a rollback is possible."""


class Remark(Advice, frozen=True, kw_only=True):
    """Information or required action for the operator."""

    blocks: bool = True
    """Whether the action is required before any change."""


class AccountUsage(NamespacedPart, frozen=True):
    """A service account whose pods have the identity."""

    workloads: list[str]
    pod: str = ""
    """A pod with it, for a token test; empty if there is none."""
    pod_uid: str = ""


class IdentityStep(NamespacedPart, frozen=True):
    """Step for one AzureIdentity."""

    state: IdentityState
    tenant: str
    """The identity's tenant after the switch; empty if unknown."""
    accounts: list[AccountUsage]
    credentials: list[PlannedCredential]
    remarks: list[Remark]
    copies: list[dict[str, Any]]
    """Manifests for other namespaces whose pods have the identity now."""

    @property
    def blocked(self) -> bool:
        return any(each.blocks for each in self.remarks)


class ApplicationState(StrEnum):
    """State of an application on the way to workload identity."""

    TO_DO = "to do"
    WAITS_FOR_IDENTITY = "after its identity"
    """Its identity is not of type 3 yet."""
    DONE = "done"
    MANUAL = "by hand"


class Application(ReportModel, frozen=True):
    """A workload, and the changes that workload identity needs."""

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
    """An AzureIdentity that this tool does not change."""

    identity: str


class FederationPlan(ReportModel, frozen=True):
    """Plan for the whole cluster."""

    issuer: str
    """Empty if unknown."""
    audience: str
    remarks: list[Remark]
    """Remarks about the whole cluster."""
    steps: list[IdentityStep]
    applications: list[Application]
    leftovers: list[UnchangedIdentity]


class TokenTest(ReportModel, frozen=True):
    """Result of one token request, sent as NMI would send it. The token is discarded."""

    account: str
    bound_to: str
    """The pod that the token was bound to; empty if none."""
    client_id: str = ""
    object_id: str = ""
    expires: str = ""
    problem: str = ""
    """Reason of the failure; empty on success."""
    do: str = ""


class ChangeResult(StrEnum):
    """Result for one object."""

    WOULD_CHANGE = "would be changed"
    CHANGED = "changed"
    UNCHANGED = "as it is"
    NOT_CHANGED = "left as it was"
    ROLLED_BACK = "taken back"
    INCOMPLETE = "changed, and not finished"


class ChangeOutcome(ReportModel, frozen=True):
    """Outcome, actual or planned, for one AzureIdentity or application."""

    about: str
    ending: ChangeResult
    why: str = ""
    do: str = ""
    tried: list[TokenTest] = msgspec.field(default_factory=list)

    @property
    def is_success(self) -> bool:
        return self.ending in {ChangeResult.CHANGED, ChangeResult.UNCHANGED}
