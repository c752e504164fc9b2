"""Identities of each pod, and their paths. On random clusters they equal MIC's assignments and NMI's decisions."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mic.cluster.view import ClusterView
from mic.decisions.assignments import AssignmentKey
from podidctl.access.projections import ReviewedContainer, ReviewedPod
from podidctl.access.review import review
from podidctl.access.schema import AccessReview, GrantState
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.kinds import VariableSource
from podidctl.facts.model import Facts, ReadFailure
from podidctl.report.documents import Outcome
from podidentity.resources import ASSIGNED, CREATED, AzureAssignedIdentity, PodStatus
from tests.support.examples import examples
from tests.support.objects import assigned as assigned_identity
from tests.support.podidctl import doctor_inputs
from tests.support.podidctl.access.small_cluster import (
    READ_AT,
    VM,
    binding,
    exception,
    grants_of,
    identity,
    nmi,
    nmi_pod,
    node,
    owned_by,
    pod,
    pod_of,
    reviewed,
)
from tests.support.podidctl.prediction_inputs import decision_of


def one_pod(*, flags: tuple[str, ...] = (), assigned: str = ASSIGNED, kind: int = 0, **changes: Any) -> AccessReview:
    """A cluster with the pod shop/web, the identity shop/app and its binding; *assigned*: the object's status."""
    app = changes.pop("identity", identity("app", kind=kind))
    its = changes.pop("pod", web())
    existing = (assigned_identity(its, app, binding("app"), status=assigned),) if assigned else ()
    usual: dict[str, Any] = {
        "identities": (app,),
        "bindings": (binding("app"),),
        "assigned": existing,
        "pods": (its, nmi_pod("node-0")),
        "nodes": (node("node-0", VM),),
        "nmi": (nmi("node-0", *flags),),
        "azure": None,
    }
    return reviewed(**(usual | changes))


def state(access_review: AccessReview) -> GrantState | None:
    grant = grants_of(access_review, "shop/web").get("shop/app")
    return grant.state if grant is not None else None


def web(**changes: Any) -> ReviewedPod:
    return pod("web", label="app", **({"account": "web"} | changes))


EXEMPT = {"pod": web(labels={"app": "old"}), "exceptions": (exception(app="old"),)}
IN_HOST_NETWORK = {"pod": web(host_network=True)}
WITHOUT_HOST = (node("node-0", ""),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, GrantState.USABLE),
        ({"assigned": ""}, GrantState.PENDING),
        ({"assigned": CREATED}, GrantState.PENDING),
        ({"bindings": ()}, GrantState.LEFTOVER),
        ({"bindings": ReadFailure("not allowed")}, GrantState.USABLE),
        ({"assigned": "", "flags": ("--operation-mode=managed", "--forceNamespaced")}, GrantState.USABLE),
        ({"kind": 3, "flags": ("--federated-identities=false",)}, GrantState.DISABLED),
        (EXEMPT, GrantState.BYPASSED),
        (IN_HOST_NETWORK, GrantState.BYPASSED),
        ({**EXEMPT, "kind": 3}, GrantState.POSSIBLE),
        ({**IN_HOST_NETWORK, "kind": 3}, GrantState.POSSIBLE),
        ({"kind": 1, "nodes": WITHOUT_HOST}, GrantState.USABLE),
        ({"assigned": "", "bindings": (binding("app", selector="App"),)}, None),
    ],
)
def test_the_state_of_a_grant(changes: Any, expected: GrantState | None) -> None:
    assert state(one_pod(**changes)) is expected


def test_the_path_of_a_grant_is_complete() -> None:
    grant = grants_of(one_pod(), "shop/web")["shop/app"]
    assert (grant.binding, grant.label, grant.assigned_identity) == ("shop/app", "app", "default/web-shop-app")
    assert grant.service_account == ""
    assert grants_of(one_pod(bindings=()), "shop/web")["shop/app"].binding == ""
    other_selector = one_pod(assigned="", bindings=(binding("app", selector="App"),))
    assert pod_of(other_selector, "shop/web").note == "no binding gives it an identity"
    access_review = one_pod(assigned="", flags=("--operation-mode=managed", "--forceNamespaced"))
    assert grants_of(access_review, "shop/web")["shop/app"].binding == "shop/app"
    assert access_review.rules.mode == "managed"


def two_identities(namespace: str, *, variable: str = "", flags: tuple[str, ...] = ()) -> str:
    """The note on shop/web, which also gets the identity a/any through a binding whose name is the first."""
    more, its = identity("any", namespace), web(variable=variable)
    bindings = (binding("app"), binding("a", namespace, identity="any", selector="app"))
    access_review = one_pod(flags=flags, pod=its, identities=(identity("app"), more), bindings=bindings)
    return pod_of(access_review, "shop/web").note


