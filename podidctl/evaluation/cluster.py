"""The cluster's state with what follows from it by the daemons' own rules. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from mic.cluster.bindings import BindingIndex, indexed
from mic.decisions.assignments import ExistingAssignment
from podidctl.evaluation.daemons import exemption_reasons
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import ClusterState, NmiConfiguration, Objects, ReadFailure, readable
from podidctl.facts.settings import is_managed, is_namespaced, readable_configurations
from podidentity.resources import Pod

T = TypeVar("T")


class UnreadError(Exception):
    """A check needs a part of the state that could not be read. A check raises it before its first finding."""

    def __init__(self, check: str, failure: ReadFailure) -> None:
        super().__init__(failure.why)
        self.check = check
        self.failure = failure


class ClusterCase:
    """The state, and the values that several checks derive from it."""

    def __init__(self, facts: ClusterState) -> None:
        self.facts = facts
        self.nmi: Sequence[Daemon] = readable(facts.nmi)
        self.mic: Sequence[Daemon] = readable(facts.mic)

    def read(self, check: str, value: T | ReadFailure) -> T:
        """Return *value*, a part of the state. Raise UnreadError with the name of the *check* if it was not read."""
        if isinstance(value, ReadFailure):
            raise UnreadError(check, value)
        return value

    @property
    def objects(self) -> Objects:
        """The objects. Raises UnreadError."""
        return self.read("objects", self.facts.objects)

    @property
    def readable_objects(self) -> Objects:
        """The objects, or none if they could not be read."""
        return self.facts.objects if isinstance(self.facts.objects, Objects) else Objects()

    @property
    def now(self) -> datetime:
        """Time of the reads by the API server's clock."""
        return self.facts.server_time

    @cached_property
    def configurations(self) -> Sequence[NmiConfiguration]:
        """The configurations of the NMIs whose flags can be read."""
        return readable_configurations(self.nmi)

    @cached_property
    def managed(self) -> bool:
        """Whether all these NMIs run in managed mode."""
        return is_managed(self.nmi)

    @cached_property
    def force_namespaced(self) -> bool:
        """Whether a flag of NMI or MIC restricts identities to their own namespace."""
        return is_namespaced(self.nmi, self.mic)

    @property
    def namespaced(self) -> bool:
        """Whether bindings serve their own namespace only."""
        return self.managed or self.force_namespaced

    @cached_property
    def existing_assignments(self) -> Sequence[ExistingAssignment]:
        """The AzureAssignedIdentities that are not being deleted. Raises UnreadError."""
        return [each for each in map(ExistingAssignment, self.objects.assigned) if not each.terminating]

    @cached_property
    def bindings(self) -> BindingIndex:
        """MIC's index of the bindings, with the assignments that pods need. Raises UnreadError."""
        return indexed(
            self.objects.identities,
            self.objects.bindings,
            self.existing_assignments,
            force_namespaced=self.namespaced,
        )

    @cached_property
    def exempt(self) -> Callable[[Pod], str]:
        """Return why a pod is exempt (`MIC`, `exception namespace/name`), or an empty string."""
        return exemption_reasons([each.settings for each in self.configurations], self.readable_objects.exceptions)
