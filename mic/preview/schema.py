"""The preview as values: for each VM or scale set the identities and objects that change, and why something that one
might expect does not happen. These are the documents of the machine-readable output, too. Pure.
"""

from typing import Final

import msgspec

from podidentity.resources import ASSIGNED
from podidentity.telemetry.logs import redact

MESSAGE_MAX: Final = 300
"""Characters of what Azure said that are shown."""

SOMETHING_TO_DO: Final = 3
"""The exit code of a program that has told of something to do."""

VERBS: Final = ("create", "update", "remove", "assign", "note")
"""What happens to an object, in one word: `assign` is a status that becomes Assigned and nothing else, `note` only an
annotation of MIC's own."""


class ReportModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What every part of the preview has in common: the names of its fields in JSON."""


class ObjectChange(ReportModel, frozen=True):
    """What happens to one AzureAssignedIdentity at one place."""

    namespace: str
    name: str
    pod: str
    """Namespace and name, as for `identity`."""
    identity: str
    node: str
    steps: list[str]
    """Values of `outcome.STEP_NAMES`, in order."""
    was: str
    """Its status now; empty where there is no such object."""
    becomes: str
    """Its status in the end; empty where it is gone then."""
    detail: str = ""
    """What differs, for an update in place; why it is still Created, where Azure refused it lately."""


class Kept(ReportModel, frozen=True):
    """An identity that nobody needs any more and that stays on its host."""

    identity: str
    why: str


class Waiting(ReportModel, frozen=True):
    """What does not become as it should be."""

    pod: str
    identity: str
    why: str


class HostPreview(ReportModel, frozen=True):
    """One VM or scale set, or one node that has neither."""

    host: str
    """Azure's id; `node:<name>` where no host is known."""
    nodes: list[str]
    problem: str = ""
    """Why it is not known what is on the host; empty where Azure told."""
    add: list[str] = []
    remove: list[str] = []
    type: str = ""
    new_type: str = ""
    """The same as `type` where that does not change."""
    updates: int = 0
    """PATCHes to Azure, where the hosts are worked on in the order of their ids. In another order, what an object that
    moves leaves behind on one host may be merged with other changes there, or not."""
    objects: list[ObjectChange] = []
    kept: list[Kept] = []
    waiting: list[Waiting] = []
    as_it_should_be: int = 0
    """Objects that say what is wanted, are Assigned, and are not written."""

    @property
    def changes(self) -> bool:
        """Whether MIC would write anything here."""
        return bool(self.objects or self.updates)

    @property
    def notable(self) -> bool:
        """Whether there is more to tell than that all is well."""
        return self.changes or bool(self.kept or self.waiting or self.problem)


class LeftOut(ReportModel, frozen=True):
    """An object that MIC cannot act on, and of how many pods that keeps an identity."""

    kind: str
    name: str
    why: str
    pods: int


class Summary(ReportModel, frozen=True):
    """The whole in numbers."""

    objects: dict[str, int]
    """How many AzureAssignedIdentities there are of each of `VERBS`."""
    identities_added: int
    identities_removed: int
    hosts_changed: int
    hosts: int
    updates: int
    pods: int
    """Pods on nodes with the label of a binding, finished ones left out."""
    pods_as_they_should_be: int
    """Of those: they have all that MIC can give them already. Pods that nothing is bound to are not among them."""


class Preview(ReportModel, frozen=True):
    """All of it. `hosts` are in the order of their ids, what is in them in the order of names."""

    settings: dict[str, str]
    """Flags that decide what is done, where they differ from their defaults."""
    asked_azure: bool
    summary: Summary
    hosts: list[HostPreview]
    left_out: list[LeftOut]

    @property
    def changes(self) -> bool:
        """Whether MIC would write anything at all."""
        return any(host.changes for host in self.hosts)

    def shortened(self) -> "Preview":
        """Without the hosts where all is as it should be; the summary still counts them."""
        return msgspec.structs.replace(self, hosts=[host for host in self.hosts if host.notable])

    @property
    def unanswered(self) -> list[HostPreview]:
        """The hosts of which Azure was asked in vain."""
        return [host for host in self.hosts if host.problem]


def verb_of(change: ObjectChange) -> str:
    """The one of `VERBS` that says most about what happens to the object."""
    for verb, step in (("create", "create"), ("remove", "revoke"), ("remove", "release"), ("update", "update")):
        if step in change.steps:
            return verb
    return "assign" if change.was != change.becomes == ASSIGNED else "note"


def cut(text: str) -> str:
    """What somebody else said, as one line of at most MESSAGE_MAX characters and without credentials."""
    return redact(" ".join(text.split())[:MESSAGE_MAX])
