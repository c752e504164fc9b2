"""Report of the plan as values: the identities and objects that change on each host, and why others do not. The
machine-readable output has the same structure. Pure."""

from typing import Final

import msgspec

from podidentity.report import ReportModel
from podidentity.resources import ASSIGNED

VERBS: Final = ("create", "update", "remove", "assign", "note")
"""Summary of an object's change: `assign` sets only the status Assigned, `note` changes only an annotation of MIC."""


class ObjectChange(ReportModel, frozen=True):
    """Change of one AzureAssignedIdentity on one host."""

    namespace: str
    name: str
    pod: str
    """Namespace and name, as for `identity`."""
    identity: str
    node: str
    steps: list[str]
    """Values of `outcome.STEP_NAMES`, in order."""
    was: str
    """Its current status; empty if there is no such object."""
    becomes: str
    """Its final status; empty if it is removed."""
    detail: str = ""
    """The difference, for an update in place; why it is still Created, if Azure refused it recently."""


class Kept(ReportModel, frozen=True):
    """An identity that no pod needs and that stays attached."""

    identity: str
    why: str


class Waiting(ReportModel, frozen=True):
    """An assignment that does not become in sync."""

    pod: str
    identity: str
    why: str


class HostPreview(ReportModel, frozen=True):
    """One VM or scale set, or one node that has neither."""

    host: str
    """Azure's id; `node:<name>` if no host is known."""
    nodes: list[str]
    problem: str = ""
    """Why the host could not be read; empty if it could."""
    add: list[str] = msgspec.field(default_factory=list)
    remove: list[str] = msgspec.field(default_factory=list)
    type: str = ""
    new_type: str = ""
    """Equal to `type` if that does not change."""
    updates: int = 0
    """PATCHes to Azure, if the hosts are processed in the order of their ids. In another order, a pending detach of a
    moved object may or may not be merged with other changes of its host."""
    objects: list[ObjectChange] = msgspec.field(default_factory=list)
    kept: list[Kept] = msgspec.field(default_factory=list)
    waiting: list[Waiting] = msgspec.field(default_factory=list)
    as_it_should_be: int = 0
    """Objects that are in sync and not written."""

    @property
    def changes(self) -> bool:
        """Return whether MIC would write anything for this host."""
        return bool(self.objects or self.updates)

    @property
    def notable(self) -> bool:
        """Return whether anything is out of sync or unknown here."""
        return self.changes or bool(self.kept or self.waiting or self.problem)


class LeftOut(ReportModel, frozen=True):
    """An object that MIC cannot act on, and the number of pods that get no identity because of it."""

    kind: str
    name: str
    why: str
    pods: int


class Summary(ReportModel, frozen=True):
    """Totals of the report."""

    objects: dict[str, int]
    """AzureAssignedIdentities for each of `VERBS`."""
    identities_added: int
    identities_removed: int
    hosts_changed: int
    hosts: int
    updates: int
    pods: int
    """Pods on nodes with the label of a binding, without finished ones."""
    pods_as_they_should_be: int
    """Those of them that already have all identities that MIC can assign. Pods without a binding are not included."""


class Preview(ReportModel, frozen=True):
    """The report. `hosts` are ordered by id, their content by name."""

    settings: dict[str, str]
    """Flags that affect the plan, if they differ from their defaults."""
    asked_azure: bool
    summary: Summary
    hosts: list[HostPreview]
    left_out: list[LeftOut]
    upgrade_unknown: bool = False
    """The record of the type upgrade could not be read. Fields with old names count, which MIC ignores if the upgrade
    is recorded."""

    @property
    def changes(self) -> bool:
        """Return whether MIC would write anything."""
        return any(host.changes for host in self.hosts)

    def shortened(self) -> "Preview":
        """Return the report without hosts that are in sync; the summary still counts them."""
        return msgspec.structs.replace(self, hosts=[host for host in self.hosts if host.notable])

    @property
    def unread_hosts(self) -> list[HostPreview]:
        """Return the hosts that could not be read."""
        return [host for host in self.hosts if host.problem]


def verb_of(change: ObjectChange) -> str:
    """Return the one of `VERBS` that describes the object's change best."""
    for verb, step in (("create", "create"), ("remove", "revoke"), ("remove", "release"), ("update", "update")):
        if step in change.steps:
            return verb
    return "assign" if change.was != change.becomes == ASSIGNED else "note"
