"""Identities of each pod by MIC's and NMI's own rules. Pure.

MIC's index of bindings (`mic.cluster.bindings`) returns the desired assignments, and NMI's `decide` returns whether it
serves an existing one. In managed mode NMI's rules alone count.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from mic.cluster.bindings import BindingIndex, embedded_bindings, indexed
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment, Key
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.decide import Grant as NmiGrant
from nmi.identity.decide import decide
from nmi.identity.pods import facts
from nmi.policies import decision_policy
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import DaemonRules, nodes_without_nmi
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import Grant, GrantState
from podidctl.evaluation.federated import account_name
from podidctl.evaluation.pod import ANY_IDENTITY, assignments_of
from podidctl.facts.model import DiagnosisInput, ReadFailure, readable
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, IdentityType

PodKey: TypeAlias = Key


def live_pods(objects: ClusterObjects) -> list[ReviewedPod]:
    """Return the pods that have not ended."""
    return [each for each in readable(objects.pods) if not each.finished]


def binding_index(objects: ClusterObjects, rules: DaemonRules) -> BindingIndex:
    """Return MIC's index of the bindings."""
    return indexed(
        readable(objects.identities),
        readable(objects.bindings),
        _active(objects),
        force_namespaced=rules.force_namespaced,
    )


def desired_assignments(
    objects: ClusterObjects, rules: DaemonRules, index: BindingIndex
) -> Iterator[DesiredAssignment]:
    """Yield MIC's desired assignments: none in managed mode."""
    if rules.managed:
        return
    embedded = embedded_bindings(_active(objects))
    hosts = {each.metadata.name: parse_provider_id(each.spec.provider_id) for each in readable(objects.nodes)}
    any_node = isinstance(objects.nodes, ReadFailure)
    for pod in readable(objects.pods):
        node = pod.spec.node_name
        if not any_node and node not in hosts:
            continue
        for desired in index.all_desired(pod, embedded).values():
            if any_node or desired.identity_id is None or hosts[node] is not None:
                yield desired


def find_grants(objects: ClusterObjects, rules: DaemonRules, index: BindingIndex) -> list[Grant]:
    """Return the grants of all pods that have not ended, sorted by pod and identity."""
    desired: defaultdict[PodKey, list[DesiredAssignment]] = defaultdict(list)
    for each in desired_assignments(objects, rules, index):
        desired[each.pod.key].append(each)
    served = _Served(objects, rules)
    explained = not any(isinstance(each, ReadFailure) for each in (objects.identities, objects.bindings))
    without = nodes_without_nmi(objects)
    found = [
        grant
        for pod in live_pods(objects)
        for grant in _of_pod(
            pod,
            desired.get(pod.key, ()),
            served,
            rules,
            explained=explained or rules.managed,
            has_nmi=pod.spec.node_name not in without,
        )
    ]
    found += _by_service_account(found, objects)
    return sorted(found, key=lambda each: (each.pod, each.identity))


def _of_pod(
    pod: ReviewedPod,
    desired: Iterable[DesiredAssignment],
    served: "_Served",
    rules: DaemonRules,
    *,
    explained: bool,
    has_nmi: bool,
) -> Iterator[Grant]:
    now = served.of(pod)
    existing = served.objects_of(pod)
    bypasses = not has_nmi or pod.spec.host_network or bool(rules.exempt(pod) and not pod.mirror)
    wanted = {each.identity.key: each for each in desired}
    for key in wanted.keys() | now.keys():
        assignment, present = wanted.get(key), now.get(key)
        if assignment is not None:
            identity, binding = assignment.identity, "/".join(assignment.binding.key)
            state = GrantState.USABLE if present is not None else GrantState.PENDING
        elif present is not None:
            identity = present.identity
            by_binding = explained if rules.managed else not explained
            state = GrantState.USABLE if by_binding else GrantState.LEFTOVER
            binding = f"{identity.metadata.namespace}/{present.binding}" if by_binding else ""
        else:
            continue
        federated = identity.spec.type == IdentityType.FEDERATED
        if bypasses:
            # The pod can request a token of its service account without NMI.
            state = GrantState.POSSIBLE if federated else GrantState.BYPASSED
        elif federated and not rules.on(pod.spec.node_name).settings.federated_identities:
            state = GrantState.DISABLED
        yield Grant(
            pod="/".join(pod.key),
            identity="/".join(key),
            state=state,
            binding=binding,
            label=pod.binding_label,
            assigned_identity="/".join(existing[key]) if key in existing else "",
            service_account=account_name(pod) if federated else "",
        )


