"""On random small clusters the grants equal the desired assignments of MIC's own view and the decisions of NMI."""

import random
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mic.cluster.view import ClusterView
from mic.decisions.assignments import AssignmentKey
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import daemon_rules
from podidctl.access.projections import ReviewedPod
from podidctl.access.review import review
from podidctl.access.schema import Grant, GrantState
from podidctl.diagnosis.decision import Outcome, predict_decision
from podidctl.diagnosis.input import DiagnosisInput, readable
from podidentity.resources import ASSIGNED, CREATED, AzureAssignedIdentity, PodStatus
from tests.examples import examples
from tests.podidctl.access.small_cluster import (
    READ_AT,
    VM,
    assigned_identity,
    binding,
    exception,
    identity,
    nmi,
    node,
    pod,
)

NAMESPACES, NAMES, NODES = ("shop", "ops"), ("a", "b"), ("node-0", "node-1", "node-2")


def some(draw: random.Random, make: Any, most: int) -> tuple[Any, ...]:
    """Some of what *make* makes, no two of one key."""
    made = (make(draw) for _ in range(draw.randint(most // 2, most)))
    return tuple({each.key: each for each in made}.values())


def a_pod(draw: random.Random) -> ReviewedPod:
    made = pod(
        draw.choice("vwxyz"),
        draw.choice(NAMESPACES),
        label=draw.choice((*NAMES, *NAMES, "")),
        node=draw.choice((*NODES, *NODES, "")),
        account=draw.choice(NAMES),
        labels={"app": draw.choice(NAMES)},
        phase=draw.choice((*["Running"] * 6, "Failed")),
        mirror=draw.random() < 0.1,
        host_network=draw.random() < 0.1,
    )
    return ReviewedPod(metadata=made.metadata, spec=made.spec, status=with_address(draw, made))


def with_address(draw: random.Random, made: ReviewedPod) -> PodStatus:
    return PodStatus(phase=made.status.phase, pod_ip=f"10.0.0.{draw.randint(1, 250)}")


def an_identity(draw: random.Random) -> Any:
    spec = {"resource_id": "typo"} if draw.random() < 0.1 else {}
    kind = draw.choice((0, 0, 1, 3))
    namespaced = draw.random() < 0.2
    return identity(
        draw.choice(NAMES), draw.choice(NAMESPACES), kind, namespaced=namespaced, **(spec if kind == 0 else {})
    )


def a_binding(draw: random.Random) -> Any:
    where, name = draw.choice(NAMESPACES), draw.choice(("one", "two", "three"))
    return binding(name, where, identity=draw.choice((*NAMES, *NAMES, "none")), selector=draw.choice(NAMES))


def an_assignment(draw: random.Random, cluster: dict[str, Any]) -> AzureAssignedIdentity | None:
    if not all(cluster[each] for each in ("pods", "identities", "bindings")):
        return None
    whose = draw.choice(cluster["pods"])
    through = draw.choice([*(each for each in cluster["bindings"] if each.spec.selector == whose.binding_label), None])
    through = through or draw.choice(cluster["bindings"])
    named = (through.metadata.namespace, through.spec.azure_identity)
    which = next((each for each in cluster["identities"] if each.key == named), draw.choice(cluster["identities"]))
    return assigned_identity(whose, which, through, draw.choice((ASSIGNED, ASSIGNED, CREATED, "Unassigned")))


def a_cluster(seed: int) -> ClusterObjects:
    draw = random.Random(seed)
    parts: dict[str, Any] = {
        "pods": some(draw, a_pod, 10),
        "identities": some(draw, an_identity, 6),
        "bindings": some(draw, a_binding, 8),
    }
    written = (an_assignment(draw, parts) for _ in range(draw.randint(0, 8)))
    parts["assigned"] = tuple({each.key: each for each in written if each is not None}.values())
    flags = draw.choice(((), (), ("--forceNamespaced",), ("--operation-mode=managed", "--forceNamespaced")))
    return ClusterObjects(
        read_at=READ_AT,
        nodes=tuple(node(each, draw.choice((VM, ""))) for each in NODES[: draw.choice((2, 3, 3))]),
        exceptions=some(draw, lambda one: exception(one.choice(NAMESPACES), app=one.choice(NAMES)), 1),
        nmi=tuple(nmi(each, *flags) for each in NODES),
        **parts,
    )


def mics_assignments(objects: ClusterObjects, *, force_namespaced: bool) -> set[tuple[str, str]]:
    """Return the pairs of pod and identity that MIC's own state has as desired."""
    view = ClusterView(force_namespaced=force_namespaced)
    kinds: Any = ((view.nodes, objects.nodes), (view.identities, objects.identities), (view.bindings, objects.bindings))
    for changes, several in (*kinds, (view.assigned, objects.assigned), (view.pods, objects.pods)):
        for each in several:
            changes.upserted(None, each)
    found = set()
    for one in readable(objects.pods):
        for other in readable(objects.identities):
            assignment = view.assignment(AssignmentKey(*one.key, *other.key))
            if assignment is not None and assignment.desired is not None:
                found.add(("/".join(one.key), "/".join(other.key)))
    return found


def by_binding(grants: list[Grant]) -> set[tuple[str, str]]:
    return {(each.pod, each.identity) for each in grants if each.binding}


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
@example(7)
def test_grants_by_a_binding_are_mics_desired_assignments(seed: int) -> None:
    objects = a_cluster(seed)
    rules = daemon_rules(objects)
    if rules.managed:
        return
    live = {"/".join(each.key) for each in readable(objects.pods) if not each.finished}
    wanted = mics_assignments(objects, force_namespaced=rules.force_namespaced)
    assert by_binding(review(objects).grants) == {each for each in wanted if each[0] in live}


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
@example(11)
@example(866)
def test_a_pod_has_a_usable_grant_if_and_only_if_nmi_grants_its_request(seed: int) -> None:
    objects = a_cluster(seed)
    rules, found = daemon_rules(objects), review(objects)
    for each in readable(objects.pods):
        data = DiagnosisInput(
            namespace=each.metadata.namespace,
            name=each.metadata.name,
            configuration=rules.on(each.spec.node_name),
            pod=each,
            exceptions=tuple(one for one in readable(objects.exceptions) if one.key[0] == each.key[0]),
            bindings=readable(objects.bindings),
            identities=readable(objects.identities),
            assigned=tuple(
                one for one in readable(objects.assigned) if (one.spec.pod_namespace, one.spec.pod) == each.key
            ),
        )
        name = "/".join(each.key)
        usable = [one for one in found.grants if one.pod == name and one.state in SERVED]
        assert usable or not is_granted(data), name
        # One of its namespace that is being assigned makes a pod wait, and those of others are usable afterwards.
        settled = replace(data, assigned=tuple(one for one in data.assigned if one.status.status != CREATED))
        assert is_granted(settled) == bool(usable), (name, usable)


def is_granted(data: DiagnosisInput) -> bool:
    return predict_decision(data).outcome is Outcome.GRANTED


SERVED = {GrantState.USABLE, GrantState.LEFTOVER}
