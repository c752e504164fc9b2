"""Which bindings count. The index equals a slow computation from all objects, after each change, with a limit of two;
and what bindings of one namespace cost that select pods or identities of another.

Each change must also report every assignment that it changes, because MIC examines no others.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mic.cluster.limited_groups
from mic.cluster.bindings import BindingIndex
from mic.cluster.limited_groups import COUNTED_MAX
from mic.cluster.selectors import Concern
from mic.decisions.assignments import AssignmentKey, DesiredAssignment, ExistingAssignment, Key
from podidentity.resources import (
    BEHAVIOR_ANNOTATION,
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureIdentity,
    AzureIdentityBinding,
    Meta,
    Pod,
)
from tests.support.examples import examples
from tests.support.filled_view import FilledView
from tests.support.objects import binding, identity, node, pod
from tests.support.work import calls

LIMIT = 2
NAMESPACES = ("evil", "mine", "platform")
NAMES = ("a", "b", "c", "d")
LABELS = ("shop", "bank")
PODS = [pod(f"{label}-{namespace}", namespace=namespace, label=label) for namespace in NAMESPACES for label in LABELS]


class SlowReader:
    """The rule: of each namespace's identities for a selector the first two, of all shared ones the first of each
    namespace before the second of any; those that an assigned identity embeds before others."""

    def __init__(self, *, forced: bool) -> None:
        self.forced = forced
        self.identities: dict[Key, AzureIdentity] = {}
        self.bindings: dict[Key, AzureIdentityBinding] = {}
        self.selector = ""
        self.embedded: list[tuple[Key, str, str]] = []
        """Identity, selector and name of the binding, once for each assigned identity."""

    def all_desired(self, of: Pod) -> dict[AssignmentKey, tuple[Key, bool]]:
        """The binding and whether the identity is namespaced, by claim."""
        given: dict[Key, list[str]] = {}
        for bound in self.bindings.values():
            key = (bound.metadata.namespace, bound.spec.azure_identity)
            if bound.spec.selector == of.binding_label and key in self.identities:
                given.setdefault(key, []).append(bound.metadata.name)
        own = self.first(key for key in given if key[0] == of.metadata.namespace and self.usable(key))
        rows: list[tuple[int, bool, Key]] = []
        for namespace in NAMESPACES:
            there = [key for key in given if key[0] == namespace and self.usable(key) and not self.namespaced(key)]
            rows += [(row, *self.rank(key)) for row, key in enumerate(sorted(there, key=self.rank))]
        shared = [key for _, _, key in sorted(rows)[:LIMIT]]
        return {
            AssignmentKey(*of.key, *key): ((key[0], min(given[key])), self.namespaced(key)) for key in {*own, *shared}
        }

    def first(self, keys: Iterable[Key]) -> list[Key]:
        return sorted(keys, key=self.rank)[:LIMIT]

    def rank(self, key: Key) -> tuple[bool, Key]:
        return not any(reference[:2] == (key, self.selector) for reference in self.embedded), key

    def of(self, pod_: Pod) -> dict[AssignmentKey, tuple[Key, bool]]:
        self.selector = pod_.binding_label
        return self.all_desired(pod_)

    def usable(self, key: Key) -> bool:
        return self.identities[key].spec.type in {0, 1, 3}

    def namespaced(self, key: Key) -> bool:
        of = self.identities[key]
        return self.forced or of.spec.type == 3 or BEHAVIOR_ANNOTATION in (of.metadata.annotations or {})


def seen(all_desired: dict[AssignmentKey, DesiredAssignment]) -> dict[AssignmentKey, tuple[Key, bool]]:
    return {key: (desired.binding.key, desired.namespaced) for key, desired in all_desired.items()}


def embedding(to: Key, through: AzureIdentityBinding) -> ExistingAssignment:
    meta = Meta(namespace=to[0], name=to[1])
    return ExistingAssignment(
        AzureAssignedIdentity(
            spec=AzureAssignedIdentitySpec(azure_identity_ref=AzureIdentity(metadata=meta), azure_binding_ref=through)
        )
    )


def covered(key: AssignmentKey, of: Pod, concerns: Iterable[Concern]) -> bool:
    identity_key = (key.identity_namespace, key.identity)
    return any(
        concern.identity == identity_key
        and concern.selector == of.binding_label
        and concern.namespace in {"", of.metadata.namespace}
        for concern in concerns
    )


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_any_changes_keep_the_incremental_result_equal_to_the_rule(data: st.DataObject) -> None:
    with patch.object(mic.cluster.limited_groups, "COUNTED_MAX", LIMIT):
        rule = SlowReader(forced=data.draw(st.booleans()))
        index = BindingIndex(force_namespaced=rule.forced)
        for _ in range(data.draw(st.integers(1, 30))):
            before = [index.all_desired(pod_) for pod_ in PODS]
            concerns = [*change(data, index, rule)]
            for pod_, old in zip(PODS, before, strict=True):
                new = index.all_desired(pod_)
                assert seen(new) == rule.of(pod_)
                assert set(index.groups(pod_.metadata.namespace, pod_.binding_label)) >= {key[2:] for key in new}
                for key in old.keys() | new.keys():
                    if seen(old).get(key) != seen(new).get(key) or spec(old.get(key)) != spec(new.get(key)):
                        assert covered(key, pod_, concerns), key
        assert (index.beyond_limit == 0) == (not [*index.beyond()])


def spec(desired: DesiredAssignment | None) -> object:
    return None if desired is None else (desired.identity.spec, desired.binding.spec)


def drawn_identity(data: st.DataObject, key: Key) -> AzureIdentity:
    return identity(
        key[1],
        namespace=key[0],
        namespaced=data.draw(st.booleans()),
        type_=data.draw(st.sampled_from([0, 0, 1, 3, 9])),
        tenant_id=data.draw(st.sampled_from(["t", "u"])),
    )


def drawn_binding(data: st.DataObject, key: Key) -> AzureIdentityBinding:
    to, label = data.draw(st.sampled_from([*NAMES, "gone"])), data.draw(st.sampled_from(LABELS))
    return binding(key[1], namespace=key[0], identity=to, selector=label)


def change(data: st.DataObject, index: BindingIndex, rule: SlowReader) -> Iterator[Concern]:
    namespace, name = key = data.draw(st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(NAMES)))
    match data.draw(
        st.sampled_from(["identity", "binding", "binding", "no identity", "no binding", "embed", "forget"])
    ):
        case "identity":
            rule.identities[key] = drawn_identity(data, key)
            yield from index.put_identity(rule.identities[key])
        case "binding":
            rule.bindings[key] = drawn_binding(data, key)
            yield from index.put_binding(rule.bindings[key])
        case "no identity" if rule.identities.pop(key, None) is not None:
            yield from index.remove_identity(key)
        case "no binding" if (gone := rule.bindings.pop(key, None)) is not None:
            yield from index.remove_binding(gone)
        case "embed" if (through := rule.bindings.get(key)) is not None:
            to_key = (namespace, through.spec.azure_identity)
            rule.embedded.append((to_key, through.spec.selector, name))
            yield from index.embeds(embedding(to_key, through), 1)
        case "forget" if rule.embedded:
            to_key, label, through_name = rule.embedded.pop(data.draw(st.integers(0, len(rule.embedded) - 1)))
            through = binding(through_name, namespace=to_key[0], identity=to_key[1], selector=label)
            yield from index.embeds(embedding(to_key, through), -1)
        case _:
            pass


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_any_changes_keep_the_waiting_assignments_of_the_view_equal_to_the_rule(data: st.DataObject) -> None:
    with patch.object(mic.cluster.limited_groups, "COUNTED_MAX", LIMIT):
        rule = SlowReader(forced=data.draw(st.booleans()))
        cluster = FilledView(force_namespaced=rule.forced)
        cluster.add(node(), *PODS)
        for _ in range(data.draw(st.integers(1, 25))):
            changed_view(data, cluster, rule)
            for pod_ in PODS:
                there = {key for key in cluster.view.waiting if (key.pod_namespace, key.pod) == pod_.key}
                assert there == rule.of(pod_).keys()


def changed_view(data: st.DataObject, cluster: FilledView, rule: SlowReader) -> None:
    name, namespace = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(NAMESPACES))
    key = (namespace, name)
    match data.draw(st.sampled_from(["identity", "binding", "no identity", "no binding"])):
        case "identity":
            rule.identities[key] = drawn_identity(data, key)
            cluster.add(rule.identities[key])
        case "binding":
            rule.bindings[key] = drawn_binding(data, key)
            cluster.add(rule.bindings[key])
        case "no identity" if (gone := rule.identities.pop(key, None)) is not None:
            cluster.remove(gone)
        case "no binding" if (unbound := rule.bindings.pop(key, None)) is not None:
            cluster.remove(unbound)


VICTIMS, HOSTILE = 400, 400
CALLS_MOST: Final = 4000
"""About a millisecond. Each of the hostile bindings or identities would cost several."""


def victims(*, force_namespaced: bool, namespaced: bool = False) -> FilledView:
    """Pods of one namespace with one label and one identity, and no other pods."""
    made = FilledView(force_namespaced=force_namespaced)
    made.add(*(node(f"n{number}") for number in range(100)))
    made.add(identity("mine", namespace="victim", namespaced=namespaced))
    made.add(binding("mine", namespace="victim", identity="mine", selector="shop"))
    made.add(*(victim(number) for number in range(VICTIMS)))
    return made


def victim(number: int, uid: str = "") -> Pod:
    return pod(f"p{number}", namespace="victim", node=f"n{number % 100}", label="shop", uid=uid)


def hostile(number: int, names: str) -> AzureIdentityBinding:
    return binding(f"b{number:04}", namespace="evil", identity=names.format(number), selector="shop")


def hostile_identity(name: str, *, tenant_id: str = "", namespaced: bool = False) -> AzureIdentity:
    return identity(name, namespace="evil", tenant_id=tenant_id, namespaced=namespaced)


HOSTILES: Final = {
    "without an identity": ("missing", []),
    "all for one identity": ("one", ["one"]),
    "each for a different identity": ("i{:04}", [f"i{number:04}" for number in range(HOSTILE)]),
}


@pytest.fixture(scope="module", params=[*HOSTILES])
def hostiles(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    return HOSTILES[request.param]


@pytest.fixture(scope="module", params=[True, False], ids=["forceNamespaced", "not forced"])
def many_bindings(request: pytest.FixtureRequest, hostiles: tuple[str, list[str]]) -> tuple[FilledView, str]:
    """The pods, with hundreds of bindings of another namespace for their label."""
    names, identities = hostiles
    made = victims(force_namespaced=request.param)
    made.add(*(hostile_identity(name) for name in identities))
    made.add(*(hostile(number, names) for number in range(HOSTILE)))
    return made, names


def test_an_event_of_a_pod_or_its_node_costs_at_most_a_millisecond(many_bindings: tuple[FilledView, str]) -> None:
    made, _ = many_bindings
    assert calls(lambda: made.add(victim(7))) < CALLS_MOST
    assert calls(lambda: made.add(victim(7, uid="again"))) < CALLS_MOST
    assert calls(lambda: made.add(node("n7"))) < CALLS_MOST
    made.add(victim(7))


def test_an_event_of_a_hostile_binding_costs_at_most_a_millisecond(many_bindings: tuple[FilledView, str]) -> None:
    """A binding without effect: it is not among the first that count for pods of every namespace."""
    made, names = many_bindings
    added = hostile(HOSTILE - 1, names)
    assert calls(lambda: made.add(added)) < CALLS_MOST
    assert calls(lambda: made.remove(added)) < CALLS_MOST
    assert calls(lambda: made.add(added)) < CALLS_MOST


def test_an_event_of_a_hostile_identity_costs_at_most_a_millisecond(many_bindings: tuple[FilledView, str]) -> None:
    """A binding without effect on pods of another namespace: it is namespaced, or over the limit."""
    made, names = many_bindings
    name = names.format(HOSTILE - 1)
    counts = name.startswith("i")

    def one(tenant_id: str = "") -> AzureIdentity:
        return hostile_identity(name, tenant_id=tenant_id, namespaced=not counts)

    made.add(one())
    assert made.view.assignment(AssignmentKey("victim", "p0", "evil", name)) is None
    assert calls(lambda: made.add(one())) < CALLS_MOST
    assert calls(lambda: made.add(one(tenant_id="another"))) < CALLS_MOST
    assert calls(lambda: made.remove(one())) < CALLS_MOST
    assert calls(lambda: made.add(one())) < CALLS_MOST


@pytest.mark.parametrize("force_namespaced", [True, False])
def test_foreign_bindings_cause_no_quadratic_work(force_namespaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half of them costs no more than the first. Each pod is compared once for each identity that counts."""
    desired, compared, number = BindingIndex.desired, itertools.count(), 400

    def counted(*arguments: Any) -> DesiredAssignment | None:
        next(compared)
        return desired(*arguments)

    monkeypatch.setattr(BindingIndex, "desired", counted)
    made = victims(force_namespaced=force_namespaced)
    made.add(*(hostile_identity(f"i{index:04}") for index in range(number)))

    def add(numbers: range) -> None:
        made.add(*(hostile(index, "i{:04}") for index in numbers))

    first, second = (calls(partial(add, half)) for half in (range(number // 2), range(number // 2, number)))
    assert second <= 1.5 * first, "quadratic work would be three times as much"
    assert next(compared) <= 2 * VICTIMS * COUNTED_MAX, "pods are compared for identities that have not changed"


class ManyBindings:
    """One pod on one node, and bindings for its label."""

    def __init__(self) -> None:
        self.ignored: list[tuple[Key, str]] = []
        self.cluster = FilledView(on_ignored=lambda binding, reason: self.ignored.append((binding.key, reason)))
        self.cluster.add(node(), pod())

    def give(self, name: str, namespace: str = "default", *, namespaced: bool = False) -> None:
        self.cluster.add(identity(name, namespace=namespace, namespaced=namespaced))
        self.cluster.add(binding(name, namespace=namespace, identity=name))

    def wanted(self) -> list[str]:
        """The identities (namespace/name) that the pod needs now."""
        return sorted(f"{key.identity_namespace}/{key.identity}" for key in self.cluster.view.waiting)


def test_the_number_of_counted_identities_is_limited() -> None:
    many_bindings = ManyBindings()
    names = [f"i{number:03}" for number in range(COUNTED_MAX + 2)]
    for name in names[:COUNTED_MAX]:
        many_bindings.give(name, namespaced=True)
    assert len(many_bindings.wanted()) == COUNTED_MAX
    assert many_bindings.ignored == []
    assert many_bindings.cluster.view.beyond_limit == 0
    for name in names[COUNTED_MAX:]:
        many_bindings.give(name, namespaced=True)
    assert many_bindings.wanted() == [f"default/{name}" for name in names[:COUNTED_MAX]]
    assert [key for key, _ in many_bindings.ignored] == [("default", name) for name in names[COUNTED_MAX:]]
    assert many_bindings.cluster.view.beyond_limit == 2


def test_an_identity_beyond_the_limit_is_reported_once_and_again_after_a_change() -> None:
    many_bindings = ManyBindings()
    for number in range(COUNTED_MAX + 1):
        many_bindings.give(f"i{number:03}", namespaced=True)
    last = f"i{COUNTED_MAX:03}"
    assert len(many_bindings.ignored) == 1
    many_bindings.cluster.add(binding(last, identity=last))
    many_bindings.cluster.add(identity(last, namespaced=True))
    assert len(many_bindings.ignored) == 1
    many_bindings.cluster.remove(binding(last))
    many_bindings.cluster.add(binding(last, identity=last))
    assert [key for key, _ in many_bindings.ignored] == [("default", last)] * 2


def test_an_identity_beyond_the_limit_counts_when_another_is_deleted() -> None:
    many_bindings = ManyBindings()
    for number in range(COUNTED_MAX + 1):
        many_bindings.give(f"i{number:03}", namespaced=True)
    many_bindings.cluster.remove(binding("i000"))
    assert many_bindings.wanted() == [f"default/i{number:03}" for number in range(1, COUNTED_MAX + 1)]
    assert many_bindings.cluster.view.beyond_limit == 0


def test_bindings_of_other_namespaces_never_displace_those_of_the_pods_own_namespace() -> None:
    many_bindings = ManyBindings()
    for number in range(200):
        many_bindings.give(f"a{number:03}", "aaa-evil")
    mine = [f"mine{number:02}" for number in range(COUNTED_MAX - 4)]
    for name in mine:
        many_bindings.give(name)
    assert {f"default/{name}" for name in mine} <= {*many_bindings.wanted()}
    assert len(many_bindings.wanted()) <= 2 * COUNTED_MAX


def test_each_namespace_has_its_first_identities_before_any_has_more() -> None:
    """Without forceNamespaced an identity may serve pods of every namespace, so that bindings of other namespaces
    count."""
    many_bindings = ManyBindings()
    for number in range(200):
        many_bindings.give(f"a{number:03}", "aaa-evil")
    for name in ("one", "two"):
        many_bindings.give(name, "platform")
    assert {"platform/one", "platform/two"} <= {*many_bindings.wanted()}
    assert len(many_bindings.wanted()) == COUNTED_MAX


def test_an_identity_that_becomes_namespaced_serves_other_namespaces_no_longer() -> None:
    many_bindings = ManyBindings()
    many_bindings.give("theirs", "platform")
    assert many_bindings.wanted() == ["platform/theirs"]
    many_bindings.cluster.add(identity("theirs", namespace="platform", namespaced=True))
    assert many_bindings.wanted() == []
    many_bindings.cluster.add(identity("theirs", namespace="platform"))
    assert many_bindings.wanted() == ["platform/theirs"]