class _Served:
    """Identities that NMI serves, by pod."""

    def __init__(self, objects: ClusterObjects, rules: DaemonRules) -> None:
        self._rules = rules
        self._policies = {
            node: decision_policy(each.settings) for node, each in [*rules.by_node.items(), ("", rules.usual)]
        }
        self._assigned: defaultdict[PodKey, list[AzureAssignedIdentity]] = defaultdict(list)
        for each in () if rules.managed else readable(objects.assigned):
            self._assigned[each.spec.pod_namespace, each.spec.pod].append(each)
        self._identities = {each.key: each for each in readable(objects.identities)}
        self._bindings: defaultdict[tuple[str, str], list[AzureIdentityBinding]] = defaultdict(list)
        for binding in readable(objects.bindings) if rules.managed else ():
            self._bindings[binding.metadata.namespace, binding.spec.selector].append(binding)

    def objects_of(self, pod: ReviewedPod) -> dict[Key, Key]:
        """Return the names of the AzureAssignedIdentities of *pod* that are not being deleted, by identity."""
        return {
            each.spec.azure_identity_ref.key: each.key
            for each in self._assigned.get(pod.key, ())
            if each.metadata.deletion_timestamp is None
        }

    def of(self, pod: ReviewedPod) -> dict[Key, AssignedIdentity]:
        """Return what NMI serves to *pod* if its requests reach NMI, by identity."""
        assigned = self._assigned.get(pod.key, ())
        bindings = self._bindings.get((pod.metadata.namespace, pod.binding_label), ()) if pod.binding_label else ()
        node = pod.spec.node_name
        if not node or not (assigned or bindings):
            return {}
        data = DiagnosisInput(
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            configuration=self._rules.on(node),
            pod=pod,
            assigned=tuple(assigned),
            bindings=tuple(bindings),
            identities=tuple(self._named(bindings)),
        )
        policy = self._policies.get(node) or self._policies[""]
        pod_facts = facts(pod)
        return {
            each.identity.key: each
            for each in assignments_of(data, pod)
            if isinstance(decide(pod_facts, [each], ANY_IDENTITY, policy, {}), NmiGrant)
        }

    def _named(self, bindings: Iterable[AzureIdentityBinding]) -> Iterator[AzureIdentity]:
        for key in {(each.metadata.namespace, each.spec.azure_identity) for each in bindings}:
            if (identity := self._identities.get(key)) is not None:
                yield identity


def _by_service_account(found: list[Grant], objects: ClusterObjects) -> Iterator[Grant]:
    """Yield the grants of pods without a binding whose service account has a grant of a federated identity: the
    federated credential on Azure names the service account, not the pod.
    """
    trusted: defaultdict[str, set[str]] = defaultdict(set)
    for each in found:
        if each.service_account:
            trusted[each.service_account].add(each.identity)
    if not trusted:
        return
    had = {(each.pod, each.identity) for each in found}
    for pod in live_pods(objects):
        name = "/".join(pod.key)
        for identity in sorted(trusted.get(account_name(pod), ())):
            if (name, identity) not in had:
                yield Grant(pod=name, identity=identity, state=GrantState.POSSIBLE, service_account=account_name(pod))


def _active(objects: ClusterObjects) -> list[ExistingAssignment]:
    return [each for each in map(ExistingAssignment, readable(objects.assigned)) if not each.terminating]
