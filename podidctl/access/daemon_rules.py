"""Rules by which NMI and MIC decide in this cluster: their flags, and the exempt pods. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from nmi.settings import Settings
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.schema import Rules
from podidctl.evaluation.daemons import MissingNmi, exemption_reasons, missing_nmi
from podidctl.facts.kinds import Daemon
from podidctl.facts.model import NmiConfiguration, readable
from podidctl.facts.settings import (
    NO_NODE,
    genuine_mic,
    genuine_nmi,
    is_managed,
    is_namespaced,
    readable_configurations,
)
from podidentity.resources import Pod


@dataclass(frozen=True, slots=True)
class DaemonRules:
    """The rules."""

    by_node: Mapping[str, NmiConfiguration]
    usual: NmiConfiguration
    """For nodes whose NMI's flags are not known: those of the first known NMI, or else the defaults."""
    managed: bool
    force_namespaced: bool
    exempt: Callable[[Pod], str]
    """Return why a pod is exempt (`MIC`, `exception namespace/name`), or an empty string."""

    def on(self, node: str) -> NmiConfiguration:
        """Return the configuration of the NMI on *node*."""
        return self.by_node.get(node, self.usual)

    def shown(self) -> Rules:
        """Return the part of the report."""
        settings = [each.settings for each in self.by_node.values()] or [self.usual.settings]
        return Rules(
            mode="managed" if self.managed else "standard",
            force_namespaced=self.force_namespaced,
            federated_identities=any(each.federated_identities for each in settings),
            source=self.usual.source,
        )


def nmi_daemons(objects: ClusterObjects) -> tuple[Daemon, ...]:
    """Return the pods of NMI. The flags of a tenant's pod that is labelled like NMI must not change the review."""
    return tuple(genuine_nmi(readable(objects.nmi)))


def nodes_without_nmi(objects: ClusterObjects) -> dict[str, MissingNmi]:
    """Return the cause for each node without NMI: where it cannot run, and where it runs on other nodes only."""
    nmi = nmi_daemons(objects)
    there = {each.spec.node_name for each in nmi}
    ready = {each.spec.node_name for each in nmi if each.ready}
    return {
        node.metadata.name: missing_nmi(node, nmi)
        for node in readable(objects.nodes)
        if (node.metadata.name not in (there if node.can_run_nmi else ready)) and (nmi or not node.can_run_nmi)
    }


def mic_daemons(objects: ClusterObjects) -> tuple[Daemon, ...]:
    """Return the pods of MIC."""
    return tuple(genuine_mic(readable(objects.mic), nmi_daemons(objects)))


def daemon_rules(objects: ClusterObjects) -> DaemonRules:
    """Return the rules of the daemons in *objects*."""
    nmi, mic = _distinct(nmi_daemons(objects)), different(mic_daemons(objects))
    by_node: dict[str, NmiConfiguration] = {}
    for daemons in nmi:
        for found in readable_configurations(daemons[:1]):
            by_node |= {
                each.spec.node_name: replace(
                    found,
                    settings=msgspec.structs.replace(found.settings, node_name=each.spec.node_name),
                    source=f"the flags of pod {each.name}",
                )
                for each in daemons
            }
    defaults = NmiConfiguration(Settings(node_name=NO_NODE), "the defaults: no NMI pod has readable flags")
    first_nmi = [daemons[0] for daemons in nmi]
    return DaemonRules(
        by_node=by_node,
        usual=next(iter(by_node.values()), defaults),
        managed=is_managed(first_nmi),
        force_namespaced=is_namespaced(first_nmi, mic),
        exempt=exemption_reasons([each.settings for each in by_node.values()], readable(objects.exceptions)),
    )


def different(daemons: Sequence[Daemon]) -> list[Daemon]:
    """Return one of the scheduled daemons for each command line."""
    return [several[0] for several in _distinct(daemons)]


def _distinct(daemons: Sequence[Daemon]) -> list[list[Daemon]]:
    """Return the scheduled daemons in groups with the same command lines: parsing takes milliseconds."""
    groups: dict[bytes, list[Daemon]] = {}
    for each in daemons:
        if each.spec.node_name:
            key = msgspec.json.encode((each.metadata.namespace, each.spec.containers))
            groups.setdefault(key, []).append(each)
    return list(groups.values())
