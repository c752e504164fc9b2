"""The cluster's state with what follows from it by the daemons' own rules. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from mic.cluster.bindings import BindingIndex, indexed
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from nmi.identity.candidate_order import candidate_order
from nmi.settings import NmiSettings
from podidctl.evaluation.daemons import MissingNmi, exemption_reasons, missing_nmi
from podidctl.evaluation.pod import host_of
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import Facts, NmiConfiguration, ReadFailure, readable
from podidctl.facts.settings import NO_NODE, is_managed, is_namespaced, readable_configurations
from podidentity.azure.resource_ids import Host
from podidentity.resources import Pod

T = TypeVar("T")


class UnreadError(Exception):
    """A check needs a part of the state that could not be read. A check raises it before its first finding."""

    def __init__(self, check: str, failure: ReadFailure) -> None:
        super().__init__(failure.reason)
        self.check = check
        self.failure = failure


class ClusterCase:
    """The state, and the values that several checks derive from it. Objects that could not be read count as absent."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.nmi: Sequence[Daemon] = readable(facts.nmi)
        self.mic: Sequence[Daemon] = readable(facts.mic)

    @staticmethod
    def read(check: str, value: T | ReadFailure) -> T:
        """Return *value*, a part of the state. Raise UnreadError with the name of the *check* if it was not read."""
        if isinstance(value, ReadFailure):
            raise UnreadError(check, value)
        return value

    @property
    def objects(self) -> Facts:
        """The facts with all objects. Raises UnreadError if some could not be read."""
        # With a part of the objects, a check would report others as missing.
        for failure in self.facts.unread.values():
            raise UnreadError("objects", failure)
        return self.facts

    @property
    def now(self) -> datetime:
        """Time of the reads by the API server's clock."""
        return self.facts.server_time

    @cached_property
    def configurations(self) -> Sequence[NmiConfiguration]:
        """The configurations of the NMIs whose flags can be read."""
        return readable_configurations(self.nmi)

    @cached_property
    def by_node(self) -> Mapping[str, NmiConfiguration]:
        """These configurations, by node."""
        return {configuration.settings.node_name: configuration for configuration in self.configurations}

    @cached_property
    def usual(self) -> NmiConfiguration:
        """The configuration for nodes whose NMI's flags are not known: the first known one, or else the defaults."""
        defaults = NmiConfiguration(NmiSettings(node_name=NO_NODE), "the defaults: no NMI pod has readable flags")
        return next(iter(self.configurations), defaults)

    def on(self, node: str) -> NmiConfiguration:
        """Return the configuration of the NMI on *node*."""
        return self.by_node.get(node, self.usual)

    @cached_property
    def managed(self) -> bool:
        """Whether all these NMIs run in managed mode."""
        return is_managed(self.configurations)

    @cached_property
    def namespaced(self) -> bool:
        """Whether a flag of NMI or MIC restricts identities to their own namespace, which managed mode requires."""
        return is_namespaced(self.configurations, self.mic)

    @cached_property
    def host_of_node(self) -> Mapping[str, Host | None]:
        """The VM or scale set of each node; None if it is not known."""
        return {node.metadata.name: host_of(node) for node in self.facts.nodes}

    @cached_property
    def existing_assignments(self) -> Sequence[ExistingAssignment]:
        """The AzureAssignedIdentities that are not being deleted."""
        return [assignment for assignment in map(ExistingAssignment, self.facts.assigned) if not assignment.terminating]

    @cached_property
    def binding_index(self) -> BindingIndex:
        """MIC's index of the bindings, with the assignments that pods need."""
        facts = self.facts
        return indexed(facts.identities, facts.bindings, self.existing_assignments, force_namespaced=self.namespaced)

    @cached_property
    def exempt(self) -> Callable[[Pod], str]:
        """Return why a pod is exempt (`MIC`, `exception namespace/name`), or an empty string."""
        return exemption_reasons(
            [configuration.settings for configuration in self.configurations], self.facts.exceptions
        )

    @cached_property
    def nodes_without_nmi(self) -> Mapping[str, MissingNmi]:
        """The cause for each node without NMI: where it cannot run, and where it runs on other nodes only."""
        there = {daemon.spec.node_name for daemon in self.nmi}
        ready = {daemon.spec.node_name for daemon in self.nmi if daemon.ready}
        return {
            node.metadata.name: missing_nmi(node, self.nmi)
            for node in self.facts.nodes
            # Where NMI cannot run, its pod can exist but is never ready. Another check reports that no NMI exists.
            if (node.metadata.name not in (there if node.can_run_nmi else ready)) and (self.nmi or not node.can_run_nmi)
        }


def in_nmis_order(desired: Iterable[DesiredAssignment]) -> list[DesiredAssignment]:
    """Return the desired assignments of one pod; the first one serves requests that name no identity."""
    return sorted(
        desired,
        key=lambda its: candidate_order(its.pod.metadata.namespace, its.binding.metadata.name, its.identity.key),
    )
