"""On random small clusters the explanation equals the decision of NMI's real cluster cache, and every refusal has a
broken link that states the next action.
"""

import random
from typing import Any, cast

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.decide import Decision, Exempt, Grant, Wait, decide
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.policies import decision_policy
from podidctl.checks.explanation import explain
from podidctl.commands.token import predict
from podidctl.evaluation.pod import MANAGEMENT_RESOURCE, PodCase, PredictedDecision
from podidctl.facts.model import Facts, FederatedAccess, NmiConfiguration
from podidctl.report.documents import LinkState, Outcome
from podidentity.kube.client import Client
from podidentity.resources import NODENAME_LABEL, AzureIdentity, Pod, SecretReference, nodename_label
from tests.support.examples import examples
from tests.support.nmi_objects import NODE, REQUEST, assigned_identity, binding, exception, identity, pod
from tests.support.podidctl.prediction_inputs import NMI_ACCOUNT, WELL, decision_of, facts, labelled, rules

NAMESPACED = {"aadpodidentity.k8s.io/Behavior": "namespaced"}


def some(draw: random.Random, make: Any, most: int) -> tuple[Any, ...]:
    """A few of what *make* makes, no two of one key."""
    made = (make(draw) for _ in range(draw.randint(0, most)))
    return tuple({other.key: other for other in made}.values())


def a_pod(draw: random.Random, name: str = "web") -> Pod:
    return pod(
        name,
        uid=f"uid-{name}",
        label=draw.choice(("web",) * 6 + ("api", "", None)),
        addresses=draw.choice((("10.0.0.1",), ("10.0.0.1",), ("10.0.0.1", "fd00::1"), ())),
        phase=draw.choice(("Running",) * 6 + ("Succeeded", "Pending")),
        host_network=draw.random() < 0.05,
        deleting=draw.random() < 0.15,
        labels={"app": draw.choice("xy")},
    )


def kinds(draw: random.Random, made: AzureIdentity, *types: int) -> AzureIdentity:
    """*made* as a service principal may be, and with or without ids."""
    spec = msgspec.structs.replace(
        made.spec,
        type=draw.choice(types),
        tenant_id=draw.choice(("t", "t", "a/b")),
        client_password=draw.choice((None, SecretReference("s"), SecretReference("s"), SecretReference("s", "other"))),
        client_id=draw.choice((made.spec.client_id, made.spec.client_id, "")),
        resource_id=draw.choice((made.spec.resource_id, made.spec.resource_id, "")),
    )
    return msgspec.structs.replace(made, spec=spec)


def a_binding(draw: random.Random) -> Any:
    return binding(
        draw.choice("ab"),
        draw.choice(("id", "two", "none")),
        selector=draw.choice(("web", "web", "api", "")),
        namespace=draw.choice(("ns", "ns", "far")),
        deleting=draw.random() < 0.1,
    )


def an_identity(draw: random.Random) -> Any:
    made = identity(
        draw.choice(("id", "two")),
        namespace=draw.choice(("ns", "ns", "far")),
        annotations=draw.choice((None, None, NAMESPACED)),
        deleting=draw.random() < 0.1,
    )
    return kinds(draw, made, 0, 0, 1, 3, 7)


def an_assigned(draw: random.Random) -> Any:
    made = assigned_identity(
        draw.choice(("id", "two")),
        binding=draw.choice("ab"),
        selector=draw.choice(("web", "web", "api")),
        status=draw.choice(("Assigned", "Assigned", "", "Created", "Unassigned")),
        pod_uid=draw.choice((None, "uid-web", "uid-web", "uid-before")),
        namespace=draw.choice(("ns", "ns", "far")),
        annotations=draw.choice((None, None, NAMESPACED)),
        nodename=draw.choice((NODE, NODE, NODE, "", "node-2")),
        deleting=draw.random() < 0.1,
        own_namespace=draw.choice(("default", "ns", "far")),
    )
    embedded = kinds(draw, made.spec.azure_identity_ref, 0, 0, 0, 1, 3, 3)
    spec = msgspec.structs.replace(made.spec, azure_identity_ref=embedded)
    return labelled(msgspec.structs.replace(made, spec=spec), draw.choice((NODE, NODE, NODE, "node-2")))


def some_rules(draw: random.Random) -> NmiConfiguration:
    return rules(
        managed=draw.random() < 0.4,
        force_namespaced=draw.random() < 0.2,
        scale_features=draw.random() < 0.8,
        exception_namespaces=draw.choice(((), (), ("far",), ("ns",))),
        federated_identities=draw.random() < 0.8,
    )


def some_access(draw: random.Random, pod: Pod) -> FederatedAccess:
    account = pod.spec.service_account_name
    there = {pod.metadata.namespace: frozenset({account} if draw.random() < 0.5 else ())}
    return FederatedAccess(there, {NMI_ACCOUNT: (f"{pod.metadata.namespace}/{account}",) * (draw.random() < 0.5)})