def test_a_pod_with_an_identity_of_another_namespace_has_a_note_that_names_it_and_the_one_that_it_gets() -> None:
    assert two_identities("evil") == (
        "another namespace gives it evil/any; 2 identities, and no container sets AZURE_CLIENT_ID: a request that "
        "names none gets shop/app"
    )
    assert two_identities("evil", variable="AZURE_CLIENT_ID") == "another namespace gives it evil/any"
    assert two_identities("evil", flags=("--forceNamespaced",)) == ""
    assert two_identities("shop").endswith("a request that names none gets shop/any")
    assert two_identities("shop", variable="AZURE_CLIENT_ID") == ""


def test_the_note_names_the_first_identity_by_its_name_if_the_bindings_of_two_namespaces_have_one_name() -> None:
    identities = (identity("app", "two"), identity("app-b", "one"))
    bindings = tuple(
        binding("b", named.metadata.namespace, identity=named.metadata.name, selector="app") for named in identities
    )
    access_review = one_pod(assigned="", pod=pod("web", label="app"), identities=identities, bindings=bindings)
    assert pod_of(access_review, "shop/web").note.endswith("a request that names none gets two/app")


def test_a_note_says_what_is_not_known_and_names_no_identity_while_there_is_a_leftover() -> None:
    sidecar = ReviewedContainer(env_from=[VariableSource()])
    access_review = one_pod(
        pod=web(init_containers=[sidecar]),
        identities=(identity("app"), identity("any")),
        bindings=(binding("app"), binding("a", identity="any", selector="app")),
    )
    assert pod_of(access_review, "shop/web").note == (
        "2 identities, and a ConfigMap or a Secret (envFrom) may set AZURE_CLIENT_ID: a request that names none gets "
        "shop/any"
    )
    # NMI orders the leftover shop/app by its binding, app, which no longer exists.
    bindings = (binding("a", identity="new", selector="app"),)
    access_review = one_pod(identities=(identity("app"), identity("new")), bindings=bindings)
    assert {grant.state for grant in access_review.grants} == {GrantState.LEFTOVER, GrantState.PENDING}
    assert pod_of(access_review, "shop/web").note == "2 identities, and no container sets AZURE_CLIENT_ID"


def test_a_federated_identity_names_the_service_account_which_another_pod_may_have() -> None:
    copy, third = pod("copy", account="web"), pod("third", account="other")
    access_review = one_pod(kind=3, pods=(web(), copy, third))
    grant = grants_of(access_review, "shop/web")["shop/app"]
    assert (grant.state, grant.service_account) == (GrantState.USABLE, "shop/web")
    assert grants_of(access_review, "shop/copy")["shop/app"].state is GrantState.POSSIBLE
    assert grants_of(access_review, "shop/third") == {}


def test_the_workload_of_a_deployments_pod_is_the_deployment() -> None:
    hashed = web(owner=owned_by("ReplicaSet", "web-5d9f"), labels={"pod-template-hash": "5d9f"})
    assert pod_of(one_pod(pod=hashed), "shop/web").workload == "Deployment web"
    bare = web(owner=owned_by("StatefulSet", "db"))
    assert pod_of(one_pod(pod=bare), "shop/web").workload == "StatefulSet db"


def test_identities_and_bindings_count_pods_and_state_their_faults() -> None:
    access_review = one_pod(bindings=(binding("app"), binding("lost", identity="none")))
    assert [(binding.name, binding.pods, binding.problem) for binding in access_review.bindings] == [
        ("app", 1, ""),
        ("lost", 0, "there is no AzureIdentity shop/none"),
    ]
    (only,) = access_review.identities
    assert (only.pods, only.bindings) == (1, ["shop/app"])
    broken = one_pod(assigned="", identity=identity("app", resource_id="/subscriptions/typo"))
    assert "/subscriptions/typo" in broken.identities[0].problem
    assert pod_of(reviewed(), "kube-system/nmi-node-0").program == "nmi"


def test_a_pod_that_only_has_nmis_or_mics_label_does_not_change_the_rules() -> None:
    forged = doctor_inputs.nmi("--forceNamespaced", name="forged", node="node-9", namespace="shop", host_network=False)
    controller = doctor_inputs.mic("--forceNamespaced", name="forged-mic", namespace="shop")
    real = doctor_inputs.mic(name="mic", namespace="kube-system")
    access_review = one_pod(
        assigned="",
        pod=pod("web", "other", label="app"),
        nmi=(forged, nmi("node-0")),
        mic=(controller, real),
    )
    assert "shop/app" in grants_of(access_review, "other/web")
    assert access_review.rules.source == "the flags of pod kube-system/nmi-node-0"
    assert [program.program for program in access_review.programs] == ["MIC", "NMI"]


NAMESPACES, NAMES, NODES = ("shop", "ops"), ("a", "b"), ("node-0", "node-1", "node-2")


