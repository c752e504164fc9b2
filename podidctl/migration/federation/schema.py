"""What the way to federated identities is made of: values alone, for people's tables and for programs."""

from enum import StrEnum
from typing import Any

import msgspec

from podidctl.migration.workload_identity import FederatedCredential
from podidentity.resources import Wire


class ReportModel(Wire, frozen=True, omit_defaults=False):
    """What is told to programs has each of its fields, empty ones too."""


class IdentityState(StrEnum):
    """Where an AzureIdentity stands."""

    TO_DO = "to do"
    """It is of type 0."""
    UNFINISHED = "not followed yet"
    """It is of type 3 by us, and MIC has not made all assigned identities say so."""
    SWITCHED = "switched"
    """It is of type 3 by us: there is a way back."""


class Remark(ReportModel, frozen=True):
    """What somebody should know or do."""

    why: str
    do: str
    blocks: bool = True
    """Whether nothing is changed before that is done."""


class AccountUsage(ReportModel, frozen=True):
    """A service account whose pods have the identity."""

    namespace: str
    name: str
    workloads: list[str]
    pod: str = ""
    """A pod of it, by which a token can be tried; empty where there is none."""
    pod_uid: str = ""

    @property
    def description(self) -> str:
        return f"{self.namespace}/{self.name}"


class IdentityStep(ReportModel, frozen=True):
    """What there is to do for one AzureIdentity."""

    namespace: str
    name: str
    state: IdentityState
    tenant: str
    """What the identity will say, or says; empty where it is not known."""
    accounts: list[AccountUsage]
    credentials: list[FederatedCredential]
    remarks: list[Remark]
    copies: list[dict[str, Any]]
    """Manifests for other namespaces whose pods have the identity now."""

    @property
    def identity(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def blocked(self) -> bool:
        return any(each.blocks for each in self.remarks)


class ApplicationState(StrEnum):
    """Where an application stands on the way to workload identity."""

    TO_DO = "to do"
    WAITS_FOR_IDENTITY = "after its identity"
    """Its identity is not of type 3 yet."""
    DONE = "done"
    MANUAL = "by hand"


class Application(ReportModel, frozen=True):
    """Something that makes pods, and what workload identity wants of it."""

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


class UnchangedIdentity(ReportModel, frozen=True):
    """An AzureIdentity that nothing here changes."""

    identity: str
    why: str
    do: str


class FederationPlan(ReportModel, frozen=True):
    """All of it."""

    issuer: str
    """Empty where it is not known."""
    audience: str
    remarks: list[Remark]
    """About the cluster as a whole."""
    steps: list[IdentityStep]
    applications: list[Application]
    leftovers: list[UnchangedIdentity]


class TokenTest(ReportModel, frozen=True):
    """One token that was asked for as NMI would, and thrown away."""

    account: str
    bound_to: str
    """The pod that it was bound to; empty where it was bound to none."""
    client_id: str = ""
    object_id: str = ""
    expires: str = ""
    problem: str = ""
    """Why there was none; empty where there was one."""
    do: str = ""


class ChangeResult(StrEnum):
    """What came of one object."""

    WOULD_CHANGE = "would be changed"
    CHANGED = "changed"
    UNCHANGED = "as it is"
    NOT_CHANGED = "left as it was"
    ROLLED_BACK = "taken back"
    INCOMPLETE = "changed, and not finished"


class ChangeOutcome(ReportModel, frozen=True):
    """What was done, or would be, about one AzureIdentity or application."""

    about: str
    ending: ChangeResult
    why: str = ""
    do: str = ""
    tried: list[TokenTest] = msgspec.field(default_factory=list)

    @property
    def is_success(self) -> bool:
        return self.ending in {ChangeResult.CHANGED, ChangeResult.UNCHANGED}
