"""Decisions: which identity a pod gets, and how long a request may wait for it. Excluded: the wait itself."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.decide import (
    MANAGED_HOLD_SECONDS,
    MIRROR_POD,
    Decision,
    DecisionPolicy,
    Exempt,
    Grant,
    PodFacts,
    Wait,
    decide,
)
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from podidentity.resources import ASSIGNED, BEHAVIOR_ANNOTATION, CREATED, OBJECT_ID_ANNOTATION, UNASSIGNED
from tests.support.nmi_objects import CLIENT_ID, OBJECT_ID, POD, REQUEST, RESOURCE, assigned, by, resource_id

POLICY = DecisionPolicy(max_hold_seconds=1000.0)
UNLABELLED = PodFacts("ns", "web", "uid-1", "")
OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"


def outcome(
    *identities: AssignedIdentity,
    pod: PodFacts = POD,
    request: TokenRequest = REQUEST,
    policy: DecisionPolicy = POLICY,
    object_ids: dict[str, str] | None = None,
) -> Decision:
    return decide(pod, identities, request, policy, object_ids or {})


def granted(decision: Decision) -> str:
    assert isinstance(decision, Grant), decision
    return decision.assigned.identity.metadata.name


def waits(decision: Decision) -> tuple[float, Reason]:
    assert isinstance(decision, Wait), decision
    return decision.seconds, decision.refusal.reason


def refused(decision: Decision) -> Reason:
    assert isinstance(decision, Refusal), decision
    return decision.reason


def test_a_pod_without_the_label_and_without_identities_is_refused_immediately() -> None:
    decision = outcome(pod=UNLABELLED)
    assert refused(decision) is Reason.NOTHING_ASSIGNED
    assert isinstance(decision, Refusal)
    assert decision.sentence == "Identity not found"


@pytest.mark.parametrize("request_", [REQUEST, by(SelectorKind.CLIENT_ID, OTHER_ID)], ids=["unspecified", "named"])
@pytest.mark.parametrize("identities", [(), (assigned(),), (assigned(status=CREATED),)], ids=["none", "one", "coming"])
def test_an_exempt_pod_is_recognised_before_any_other_check(
    identities: tuple[AssignedIdentity, ...], request_: TokenRequest
) -> None:
    for pod in (POD, UNLABELLED):
        exempt = msgspec.structs.replace(pod, exempt="exception ns/ex")
        assert outcome(*identities, pod=exempt, request=request_) == Exempt("exception ns/ex")
        assert not isinstance(outcome(*identities, pod=pod, request=request_), Exempt)


def test_a_pod_with_the_label_is_held() -> None:
    assert waits(outcome()) == (80.0, Reason.NO_MATCHING_IDENTITY)


def test_a_pod_without_the_label_but_with_an_identity_is_held() -> None:
    assert waits(outcome(assigned(), pod=UNLABELLED)) == (80.0, Reason.NO_MATCHING_IDENTITY)


@pytest.mark.parametrize(
    "left_over",
    [assigned(deleting=True), assigned(pod_uid="uid-0")],
    ids=["being-revoked", "its-namesake's"],
)
def test_a_pod_without_the_label_is_not_held_if_no_identity_can_arrive(left_over: AssignedIdentity) -> None:
    assert refused(outcome(left_over, pod=UNLABELLED)) is Reason.NOTHING_ASSIGNED


@pytest.mark.parametrize(
    "usable",
    [{"status": ASSIGNED}, {"status": ""}, {"pod_uid": "uid-1"}],
    ids=["assigned", "old-mic", "made-for-this-uid"],
)
def test_a_usable_identity_is_granted(usable: dict[str, Any]) -> None:
    assert granted(outcome(assigned(**usable))) == "id"


@pytest.mark.parametrize(
    "flaw",
    [
        {"status": UNASSIGNED},
        {"status": "assigned"},
        {"status": CREATED},
        {"deleting": True},
        {"deleting": True, "status": ""},
        {"selector": "other"},
        {"selector": "Web"},
        {"selector": ""},
        {"pod_uid": "uid-0"},
    ],
    ids=[
        "unassigned",
        "wrong-case",
        "created",
        "being-deleted",
        "being-deleted-old-mic",
        "other-selector",
        "selector-in-another-case",
        "no-selector",
        "made-for-another-uid",
    ],
)
def test_an_unusable_identity_is_never_granted(flaw: dict[str, Any]) -> None:
    assert isinstance(outcome(assigned(**flaw)), Wait)
    assert granted(outcome(assigned(**flaw), assigned("good", binding="z"))) == "good"


def test_an_empty_label_selects_no_binding() -> None:
    assert isinstance(outcome(assigned(selector=""), pod=UNLABELLED), Wait)


def test_a_created_assignment_is_given_more_time() -> None:
    assert waits(outcome(assigned(status=CREATED))) == (100.0, Reason.STILL_ASSIGNING)


def test_no_hold_exceeds_the_maximum() -> None:
    policy = DecisionPolicy(max_hold_seconds=45.0)
    assert waits(outcome(policy=policy))[0] == 45.0
    assert waits(outcome(assigned(status=CREATED), policy=policy))[0] == 45.0
    brief = DecisionPolicy(created_attempts=2, assigned_attempts=1, interval_seconds=3.0, max_hold_seconds=45.0)
    assert waits(outcome(policy=brief))[0] == 6.0
    assert waits(outcome(assigned(status=CREATED), policy=brief))[0] == 9.0


def test_a_request_without_an_id_gets_the_first_identity_by_binding_then_identity() -> None:
    identities = [
        assigned("c", binding="b2"),
        assigned("b", binding="b1"),
        assigned("a", binding="b1", status=CREATED),
        assigned("d", binding="b1"),
    ]
    assert granted(outcome(*identities)) == "b"
    assert granted(outcome(*reversed(identities))) == "b"


def test_an_identity_of_the_pods_namespace_comes_before_those_of_others_whatever_their_bindings_are_called() -> None:
    own = assigned("z", binding="z")
    foreign = assigned("a", binding="a", namespace="elsewhere", type_=1)
    assert granted(outcome(foreign, own)) == "z"
    assert granted(outcome(own, foreign)) == "z"
    assert granted(outcome(foreign, assigned("z", binding="z", deleting=True))) == "a", "it is still served alone"


def test_of_two_identities_with_one_client_id_that_of_the_pods_namespace_is_granted() -> None:
    own = assigned("z", binding="z")
    foreign = assigned("a", binding="a", namespace="elsewhere", type_=1)
    request = by(SelectorKind.CLIENT_ID, CLIENT_ID)
    assert granted(outcome(foreign, own, request=request)) == "z"
    coming = assigned("z", binding="z", status=CREATED)
    assert waits(outcome(foreign, coming, request=request))[1] is Reason.STILL_ASSIGNING


def test_while_an_identity_of_the_pods_namespace_is_being_assigned_none_of_another_is_granted_in_its_place() -> None:
    own = assigned("own", client_id=OTHER_ID, status=CREATED)
    foreign = assigned("foreign", namespace="elsewhere", type_=1)
    assert waits(outcome(foreign, own)) == (100.0, Reason.STILL_ASSIGNING)
    assert granted(outcome(foreign, own, request=by(SelectorKind.CLIENT_ID, CLIENT_ID))) == "foreign", "it is named"
    assert granted(outcome(foreign, assigned("own", status=UNASSIGNED))) == "foreign", "no identity is coming"


@pytest.mark.parametrize(
    "request_",
    [
        by(SelectorKind.CLIENT_ID, OTHER_ID),
        by(SelectorKind.CLIENT_ID, OTHER_ID.upper()),
        by(SelectorKind.RESOURCE_ID, resource_id("second")),
        by(SelectorKind.RESOURCE_ID, resource_id("SECOND").upper()),
        by(SelectorKind.OBJECT_ID, OBJECT_ID.upper()),
    ],
    ids=["client-id", "client-id-upper", "resource-id", "resource-id-upper", "object-id-upper"],
)
def test_a_request_with_an_id_gets_that_identity_in_any_case(request_: TokenRequest) -> None:
    second = assigned("second", client_id=OTHER_ID, annotations={OBJECT_ID_ANNOTATION: OBJECT_ID})
    assert granted(outcome(assigned("first"), second, request=request_)) == "second"


@pytest.mark.parametrize("selector", [SelectorKind.CLIENT_ID, SelectorKind.RESOURCE_ID])
def test_a_request_for_an_identity_that_is_not_there_is_held(selector: SelectorKind) -> None:
    decision = outcome(assigned(), request=by(selector, OTHER_ID))
    assert waits(decision) == (80.0, Reason.NO_MATCHING_IDENTITY)


def test_a_request_for_a_pending_identity_gets_no_other() -> None:
    coming = assigned("second", client_id=OTHER_ID, status=CREATED)
    decision = outcome(assigned("first"), coming, request=by(SelectorKind.CLIENT_ID, OTHER_ID))
    assert waits(decision) == (100.0, Reason.STILL_ASSIGNING)


@pytest.mark.parametrize("selector", [SelectorKind.CLIENT_ID, SelectorKind.OBJECT_ID])
def test_an_empty_id_selects_no_identity(selector: SelectorKind) -> None:
    nameless = assigned(client_id="")
    assert not isinstance(outcome(nameless, request=by(selector, "")), Grant)


def test_an_object_id_learnt_from_azure_selects_its_identity() -> None:
    decision = outcome(assigned(), request=by(SelectorKind.OBJECT_ID, OBJECT_ID), object_ids={CLIENT_ID: OBJECT_ID})
    assert granted(decision) == "id"


def test_an_unknown_object_id_is_refused_immediately() -> None:
    decision = outcome(assigned(), request=by(SelectorKind.OBJECT_ID, OBJECT_ID), object_ids={CLIENT_ID: "another"})
    assert refused(decision) is Reason.UNKNOWN_OBJECT_ID


@pytest.mark.parametrize(
    ("present", "seconds"),
    [((), 80.0), ((assigned(status=CREATED),), 100.0), ((assigned(), assigned("b", status=CREATED)), 100.0)],
    ids=["nothing-yet", "one-coming", "one-there-one-coming"],
)
def test_a_request_by_object_id_is_held_while_an_identity_may_still_arrive(
    present: tuple[AssignedIdentity, ...], seconds: float
) -> None:
    decision = outcome(*present, request=by(SelectorKind.OBJECT_ID, OBJECT_ID))
    assert waits(decision) == (seconds, Reason.UNKNOWN_OBJECT_ID)


@pytest.mark.parametrize(
    ("policy", "annotations"),
    [
        (DecisionPolicy(force_namespaced=True), None),
        (POLICY, {BEHAVIOR_ANNOTATION: "namespaced"}),
        (POLICY, {BEHAVIOR_ANNOTATION: "Namespaced"}),
    ],
    ids=["by-flag", "by-annotation", "by-annotation-in-another-case"],
)
def test_a_namespaced_identity_serves_its_own_namespace_only(
    policy: DecisionPolicy, annotations: dict[str, str] | None
) -> None:
    own = assigned("own", binding="b", annotations=annotations)
    foreign = assigned("foreign", binding="a", namespace="elsewhere", annotations=annotations)
    assert granted(outcome(foreign, own, policy=policy)) == "own"
    assert refused(outcome(foreign, policy=policy)) is Reason.NO_MATCHING_IDENTITY


@pytest.mark.parametrize("odd", ["namespace", "own_namespace", "binding_namespace"])
def test_a_federated_identity_is_granted_only_if_all_its_objects_are_in_the_pods_namespace(odd: str) -> None:
    home = {"namespace": "ns", "own_namespace": "ns", "binding_namespace": "ns"}
    assert granted(outcome(assigned(type_=3, **home))) == "id"
    assert refused(outcome(assigned(type_=3, **home | {odd: "elsewhere"}))) is Reason.NO_MATCHING_IDENTITY
    assert granted(outcome(assigned(type_=0, **home | {odd: "elsewhere"}))) == "id"


def test_without_that_rule_an_identity_of_another_namespace_is_granted() -> None:
    assert granted(outcome(assigned(namespace="elsewhere"))) == "id"
    assert granted(outcome(assigned(namespace="elsewhere", annotations={BEHAVIOR_ANNOTATION: "anything"}))) == "id"


NAMES = st.sampled_from(["a", "b", "c"])
BINDINGS = st.sampled_from(["x", "y"])
CLIENTS = st.sampled_from([CLIENT_ID, OTHER_ID])
FLAWS: list[dict[str, Any]] = [
    {"pod_uid": "uid-0"},
    {"selector": "Web"},
    {"selector": "other"},
    {"selector": ""},
    {"status": CREATED},
    {"status": UNASSIGNED},
    {"deleting": True},
    {"namespace": "elsewhere"},
    {"namespace": "elsewhere", "annotations": {BEHAVIOR_ANNOTATION: "namespaced"}},
    {"namespace": "elsewhere", "type_": 3},
]


def with_one_flaw(name: str, client_id: str, binding: str, flaw: dict[str, Any]) -> AssignedIdentity:
    return assigned(name, client_id=client_id, binding=binding, **flaw)


# Of arbitrary identities few are granted, which would test little.
FLAWLESS = st.builds(assigned, NAMES, client_id=CLIENTS, binding=BINDINGS, pod_uid=st.sampled_from([None, "uid-1"]))
WITH_ONE_FLAW = st.builds(with_one_flaw, NAMES, CLIENTS, BINDINGS, st.sampled_from(FLAWS))
ARBITRARY = st.builds(
    assigned,
    NAMES,
    binding=BINDINGS,
    selector=st.sampled_from(["web", "Web", "other", ""]),
    status=st.sampled_from([ASSIGNED, "", CREATED, UNASSIGNED, "Nonsense"]),
    client_id=st.sampled_from([CLIENT_ID, CLIENT_ID.upper(), OTHER_ID, ""]),
    pod_uid=st.sampled_from([None, "uid-1", "uid-0"]),
    deleting=st.booleans(),
    namespace=st.sampled_from(["ns", "elsewhere"]),
    annotations=st.sampled_from([None, {BEHAVIOR_ANNOTATION: "namespaced"}, {OBJECT_ID_ANNOTATION: OBJECT_ID}]),
)
IDENTITIES = FLAWLESS | WITH_ONE_FLAW | ARBITRARY
REQUESTS = st.one_of(
    st.just(REQUEST),
    st.builds(
        TokenRequest,
        st.just(RESOURCE),
        st.sampled_from([SelectorKind.CLIENT_ID, SelectorKind.OBJECT_ID, SelectorKind.RESOURCE_ID]),
        st.sampled_from([CLIENT_ID, OTHER_ID, OBJECT_ID, resource_id("a"), "nothing"]),
    ),
)
LABELS = st.sampled_from(["web"] * 4 + ["other", ""])
PODS = st.builds(PodFacts, st.just("ns"), st.just("web"), st.just("uid-1"), LABELS)
POLICIES = st.builds(DecisionPolicy, force_namespaced=st.booleans(), max_hold_seconds=st.sampled_from([0.0, 45.0]))
OBJECT_IDS = st.sampled_from([{}, {CLIENT_ID: OBJECT_ID}, {OTHER_ID: OBJECT_ID}])


AT_LEAST_ONE_FLAW = st.builds(lambda flawed, others: [flawed, *others], WITH_ONE_FLAW, st.lists(IDENTITIES, max_size=4))


@given(PODS, AT_LEAST_ONE_FLAW, REQUESTS, POLICIES, OBJECT_IDS)
def test_only_the_pods_own_identities_are_granted(
    pod: PodFacts,
    identities: list[AssignedIdentity],
    request: TokenRequest,
    policy: DecisionPolicy,
    object_ids: dict[str, str],
) -> None:
    decision = decide(pod, identities, request, policy, object_ids)
    if isinstance(decision, Wait):
        assert 0.0 <= decision.seconds <= policy.max_hold_seconds
    if not isinstance(decision, Grant):
        return
    chosen = decision.assigned
    assert chosen in identities
    assert chosen.status in {"", ASSIGNED}
    assert not chosen.deleting
    assert pod.label
    assert chosen.selector == pod.label
    assert chosen.pod_uid in {"", pod.uid}
    if policy.force_namespaced or chosen.identity.namespaced:
        assert chosen.identity.metadata.namespace == pod.namespace
    spec, wanted = chosen.identity.spec, request.selector_value.lower()
    match request.selector:
        case SelectorKind.CLIENT_ID:
            assert spec.client_id.lower() == wanted
        case SelectorKind.RESOURCE_ID:
            assert spec.resource_id.lower() == wanted
        case SelectorKind.OBJECT_ID:
            annotated = chosen.identity.metadata.annotation(OBJECT_ID_ANNOTATION).lower()
            assert wanted in {annotated, object_ids.get(spec.client_id.lower(), "")}


def order(assigned: AssignedIdentity) -> tuple[object, ...]:
    return assigned.binding, assigned.identity.key


@given(
    pod=PODS,
    identities=st.lists(IDENTITIES, max_size=5),
    request=REQUESTS,
    policy=POLICIES,
    object_ids=OBJECT_IDS,
    random=st.randoms(use_true_random=False),
)
def test_the_arrival_order_of_identities_does_not_matter(
    *,
    pod: PodFacts,
    identities: list[AssignedIdentity],
    request: TokenRequest,
    policy: DecisionPolicy,
    object_ids: dict[str, str],
    random: Any,
) -> None:
    shuffled = list(identities)
    random.shuffle(shuffled)
    one = decide(pod, identities, request, policy, object_ids)
    other = decide(pod, shuffled, request, policy, object_ids)
    if isinstance(one, Grant) and isinstance(other, Grant):
        assert order(one.assigned) == order(other.assigned)
    else:
        assert one == other


OWN = st.builds(assigned, NAMES, client_id=CLIENTS, binding=BINDINGS, status=st.sampled_from([ASSIGNED, CREATED]))
FOREIGN = st.builds(
    assigned, NAMES, client_id=CLIENTS, binding=BINDINGS, namespace=st.just("elsewhere"), type_=st.sampled_from([0, 1])
)


@given(PODS, st.lists(OWN, min_size=1, max_size=3), st.lists(FOREIGN, min_size=1, max_size=3), REQUESTS, OBJECT_IDS)
def test_identities_of_another_namespace_replace_none_of_the_pods_own(
    pod: PodFacts,
    own: list[AssignedIdentity],
    foreign: list[AssignedIdentity],
    request: TokenRequest,
    object_ids: dict[str, str],
) -> None:
    alone = decide(pod, own, request, POLICY, object_ids)
    if isinstance(alone, Grant) or (isinstance(alone, Wait) and alone.refusal.reason is Reason.STILL_ASSIGNING):
        assert decide(pod, [*foreign, *own], request, POLICY, object_ids) == alone


@given(PODS, st.lists(IDENTITIES, max_size=5), REQUESTS, POLICIES, IDENTITIES)
def test_a_foreign_identity_changes_nothing_that_is_granted(
    pod: PodFacts,
    identities: list[AssignedIdentity],
    request: TokenRequest,
    policy: DecisionPolicy,
    other: AssignedIdentity,
) -> None:
    if other.pod_uid in {"", pod.uid} and not other.deleting:
        return
    assert decide(pod, identities, request, policy, {}) == decide(pod, [*identities, other], request, policy, {})


def test_managed_mode_waits_only_for_the_watch() -> None:
    seconds, reason = waits(outcome(policy=DecisionPolicy(managed=True)))
    assert (seconds, reason) == (MANAGED_HOLD_SECONDS, Reason.NO_MATCHING_IDENTITY)
    assert waits(outcome(policy=DecisionPolicy(managed=True, max_hold_seconds=0.5)))[0] == 0.5
    assert waits(outcome(policy=DecisionPolicy(managed=False)))[0] == 45.0


@pytest.mark.parametrize("exempt", ["", "exception ns/ex", "MIC"])
def test_a_mirror_pod_gets_no_identity_whatever_is_assigned_to_it_or_exempts_it(exempt: str) -> None:
    mirror = msgspec.structs.replace(POD, mirror=True, exempt=exempt)
    decision = outcome(assigned(), pod=mirror)
    assert decision is MIRROR_POD
    assert not isinstance(outcome(assigned(), pod=msgspec.structs.replace(mirror, mirror=False)), Refusal)


class CountedText(str):
    """A text that counts its conversions."""

    __slots__ = ()
    conversions = 0

    @override
    def lower(self) -> str:
        CountedText.conversions += 1
        return super().lower()

    @override
    def casefold(self) -> str:
        CountedText.conversions += 1
        return super().casefold()

    @override
    def upper(self) -> str:
        CountedText.conversions += 1
        return super().upper()


@pytest.mark.parametrize("selector", [each for each in SelectorKind if each is not SelectorKind.NONE])
def test_the_id_of_a_request_is_converted_once_for_all_identities_of_the_pod(
    selector: SelectorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedText, "conversions", 0)
    outcome(*(assigned(f"id-{number}") for number in range(256)), request=by(selector, CountedText("A" * 3900)))
    assert CountedText.conversions == 1
