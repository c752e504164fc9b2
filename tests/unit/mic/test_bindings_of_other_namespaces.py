"""Bindings of one namespace that select pods or identities of another: which ones count, and what they cost."""

import itertools
from functools import partial
from typing import Any, Final

import pytest

from mic.cluster.bindings import BindingIndex
from mic.cluster.limited_groups import COUNTED_MAX
from mic.cluster.view import ClusterView
from mic.decisions.assignments import AssignmentKey, DesiredAssignment, Key
from podidentity.resources import AzureIdentity, AzureIdentityBinding, Pod
from tests.support.filled_view import FilledView
from tests.support.mic.world import MicWorld
from tests.support.objects import binding, identity, node, pod
from tests.support.work import calls

PODS, HOSTILE = 400, 400
CALLS_MOST: Final = 4000
"""About a millisecond. Each of the hostile bindings or identities would cost several."""


def victims(*, force_namespaced: bool, namespaced: bool = False) -> FilledView:
    """Pods of one namespace with one label and one identity, and no other pods."""
    made = FilledView(force_namespaced=force_namespaced)
    made.add(*(node(f"n{number}") for number in range(100)))
    made.add(identity("mine", namespace="victim", namespaced=namespaced))
    made.add(binding("mine", namespace="victim", identity="mine", selector="shop"))
    made.add(*(victim(number) for number in range(PODS)))
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
    each = hostile(HOSTILE - 1, names)
    assert calls(lambda: made.add(each)) < CALLS_MOST
    assert calls(lambda: made.remove(each)) < CALLS_MOST
    assert calls(lambda: made.add(each)) < CALLS_MOST


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
def test_bindings_of_another_namespace_cause_no_quadratic_work(
    force_namespaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of them costs no more than the first. Each pod is compared once for each identity that counts."""
    desired, compared, number = BindingIndex.desired, itertools.count(), 400

    def counted(*arguments: Any) -> DesiredAssignment | None:
        next(compared)
        return desired(*arguments)

    monkeypatch.setattr(BindingIndex, "desired", counted)
    made = victims(force_namespaced=force_namespaced)
    made.add(*(hostile_identity(f"i{each:04}") for each in range(number)))

    def add(numbers: range) -> None:
        made.add(*(hostile(each, "i{:04}") for each in numbers))

    first, second = (calls(partial(add, half)) for half in (range(number // 2), range(number // 2, number)))
    assert second <= 1.5 * first, "quadratic work would be three times as much"
    assert next(compared) <= 2 * PODS * COUNTED_MAX, "pods are compared for identities that have not changed"


def wanted(view: ClusterView, name: str = "web", namespace: str = "default") -> list[str]:
    """The identities (namespace/name) that a pod needs now."""
    return sorted(
        f"{key.identity_namespace}/{key.identity}"
        for key in view.waiting
        if (key.pod_namespace, key.pod) == (namespace, name)
    )


class ManyBindings:
    """One pod on one node, and bindings for its label."""

    def __init__(self, *, force_namespaced: bool = False) -> None:
        self.ignored: list[tuple[Key, str]] = []
        self.forced = force_namespaced
        self.cluster = FilledView(
            on_ignored=lambda binding, why: self.ignored.append((binding.key, why)), force_namespaced=self.forced
        )
        self.cluster.add(node(), pod())

    def give(self, name: str, namespace: str = "default", *, namespaced: bool = False) -> None:
        self.cluster.add(identity(name, namespace=namespace, namespaced=namespaced))
        self.cluster.add(binding(name, namespace=namespace, identity=name))

    def wanted(self) -> list[str]:
        return wanted(self.cluster.view)


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


async def test_an_embedded_binding_stays_when_others_are_added_and_after_a_restart(world: MicWorld) -> None:
    def give(letter: str) -> None:
        for number in range(COUNTED_MAX):
            name = f"{letter}{number:03}"
            world.add(identity(name, namespaced=True), binding(name, identity=name))

    def used() -> set[str]:
        return {each.spec.azure_identity_ref.metadata.name for each in world.objects.values()}

    world.add(pod())
    give("m")
    await world.settle()
    before = used()
    assert len(before) == COUNTED_MAX
    give("a")  # before all others by name
    await world.settle()
    assert used() == before
    world.restart()
    await world.settle()
    assert used() == before


def test_a_binding_counts_while_its_identity_exists() -> None:
    many_bindings = ManyBindings()
    many_bindings.cluster.add(binding("early", identity="late"))
    assert many_bindings.wanted() == []
    many_bindings.cluster.add(identity("late"))
    assert many_bindings.wanted() == ["default/late"]
    many_bindings.cluster.add(identity("late", resource_id="nonsense"))
    assert many_bindings.wanted() == []
    many_bindings.cluster.add(identity("late"))
    many_bindings.cluster.remove(identity("late"))
    assert many_bindings.wanted() == []


def test_an_identity_that_becomes_namespaced_serves_other_namespaces_no_longer() -> None:
    many_bindings = ManyBindings()
    many_bindings.give("theirs", "platform")
    assert many_bindings.wanted() == ["platform/theirs"]
    many_bindings.cluster.add(identity("theirs", namespace="platform", namespaced=True))
    assert many_bindings.wanted() == []
    many_bindings.cluster.add(identity("theirs", namespace="platform"))
    assert many_bindings.wanted() == ["platform/theirs"]
