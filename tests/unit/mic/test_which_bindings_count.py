"""The index of bindings equals a slow computation from all objects, after each change, with a limit of two.

Each change must also report every assignment that it changes, because MIC examines no others.
"""

from collections.abc import Iterable, Iterator
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

import mic.cluster.limited_groups
from mic.cluster.bindings import BindingIndex
from mic.cluster.selectors import Concern
from mic.decisions.assignments import AssignmentKey, DesiredAssignment, ExistingAssignment, Key
from podidentity.resources import (
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
        for each in self.bindings.values():
            key = (each.metadata.namespace, each.spec.azure_identity)
            if each.spec.selector == of.binding_label and key in self.identities:
                given.setdefault(key, []).append(each.metadata.name)
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
        return not any(each[:2] == (key, self.selector) for each in self.embedded), key

    def of(self, each: Pod) -> dict[AssignmentKey, tuple[Key, bool]]:
        self.selector = each.binding_label
        return self.all_desired(each)

    def usable(self, key: Key) -> bool:
        return self.identities[key].spec.type in {0, 1}

    def namespaced(self, key: Key) -> bool:
        return self.forced or self.identities[key].namespaced


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
        each.identity == identity_key
        and each.selector == of.binding_label
        and each.namespace in {"", of.metadata.namespace}
        for each in concerns
    )


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_any_changes_keep_the_incremental_result_equal_to_the_rule(data: st.DataObject) -> None:
    with patch.object(mic.cluster.limited_groups, "COUNTED_MAX", LIMIT):
        rule = SlowReader(forced=data.draw(st.booleans()))
        index = BindingIndex(force_namespaced=rule.forced)
        for _ in range(data.draw(st.integers(1, 30))):
            before = [index.all_desired(each) for each in PODS]
            concerns = [*change(data, index, rule)]
            for each, old in zip(PODS, before, strict=True):
                new = index.all_desired(each)
                assert seen(new) == rule.of(each)
                assert set(index.groups(*by_label(each))) >= {key[2:] for key in new}
                for key in old.keys() | new.keys():
                    if seen(old).get(key) != seen(new).get(key) or spec(old.get(key)) != spec(new.get(key)):
                        assert covered(key, each, concerns), key
        assert (index.beyond_limit == 0) == (not [*index.beyond()])


def spec(desired: DesiredAssignment | None) -> object:
    return None if desired is None else (desired.identity.spec, desired.binding.spec)


def by_label(each: Pod) -> tuple[str, str]:
    return each.metadata.namespace, each.binding_label


def drawn_identity(data: st.DataObject, key: Key) -> AzureIdentity:
    return identity(
        key[1],
        namespace=key[0],
        namespaced=data.draw(st.booleans()),
        type_=data.draw(st.sampled_from([0, 0, 1, 9])),
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
            for each in PODS:
                there = {key for key in cluster.view.waiting if (key.pod_namespace, key.pod) == each.key}
                assert there == rule.of(each).keys()


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