def some(draw: random.Random, make: Any, most: int) -> tuple[Any, ...]:
    """Some of what *make* makes, no two of one key."""
    made = (make(draw) for _ in range(draw.randint(most // 2, most)))
    return tuple({item.key: item for item in made}.values())


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
    with_address = PodStatus(phase=made.status.phase, pod_ip=f"10.0.0.{draw.randint(1, 250)}")
    return ReviewedPod(metadata=made.metadata, spec=made.spec, status=with_address)


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
    if not all(cluster[part] for part in ("pods", "identities", "bindings")):
        return None
    whose = draw.choice(cluster["pods"])
    through = draw.choice(
        [*(candidate for candidate in cluster["bindings"] if candidate.spec.selector == whose.binding_label), None]
    )
    through = through or draw.choice(cluster["bindings"])
    named = (through.metadata.namespace, through.spec.azure_identity)
    which = next(
        (candidate for candidate in cluster["identities"] if candidate.key == named), draw.choice(cluster["identities"])
    )
    status = draw.choice((ASSIGNED, ASSIGNED, CREATED, "Unassigned"))
    return assigned_identity(whose, which, through, status=status)


def a_cluster(seed: int) -> Facts:
    draw = random.Random(seed)
    parts: dict[str, Any] = {
        "pods": some(draw, a_pod, 10),
        "identities": some(draw, an_identity, 6),
        "bindings": some(draw, a_binding, 8),
    }
    written = (an_assignment(draw, parts) for _ in range(draw.randint(0, 8)))
    parts["assigned"] = tuple({assigned.key: assigned for assigned in written if assigned is not None}.values())
    flags = draw.choice(((), (), ("--forceNamespaced",), ("--operation-mode=managed", "--forceNamespaced")))
    return Facts(
        now=READ_AT,
        nodes=tuple(node(name, draw.choice((VM, ""))) for name in NODES[: draw.choice((2, 3, 3))]),
        exceptions=some(draw, lambda one: exception(one.choice(NAMESPACES), app=one.choice(NAMES)), 1),
        nmi=tuple(nmi(name, *flags) for name in NODES),
        **parts,
    )


def mics_assignments(objects: Facts, *, force_namespaced: bool) -> set[tuple[str, str]]:
    """Return the pairs of pod and identity that MIC's own state has as desired."""
    view = ClusterView(force_namespaced=force_namespaced)
    kinds: Any = ((view.nodes, objects.nodes), (view.identities, objects.identities), (view.bindings, objects.bindings))
    for changes, several in (*kinds, (view.assigned, objects.assigned), (view.pods, objects.pods)):
        for item in several:
            changes.upserted(None, item)
    pairs = set()
    for one in objects.pods:
        for other in objects.identities:
            assignment = view.assignment(AssignmentKey(*one.key, *other.key))
            if assignment is not None and assignment.desired is not None:
                pairs.add(("/".join(one.key), "/".join(other.key)))
    return pairs


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
@example(7)
def test_grants_by_a_binding_are_mics_desired_assignments(seed: int) -> None:
    objects = a_cluster(seed)
    rules = ClusterCase(objects)
    if rules.managed:
        return
    live = {"/".join(live_pod.key) for live_pod in objects.pods if not live_pod.finished}
    wanted = mics_assignments(objects, force_namespaced=rules.namespaced)
    by_binding = {(grant.pod, grant.identity) for grant in review(objects).grants if grant.binding}
    assert by_binding == {grant for grant in wanted if grant[0] in live}


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
@example(11)
@example(866)
def test_a_pod_has_a_usable_grant_if_and_only_if_nmi_grants_its_request(seed: int) -> None:
    objects = a_cluster(seed)
    rules, access_review = ClusterCase(objects), review(objects)
    for live_pod in objects.pods:
        data = Facts(
            scope=live_pod.key,
            configuration=rules.on(live_pod.spec.node_name),
            pods=(live_pod,),
            exceptions=tuple(one for one in objects.exceptions if one.key[0] == live_pod.key[0]),
            bindings=objects.bindings,
            identities=objects.identities,
            assigned=tuple(one for one in objects.assigned if (one.spec.pod_namespace, one.spec.pod) == live_pod.key),
        )
        name = "/".join(live_pod.key)
        usable = [one for one in access_review.grants if one.pod == name and one.state in SERVED]
        assert usable or not is_granted(data), name
        # One of its namespace that is being assigned makes a pod wait, and those of others are usable afterwards.
        settled = replace(data, assigned=tuple(one for one in data.assigned if one.status.status != CREATED))
        assert is_granted(settled) == bool(usable), (name, usable)


def is_granted(data: Facts) -> bool:
    return decision_of(data).outcome is Outcome.GRANTED


SERVED = {GrantState.USABLE, GrantState.LEFTOVER}
