"""What the way to federated identities is made of: values alone, for people's tables and for programs."""

from enum import StrEnum
from typing import Any

import msgspec

from podidctl.migration.workload_identity import Credential
from podidentity.resources import Wire


class Told(Wire, frozen=True, omit_defaults=False):
    """What is told to programs has each of its fields, empty ones too."""


class State(StrEnum):
    """Where an AzureIdentity stands."""

    TO_DO = "to do"
    """It is of type 0."""
    UNFINISHED = "not followed yet"
    """It is of type 3 by us, and MIC has not made all assigned identities say so."""
    SWITCHED = "switched"
    """It is of type 3 by us: there is a way back."""


class Remark(Told, frozen=True):
    """What somebody should know or do."""

    why: str
    do: str
    blocks: bool = True
    """Whether nothing is changed before that is done."""


class Account(Told, frozen=True):
    """A service account whose pods have the identity."""

    namespace: str
    name: str
    workloads: list[str]
    pod: str = ""
    """A pod of it, by which a token can be tried; empty where there is none."""
    pod_uid: str = ""

    @property
    def told(self) -> str:
        return f"{self.namespace}/{self.name}"


class Step(Told, frozen=True):
    """What there is to do for one AzureIdentity."""

    namespace: str
    name: str
    state: State
    tenant: str
    """What the identity will say, or says; empty where it is not known."""
    accounts: list[Account]
    credentials: list[Credential]
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


class AppState(StrEnum):
    """Where an application stands on the way to workload identity."""

    TO_DO = "to do"
    LATER = "after its identity"
    """Its identity is not of type 3 yet."""
    DONE = "done"
    BY_HAND = "by hand"


class Application(Told, frozen=True):
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
    state: AppState
    remarks: list[Remark]

    @property
    def told(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Leftover(Told, frozen=True):
    """An AzureIdentity that nothing here changes."""

    identity: str
    why: str
    do: str


class Plan(Told, frozen=True):
    """All of it."""

    issuer: str
    """Empty where it is not known."""
    audience: str
    remarks: list[Remark]
    """About the cluster as a whole."""
    steps: list[Step]
    applications: list[Application]
    leftovers: list[Leftover]


class Tried(Told, frozen=True):
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


class Ending(StrEnum):
    """What came of one object."""

    WOULD = "would be changed"
    CHANGED = "changed"
    AS_IT_IS = "as it is"
    LEFT = "left as it was"
    TAKEN_BACK = "taken back"
    UNCLEAR = "changed, and not finished"


class Outcome(Told, frozen=True):
    """What was done, or would be, about one AzureIdentity or application."""

    about: str
    ending: Ending
    why: str = ""
    do: str = ""
    tried: list[Tried] = msgspec.field(default_factory=list)

    @property
    def fine(self) -> bool:
        return self.ending in {Ending.CHANGED, Ending.AS_IT_IS}
