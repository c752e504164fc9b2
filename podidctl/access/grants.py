"""Identities of each pod by MIC's and NMI's own rules, and notes on them. Pure.

MIC's index of bindings (`mic.cluster.bindings`) returns the desired assignments, and NMI's `decide` returns whether it
serves an existing one. In managed mode NMI's rules alone count.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from mic.cluster.bindings import embedded_bindings
from mic.cluster.mirror_pods import MESSAGE as MIRROR_POD
from mic.decisions.assignments import DesiredAssignment, Key
from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.candidate_order import candidate_order
from nmi.identity.decide import Grant as NmiGrant
from nmi.identity.decide import decide
from nmi.identity.pods import facts
from nmi.policies import decision_policy
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import Grant, GrantState
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.daemons import MissingNmi
from podidctl.evaluation.federated import account_name
from podidctl.evaluation.pod import ANY_IDENTITY, CLIENT_ID_VARIABLE, assignments_of, sets_client_id
from podidctl.facts.model import Facts
from podidctl.report.text import grouped, listed, namespace_of
from podidentity.report import counted
from podidentity.resources import IdentityType

SERVED: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.LEFTOVER})
"""States in which NMI serves the identity, or will."""


def live_pods(facts: Facts) -> list[ReviewedPod]:
    """Return the pods that have not ended."""
    return [pod for pod in facts.pods if isinstance(pod, ReviewedPod) and not pod.finished]


def find_grants(case: ClusterCase) -> list[Grant]:
    """Return the grants of all pods that have not ended, sorted by pod and identity."""
    grants = _Grants(case)
    all_grants = [grant for pod in live_pods(case.facts) for grant in grants.of(pod)]
    all_grants += _by_service_account(all_grants, case.facts)
    return sorted(all_grants, key=lambda grant: (grant.pod, grant.identity))


class _Grants:
    """MIC's desired assignments and the objects that NMI decides by, by pod."""

    def __init__(self, case: ClusterCase) -> None:
        self._case = case
        self._policies = {
            node: decision_policy(configuration.settings)
            for node, configuration in [*case.by_node.items(), ("", case.usual)]
        }
        facts = case.facts
        self._served_by_bindings = case.managed or not facts.unread.keys().isdisjoint({"identities", "bindings"})
        """Whether what NMI serves without a desired assignment has a binding: NMI joins them itself, or MIC's desired
        assignments are not known."""
        self._desired = grouped((desired.pod.key, desired) for desired in _desired_assignments(case))
        self._assigned = grouped(
            ((assigned.spec.pod_namespace, assigned.spec.pod), assigned)
            for assigned in (() if case.managed else facts.assigned)
        )
        self._identities = {identity.key: identity for identity in facts.identities}
        self._bindings = grouped(
            ((binding.metadata.namespace, binding.spec.selector), binding)
            for binding in (facts.bindings if case.managed else ())
        )

    def of(self, pod: ReviewedPod) -> Iterator[Grant]:
        """Yield the grants of *pod* by bindings and by AzureAssignedIdentities."""
        served = self._served(pod)
        desired = {assignment.identity.key: assignment for assignment in self._desired[pod.key]}
        assigned = {
            assigned.spec.azure_identity_ref.key: "/".join(assigned.key)
            for assigned in self._assigned[pod.key]
            if assigned.metadata.deletion_timestamp is None
        }
        for key in desired.keys() | served.keys():
            binding = ""
            if key in desired:
                identity, binding = desired[key].identity, "/".join(desired[key].binding.key)
                state = GrantState.USABLE if key in served else GrantState.PENDING
            elif self._served_by_bindings:
                identity, state = served[key].identity, GrantState.USABLE
                binding = f"{identity.metadata.namespace}/{served[key].binding}"
            else:
                identity, state = served[key].identity, GrantState.LEFTOVER
            federated = identity.spec.type == IdentityType.FEDERATED
            if self._bypasses_nmi(pod):
                # The pod can request a token of its service account without NMI.
                state = GrantState.POSSIBLE if federated else GrantState.BYPASSED
            elif federated and not self._case.on(pod.spec.node_name).settings.federated_identities:
                state = GrantState.DISABLED
            yield Grant(
                pod="/".join(pod.key),
                identity="/".join(key),
                state=state,
                binding=binding,
                label=pod.binding_label,
                assigned_identity=assigned.get(key, ""),
                service_account=account_name(pod) if federated else "",
            )

    def _bypasses_nmi(self, pod: ReviewedPod) -> bool:
        if pod.spec.node_name in self._case.nodes_without_nmi or pod.spec.host_network:
            return True
        # NMI does not forward the requests of a mirror pod, whatever exception matches it.
        return bool(self._case.exempt(pod) and not pod.mirror)

    def _served(self, pod: ReviewedPod) -> dict[Key, AssignedIdentity]:
        """Return what NMI serves to *pod* if its requests reach NMI, by identity."""
        namespace, node = pod.metadata.namespace, pod.spec.node_name
        assigned = self._assigned[pod.key]
        bindings = self._bindings.get((namespace, pod.binding_label), ()) if pod.binding_label else ()
        if not node or not (assigned or bindings):
            return {}
        named = (self._identities.get((namespace, binding.spec.azure_identity)) for binding in bindings)
        identities = [identity for identity in named if identity is not None]
        policy = self._policies.get(node) or self._policies[""]
        pod_facts = facts(pod)
        return {
            assignment.identity.key: assignment
            for assignment in assignments_of(self._case.on(node).settings, pod, assigned, bindings, identities)
            if isinstance(decide(pod_facts, [assignment], ANY_IDENTITY, policy, {}), NmiGrant)
        }


