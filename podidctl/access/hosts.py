"""Identities that are attached to each VM or scale set, and the objects that explain them. Pure.

Only Azure knows all of them. Without its response the list contains the ones that objects in the cluster show.

One of them is the cluster's own identity: the one in the cloud config, with which kubelets and MIC act. A pod that gets
it has their permissions, and MIC's are those to attach further identities.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mic.azure.identities import HostIdentities
from mic.cluster.hosts import NODE_PREFIX
from mic.decisions.assignments import ExistingAssignment, Key, user_assigned_id
from mic.preview.outcome import AzureReads
from podidctl.access.schema import AttachedIdentity, Explained, Grant, GrantState, Host
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.model import AzureState, Facts
from podidentity.azure.resource_ids import Host as AzureHost
from podidentity.azure.resource_ids import ScaleSet, id_key

NEED_HOST: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.BYPASSED})
"""States of grants by which MIC attaches the identity to the pod's host."""
CRITICAL: Final = (
    "is for the cluster's own identity, with the permissions of the kubelet and MIC; delete it, and give its pods "
    "another identity"
)


@dataclass(slots=True)
class _Place:
    """Facts about one host."""

    host: AzureHost | None
    nodes: set[str] = field(default_factory=set)
    pods: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By the identity's key: pods whose grant needs it."""
    assigned: set[str] = field(default_factory=set)
    """Keys of the identities in AzureAssignedIdentities."""
    expected: dict[str, str] = field(default_factory=dict)
    """Resource ids, by their key, that are attached as far as the cluster's objects show."""


def host_ids(hosts: Mapping[str, AzureHost | None], nodes: Iterable[str]) -> dict[str, str]:
    """Return the id of the host of each of *nodes*: the same text for all nodes of a scale set. A node without a known
    VM or scale set is a separate host. *hosts*: by node.
    """
    texts: dict[str, str] = {}
    for host in hosts.values():
        if host is not None:
            texts.setdefault(host.key, host.text)
    return {node: texts[host.key] if (host := hosts.get(node)) is not None else NODE_PREFIX + node for node in nodes}


def find_hosts(
    case: ClusterCase, ids: Mapping[str, str], node_of: Mapping[str, str], grants: Iterable[Grant]
) -> list[Host]:
    """Return the hosts, sorted by id. *ids*: those of hosts, by node; *node_of*: each pod's node."""
    identities = {"/".join(identity.key): identity for identity in case.facts.identities}
    by_id: dict[str, _Place] = {}
    for node, host_id in ids.items():
        by_id.setdefault(host_id, _Place(case.host_of_node.get(node))).nodes.add(node)
    for grant in grants:
        identity, place = identities.get(grant.identity), by_id.get(ids.get(node_of.get(grant.pod, ""), ""))
        attached = user_assigned_id(identity) if identity is not None else None
        if place is None or attached is None or grant.state not in NEED_HOST:
            continue
        place.pods[attached.key].add(grant.pod)
        # In the state PENDING, MIC may not have attached the identity yet.
        if grant.state is GrantState.USABLE:
            place.expected.setdefault(attached.key, attached.text)
    for existing in map(ExistingAssignment, case.facts.assigned):
        place = by_id.get(ids.get(existing.node, ""))
        if place is not None and existing.identity_id is not None:
            place.assigned.add(existing.identity_id.key)
            if existing.attached_by or existing.terminating:
                place.expected.setdefault(existing.identity_id.key, existing.identity_id.text)
    names: defaultdict[str, list[str]] = defaultdict(list)
    client_ids: dict[str, str] = {}
    for name, identity in sorted(identities.items()):
        if (attached := user_assigned_id(identity)) is not None:
            names[attached.key].append(name)
            client_ids.setdefault(attached.key, identity.spec.client_id)
    return [_shown(key, place, case.facts.azure, names, client_ids) for key, place in sorted(by_id.items())]


def _shown(
    host_id: str, place: _Place, azure: AzureState | None, names: Mapping[str, list[str]], client_ids: Mapping[str, str]
) -> Host:
    response = azure.responses.get(place.host.key) if azure is not None and place.host is not None else None
    identities = response if isinstance(response, HostIdentities) and not response.gone else None
    own = id_key(azure.own_identity) if azure is not None else ""
    attached = (
        {key: (identity.text, identity.client_id) for key, identity in identities.attached.items()}
        if identities is not None
        else {key: (text, client_ids.get(key, "")) for key, text in place.expected.items()}
    )
    problem = ""
    if azure is not None and place.host is not None and identities is None:
        reads = AzureReads(responses=azure.responses)
        problem = reads.problem(place.host.key) or "Azure does not know it"
    return Host(
        id=host_id,
        kind="node" if place.host is None else "scale set" if isinstance(place.host, ScaleSet) else "VM",
        nodes=sorted(place.nodes),
        read=identities is not None,
        problem=problem,
        system_assigned=identities.system_assigned if identities is not None else None,
        attached=[
            AttachedIdentity(
                resource_id=text,
                client_id=client_id,
                identities=names.get(key, []),
                explained=_explanation(place, key, own in {key, client_id.lower()} if own else False),
                pods=len(place.pods.get(key, ())),
            )
            for key, (text, client_id) in sorted(attached.items())
        ],
    )


def _explanation(place: _Place, key: str, is_own: bool) -> Explained:
    if is_own:  # MIC never detaches it, also after the last of its pods
        return Explained.CLUSTER
    if place.pods.get(key):
        return Explained.PODS
    return Explained.ASSIGNMENT if key in place.assigned else Explained.NOTHING


def identities_of_cluster(facts: Facts) -> set[Key]:
    """Return the AzureIdentities that are the cluster's own identity, as far as the cloud config and Azure show it."""
    if facts.azure is None or not facts.azure.own_identity:
        return set()
    own = id_key(facts.azure.own_identity)
    names = {own}
    for response in facts.azure.responses.values():
        for key, attached in response.attached.items() if isinstance(response, HostIdentities) else ():
            if own in {key, attached.client_id.lower()}:
                names |= {key, attached.client_id.lower()}
    # An AzureIdentity without a client id must not match an identity on Azure without one.
    names.discard("")
    return {
        identity.key
        for identity in facts.identities
        if identity.spec.client_id.strip().lower() in names
        or ((identity_id := user_assigned_id(identity)) is not None and identity_id.key in names)
    }
