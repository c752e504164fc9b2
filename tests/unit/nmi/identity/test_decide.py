"""Decisions: which identity a pod gets, and how long a request may wait for it. Excluded: the wait itself."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from typing_extensions import override

from nmi.identity.assigned_identity import AssignedIdentity
from nmi.identity.decide import BRIEF_HOLD_SECONDS, MIRROR_POD, DecisionPolicy, Exempt, Grant, PodFacts, Wait, decide
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from podidentity.resources import ASSIGNED, BEHAVIOR_ANNOTATION, CREATED, OBJECT_ID_ANNOTATION, UNASSIGNED
from podidentity.telemetry.logs import redacted
from tests.support.nmi_objects import CLIENT_ID, OBJECT_ID, OTHER_ID, POD, REQUEST, RESOURCE, assigned, by, resource_id

POLICY = DecisionPolicy(max_hold_seconds=1000.0)
UNLABELLED = PodFacts("ns", "web", "uid-1", "")
Outcome = str | Reason | tuple[float, Reason]
"""The name of the granted identity, the reason of a refusal, or how long a request waits until it."""


def outcome(*identities: AssignedIdentity, pod: PodFacts = POD, **inputs: Any) -> Outcome | Exempt:
    usual: dict[str, Any] = {"request": REQUEST, "policy": POLICY, "object_ids": {}}
    match decide(pod, identities, **usual | inputs):
        case Grant(assigned):
            return assigned.identity.metadata.name
        case Wait(seconds, refusal):
            return seconds, refusal.reason
        case Refusal(reason):
            return reason
        case exempt:
            return exempt


ONE, COMING = assigned(), assigned(status=CREATED)
SECOND = assigned("second", client_id=OTHER_ID, annotations={OBJECT_ID_ANNOTATION: OBJECT_ID})
WITHOUT_CLIENT_ID = replace(
    assigned("second"), identity=replace(SECOND.identity, spec=replace(SECOND.identity.spec, client_id=""))
)
FIRST_BY_BINDING = (
    assigned("c", binding="b2"),
    assigned("b", binding="b1"),
    assigned("a", binding="b1", status=CREATED),
    assigned("d", binding="b1"),
)
BY_OBJECT_ID = by(SelectorKind.OBJECT_ID, OBJECT_ID)
UP_TO_45 = DecisionPolicy(max_hold_seconds=45.0)
BRIEF = DecisionPolicy(created_attempts=2, assigned_attempts=1, interval_seconds=3.0, max_hold_seconds=45.0)
ABSENT, STILL, UNKNOWN = Reason.NO_MATCHING_IDENTITY, Reason.STILL_ASSIGNING, Reason.UNKNOWN_OBJECT_ID
DECISIONS: dict[str, tuple[Sequence[AssignedIdentity], dict[str, Any], Outcome]] = {
    "no label, no identity": ([], {"pod": UNLABELLED}, Reason.NOTHING_ASSIGNED),
    "no label, one being revoked": ([assigned(deleting=True)], {"pod": UNLABELLED}, Reason.NOTHING_ASSIGNED),
    "no label, one of a namesake": ([assigned(pod_uid="uid-0")], {"pod": UNLABELLED}, Reason.NOTHING_ASSIGNED),
    "no label, an identity": ([ONE], {"pod": UNLABELLED}, (80.0, ABSENT)),
    "an empty selector for an empty label": ([assigned(selector="")], {"pod": UNLABELLED}, (80.0, ABSENT)),
    "a label, no identity": ([], {}, (80.0, ABSENT)),
    "assigned": ([ONE], {}, "id"),
    "assigned by an old MIC": ([assigned(status="")], {}, "id"),
    "made for this uid": ([assigned(pod_uid="uid-1")], {}, "id"),
    "being assigned": ([COMING], {}, (100.0, STILL)),
    "the longest hold": ([], {"policy": UP_TO_45}, (45.0, ABSENT)),
    "the longest hold of one being assigned": ([COMING], {"policy": UP_TO_45}, (45.0, STILL)),
    "few attempts": ([], {"policy": BRIEF}, (6.0, ABSENT)),
    "few attempts for one being assigned": ([COMING], {"policy": BRIEF}, (9.0, STILL)),
    "managed mode": ([], {"policy": DecisionPolicy(managed=True)}, (BRIEF_HOLD_SECONDS, ABSENT)),
    "managed mode, short": ([], {"policy": DecisionPolicy(managed=True, max_hold_seconds=0.5)}, (0.5, ABSENT)),
    "without managed mode": ([], {"policy": DecisionPolicy(managed=False)}, (45.0, ABSENT)),
    "the first by binding, then identity": (FIRST_BY_BINDING, {}, "b"),
    "the first of another order": (FIRST_BY_BINDING[::-1], {}, "b"),
    "another client id": ([ONE], {"request": by(SelectorKind.CLIENT_ID, OTHER_ID)}, (BRIEF_HOLD_SECONDS, ABSENT)),
    "another resource id": ([ONE], {"request": by(SelectorKind.RESOURCE_ID, OTHER_ID)}, (BRIEF_HOLD_SECONDS, ABSENT)),
    "another client id, and one coming": (
        [ONE, assigned("b", status=CREATED)],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID)},
        (80.0, ABSENT),
    ),
    "another client id, and one being revoked": (
        [ONE, assigned("b", status=UNASSIGNED)],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID)},
        (80.0, ABSENT),
    ),
    "another client id, assigned a minute ago": (
        [replace(ONE, usable_since=1000.0)],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID), "now": 1089.0},
        (80.0, ABSENT),
    ),
    "another client id, assigned longer ago": (
        [replace(ONE, usable_since=1000.0)],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID), "now": 1090.0},
        (BRIEF_HOLD_SECONDS, ABSENT),
    ),
    "another client id, the shortest hold": (
        [ONE],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID), "policy": DecisionPolicy(max_hold_seconds=0.5)},
        (0.5, ABSENT),
    ),
    "a named one that is being assigned": (
        [assigned("first"), assigned("second", client_id=OTHER_ID, status=CREATED)],
        {"request": by(SelectorKind.CLIENT_ID, OTHER_ID)},
        (100.0, STILL),
    ),
    **{
        f"by {selector.name} {value}": ([assigned("first"), SECOND], {"request": by(selector, value)}, "second")
        for selector, value in (
            (SelectorKind.CLIENT_ID, OTHER_ID),
            (SelectorKind.CLIENT_ID, OTHER_ID.upper()),
            (SelectorKind.RESOURCE_ID, resource_id("second")),
            (SelectorKind.RESOURCE_ID, resource_id("SECOND").upper()),
            (SelectorKind.OBJECT_ID, OBJECT_ID.upper()),
        )
    },
    "an empty client id": (
        [WITHOUT_CLIENT_ID],
        {"request": by(SelectorKind.CLIENT_ID, "")},
        (BRIEF_HOLD_SECONDS, ABSENT),
    ),
    "an empty object id": ([WITHOUT_CLIENT_ID], {"request": by(SelectorKind.OBJECT_ID, "")}, UNKNOWN),
    "an object id learnt from Azure": ([ONE], {"request": BY_OBJECT_ID, "object_ids": {CLIENT_ID: OBJECT_ID}}, "id"),
    "an unknown object id": ([ONE], {"request": BY_OBJECT_ID, "object_ids": {CLIENT_ID: "another"}}, UNKNOWN),
    "an object id, nothing yet": ([], {"request": BY_OBJECT_ID}, (80.0, UNKNOWN)),
    "an object id, one coming": ([COMING], {"request": BY_OBJECT_ID}, (100.0, UNKNOWN)),
    "an object id, one there and one coming": (
        [ONE, assigned("b", status=CREATED)],
        {"request": BY_OBJECT_ID},
        (100.0, UNKNOWN),
    ),
    "an identity of another namespace": ([assigned(namespace="elsewhere")], {}, "id"),
    "one with another behavior": (
        [assigned(namespace="elsewhere", annotations={BEHAVIOR_ANNOTATION: "anything"})],
        {},
        "id",
    ),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_the_pod_its_identities_the_request_and_the_policy_decide(case: str) -> None:
    identities, inputs, expected = DECISIONS[case]
    assert outcome(*identities, **inputs) == expected


def test_a_refused_pod_gets_the_sentence_of_imds() -> None:
    decision = decide(UNLABELLED, (), REQUEST, POLICY, {})
    assert isinstance(decision, Refusal)
    assert decision.sentence == "Identity not found"


@pytest.mark.parametrize(
    ("request_", "identities", "text"),
    [
        (
            by(SelectorKind.CLIENT_ID, OTHER_ID),
            (ONE, WITHOUT_CLIENT_ID),
            f"requested client id {redacted(OTHER_ID)}, bound {redacted(CLIENT_ID)} (ns/id), none (ns/second): ",
        ),
        (
            by(SelectorKind.RESOURCE_ID, resource_id("OTHER")),
            (ONE,),
            f"requested resource id '{resource_id('other').lower()}', bound {resource_id('id')} (ns/id): ",
        ),
        (
            by(SelectorKind.RESOURCE_ID, "/x --issuer y\t"),
            (assigned("other", namespace="a"), ONE),
            (
                f"requested resource id '/x --issuer y\\t', bound {resource_id('id')} (ns/id), {resource_id('other')} "
                "(a/other): "
            ),
        ),
        (
            by(SelectorKind.RESOURCE_ID, "x" * 2000),
            tuple(assigned(name) for name in "abcde"),
            (
                f"requested resource id '{'x' * 150}', bound {resource_id('a')} (ns/a), {resource_id('b')} (ns/b), "
                f"{resource_id('c')} (ns/c) and 2 more: "
            ),
        ),
    ],
    ids=["client id", "resource id", "own namespace first", "many"],
)
def test_the_operators_text_has_the_requested_and_the_bound_ids(
    request_: TokenRequest, identities: Sequence[AssignedIdentity], text: str
) -> None:
    decision = decide(POD, identities, request_, POLICY, {})
    assert isinstance(decision, Wait)
    assert decision.refusal.detail.startswith(text)
    assert decision.refusal.cause == decision.refusal.detail, "a correction of the binding is a new cause"
    assert decision.refusal.sentence.endswith("matches the one that the request names.")


@pytest.mark.parametrize("request_", [REQUEST, by(SelectorKind.CLIENT_ID, OTHER_ID)], ids=["unspecified", "named"])
@pytest.mark.parametrize("identities", [(), (assigned(),), (assigned(status=CREATED),)], ids=["none", "one", "coming"])
def test_an_exempt_pod_is_recognised_before_any_other_check(
    identities: tuple[AssignedIdentity, ...], request_: TokenRequest
) -> None:
    for pod in (POD, UNLABELLED):
        exempt = replace(pod, exempt="exception ns/ex")
        assert outcome(*identities, pod=exempt, request=request_) == Exempt("exception ns/ex")
        assert not isinstance(outcome(*identities, pod=pod, request=request_), Exempt)


@pytest.mark.parametrize(
    "flaw",
    [
        pytest.param({"status": UNASSIGNED}, id="unassigned"),
        pytest.param({"status": "assigned"}, id="wrong-case"),
        pytest.param({"status": CREATED}, id="created"),
        pytest.param({"deleting": True}, id="being-deleted"),
        pytest.param({"deleting": True, "status": ""}, id="being-deleted-old-mic"),
        pytest.param({"selector": "other"}, id="other-selector"),
        pytest.param({"selector": "Web"}, id="selector-in-another-case"),
        pytest.param({"selector": ""}, id="no-selector"),
        pytest.param({"pod_uid": "uid-0"}, id="made-for-another-uid"),
    ],
)
def test_an_unusable_identity_is_never_granted(flaw: dict[str, Any]) -> None:
    assert isinstance(outcome(assigned(**flaw)), tuple), "it waits"
    assert outcome(assigned(**flaw), assigned("good", binding="z")) == "good"


def test_an_identity_of_the_pods_namespace_comes_before_those_of_others_whatever_their_bindings_are_called() -> None:
    own = assigned("z", binding="z")
    foreign = assigned("a", binding="a", namespace="elsewhere", type_=1)
    assert outcome(foreign, own) == "z"
    assert outcome(own, foreign) == "z"
    by_their_id = by(SelectorKind.CLIENT_ID, CLIENT_ID)
    assert outcome(foreign, own, request=by_their_id) == "z"
    coming = assigned("z", binding="z", status=CREATED)
    assert outcome(foreign, coming, request=by_their_id) == (100.0, Reason.STILL_ASSIGNING)
    assert outcome(foreign, assigned("z", binding="z", deleting=True)) == "a", "it is still served alone"


def test_while_an_identity_of_the_pods_namespace_is_being_assigned_none_of_another_is_granted_in_its_place() -> None:
    own = assigned("own", client_id=OTHER_ID, status=CREATED)
    foreign = assigned("foreign", namespace="elsewhere", type_=1)
    assert outcome(foreign, own) == (100.0, Reason.STILL_ASSIGNING)
    assert outcome(foreign, own, request=by(SelectorKind.CLIENT_ID, CLIENT_ID)) == "foreign", "it is named"
    assert outcome(foreign, assigned("own", status=UNASSIGNED)) == "foreign", "no identity is coming"


@pytest.mark.parametrize(
    ("policy", "annotations"),
    [
        pytest.param(DecisionPolicy(force_namespaced=True), None, id="by-flag"),
        pytest.param(POLICY, {BEHAVIOR_ANNOTATION: "namespaced"}, id="by-annotation"),
        pytest.param(POLICY, {BEHAVIOR_ANNOTATION: "Namespaced"}, id="by-annotation-in-another-case"),
    ],
)
def test_a_namespaced_identity_serves_its_own_namespace_only(
    policy: DecisionPolicy, annotations: dict[str, str] | None
) -> None:
    own = assigned("own", binding="b", annotations=annotations)
    foreign = assigned("foreign", binding="a", namespace="elsewhere", annotations=annotations)
    assert outcome(foreign, own, policy=policy) == "own"
    assert outcome(foreign, policy=policy) is Reason.NO_MATCHING_IDENTITY


@pytest.mark.parametrize("odd", ["namespace", "own_namespace", "binding_namespace"])
def test_a_federated_identity_is_granted_only_if_all_its_objects_are_in_the_pods_namespace(odd: str) -> None:
    home = {"namespace": "ns", "own_namespace": "ns", "binding_namespace": "ns"}
    assert outcome(assigned(type_=3, **home)) == "id"
    assert outcome(assigned(type_=3, **home | {odd: "elsewhere"})) is Reason.NO_MATCHING_IDENTITY
    assert outcome(assigned(type_=0, **home | {odd: "elsewhere"})) == "id"


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


# Of arbitrary identities few are granted, which would test little.
FLAWLESS = st.builds(assigned, NAMES, client_id=CLIENTS, binding=BINDINGS, pod_uid=st.sampled_from([None, "uid-1"]))
WITH_ONE_FLAW = st.builds(
    lambda name, flaw, **usual: assigned(name, **usual | flaw),
    NAMES,
    st.sampled_from(FLAWS),
    client_id=CLIENTS,
    binding=BINDINGS,
)
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
    first = decide(pod, identities, request, policy, object_ids)
    second = decide(pod, shuffled, request, policy, object_ids)
    if isinstance(first, Grant) and isinstance(second, Grant):
        chosen = [(grant.assigned.binding, grant.assigned.identity.key) for grant in (first, second)]
        assert chosen[0] == chosen[1]
    else:
        assert first == second


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


@pytest.mark.parametrize("exempt", ["", "exception ns/ex", "MIC"])
def test_a_mirror_pod_gets_no_identity_whatever_is_assigned_to_it_or_exempts_it(exempt: str) -> None:
    mirror = replace(POD, mirror=True, exempt=exempt)
    assert decide(mirror, (assigned(),), REQUEST, POLICY, {}) is MIRROR_POD
    assert not isinstance(outcome(assigned(), pod=replace(mirror, mirror=False)), Reason)


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


@pytest.mark.parametrize("selector", [kind for kind in SelectorKind if kind is not SelectorKind.NONE])
def test_the_id_of_a_request_is_converted_once_for_all_identities_of_the_pod(
    selector: SelectorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedText, "conversions", 0)
    outcome(*(assigned(f"id-{number}") for number in range(256)), request=by(selector, CountedText("A" * 3900)))
    assert CountedText.conversions == 1