def _desired_assignments(case: ClusterCase) -> Iterator[DesiredAssignment]:
    """Yield MIC's desired assignments: none in managed mode."""
    if case.managed:
        return
    embedded, hosts = embedded_bindings(case.existing_assignments), case.host_of_node
    # If nodes could not be read, a missing one is no reason to leave out its pods.
    any_node = "nodes" in case.facts.unread
    for pod in case.facts.pods:
        node = pod.spec.node_name
        if not any_node and node not in hosts:
            continue
        for desired in case.binding_index.all_desired(pod, embedded).values():
            if any_node or desired.identity_id is None or hosts[node] is not None:
                yield desired


def _by_service_account(grants: list[Grant], facts: Facts) -> Iterator[Grant]:
    """Yield the grants of pods without a binding whose service account has a grant of a federated identity: the
    federated credential on Azure names the service account, not the pod.
    """
    trusted = grouped((grant.service_account, grant.identity) for grant in grants if grant.service_account)
    had = {(grant.pod, grant.identity) for grant in grants}
    for pod in live_pods(facts):
        name = "/".join(pod.key)
        for identity in sorted(set(trusted[account_name(pod)])):
            if (name, identity) not in had:
                yield Grant(pod=name, identity=identity, state=GrantState.POSSIBLE, service_account=account_name(pod))


def pod_note(pod: ReviewedPod, grants: Sequence[Grant], missing: MissingNmi | None, *, explained: bool) -> str:
    """Return the note on *pod*, or an empty string. *missing*: why its node has no NMI; *explained*: whether bindings
    and identities could be read."""
    if not pod.binding_label:
        return ""
    if missing is not None and not missing.reaches_imds:
        return f"{missing.reason}, so {missing.effect}"
    if grants:
        return "; ".join(_notes(pod, [grant for grant in grants if grant.state in SERVED]))
    if pod.mirror:
        return MIRROR_POD
    if not pod.spec.node_name:
        return "it is not scheduled to a node yet"
    return "no binding gives it an identity" if explained else ""


def _notes(pod: ReviewedPod, served: Sequence[Grant]) -> Iterator[str]:
    namespace = pod.metadata.namespace
    foreign = [grant.identity for grant in served if namespace_of(grant.identity) != namespace]
    if foreign:
        yield f"another namespace gives it {listed(foreign)}"
    if len(served) > 1 and (sets := sets_client_id(pod)) is not True:
        several = counted(len(served), "identity", "identities")
        who = "no container sets" if sets is False else "a ConfigMap or a Secret (envFrom) may set"
        yield f"{several}, and {who} {CLIENT_ID_VARIABLE}{_choice(served, namespace)}"


def _choice(served: Sequence[Grant], namespace: str) -> str:
    """Return which identity a request gets that names none; "" with a leftover, whose binding the review does not
    name.
    """
    if any(grant.state is GrantState.LEFTOVER for grant in served):
        return ""
    first = min(served, key=lambda grant: _order(grant, namespace)).identity
    return f": a request that names none gets {first}"


def _order(grant: Grant, namespace: str) -> tuple[bool, str, str, str]:
    home, _, name = grant.identity.partition("/")
    return candidate_order(namespace, grant.binding.rpartition("/")[2], (home, name))