def a_cluster(draw: random.Random) -> Facts:
    explained = a_pod(draw)
    others = [a_pod(draw, f"other-{number}") for number in range(draw.choice((0, 0, 0, 1, 2)))]
    same_address = tuple(
        other
        for other in others
        if not other.finished and not other.spec.host_network and set(other.addresses) & set(explained.addresses)
    )
    return facts(
        configuration=some_rules(draw),
        pod=explained,
        same_address_pods=same_address if not explained.spec.host_network else (),
        bindings=some(draw, a_binding, 6),
        identities=some(draw, an_identity, 6),
        assigned=some(draw, an_assigned, 4),
        exceptions=some(draw, lambda draw: exception(labels={"app": draw.choice("xyz")}), 1),
        federation=draw.choice((FederatedAccess(), WELL, WELL, some_access(draw, explained))),
    )


def as_nmi_has_it(cluster: Facts) -> Decision | None:
    """Return the decision of a cluster cache with this state; None if no address belongs to the pod.

    This function applies the selectors of the watches, which is the API server's task.
    """
    assert cluster.pod is not None
    case = PodCase(cluster, cluster.pod)
    its = case.settings
    cluster_cache = ClusterCache(
        cast("Client", None),
        (index := Index()),
        IdentityMetrics(CollectorRegistry()),
        node=NODE,
        managed=case.managed,
        scale_features=its.scale_features,
        mic_namespace=its.mic_namespace,
        exception_namespaces=its.exception_namespaces,
    )
    objects: dict[str, list[Any]] = {
        "pods": list(cluster.pods),
        "exceptions": list(cluster.exceptions),
        "bindings": list(cluster.bindings),
        "identities": list(cluster.identities),
        "assigned_identities": [
            assignment
            for assignment in cluster.assigned
            if not its.scale_features or assignment.metadata.label(NODENAME_LABEL) == nodename_label(NODE)
        ],
    }
    for name, informer in cluster_cache.watches.by_name.items():
        for item in objects[name]:
            informer.objects.handler.upserted(None, item)
    records = [index.get(address) for address in cluster.pod.addresses if not cluster.pod.spec.host_network]
    owners = [record.owner for record in records if record is not None]
    for entry in owners:
        if isinstance(entry, PodEntry) and entry.uid == cluster.pod.metadata.uid:
            return decide(entry.facts, entry.assigned, REQUEST, decision_policy(its), {})
    return None


def agrees(decision: PredictedDecision, nmi: Decision | None) -> bool:
    match nmi:
        case None:
            return decision.outcome is Outcome.UNSEEN
        case Grant(assigned):
            return decision.outcome is Outcome.GRANTED and decision.assigned == assigned
        case Exempt(reason):
            return (decision.outcome, decision.reason) == (Outcome.EXEMPT, reason)
        case Wait() as wait:
            predicted = (decision.seconds, decision.refusal, decision.in_progress)
            return decision.outcome is Outcome.WAITS and predicted == (wait.seconds, wait.refusal, wait.in_progress)
        case refusal:
            return (decision.outcome, decision.refusal) == (Outcome.REFUSED, refusal)


# In seed 142112 two assigned identities differ in nothing but their namespace and the embedded identity.
@example(142112)
@given(st.integers(0, 2**32))
@settings(max_examples=examples(1000), deadline=None)
def test_the_predicted_answer_equals_nmis(seed: int) -> None:
    cluster = a_cluster(random.Random(seed))
    decision = decision_of(cluster)
    if len(cluster.pods) == 1:  # otherwise a read settles whose the address is, and not the watches
        assert agrees(decision, as_nmi_has_it(cluster)), (decision, as_nmi_has_it(cluster))
    explanation = explain(cluster)
    prediction = predict(cluster, MANAGEMENT_RESOURCE)
    answer = explanation.answer
    assert (answer.outcome, answer.status) == (prediction.outcome, prediction.status)
    assert answer.outcome is decision.outcome or (decision.outcome, answer.outcome) == (
        Outcome.GRANTED,
        Outcome.REFUSED,
    )
    if answer.outcome in {Outcome.WAITS, Outcome.REFUSED, Outcome.UNSEEN}:
        assert explanation.broken
        assert explanation.next
    if answer.outcome is Outcome.GRANTED:
        served = {"assigned identity", "served"}
        assert any(link.link in served and link.state is not LinkState.BROKEN for link in explanation.links)


def test_the_random_clusters_reach_every_answer() -> None:
    outcomes = {decision_of(a_cluster(random.Random(seed))).outcome for seed in range(300)}
    assert outcomes == set(Outcome) - {Outcome.UNANSWERED}, "that one is not NMI's to say"
