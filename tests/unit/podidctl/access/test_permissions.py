"""Permissions of subjects by roles and bindings, compared with the emulated API server's authorizer."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podidctl.access.schema import Action
from podidctl.access.subjects import CHECKS, find_subjects
from podidctl.access.targets import ByName, Targets
from podidctl.evaluation.rbac import Permissions, Request, SubjectKey, service_account
from podidctl.facts.rbac import RBAC_GROUP, AggregationRule, Rbac, Role
from podidctl.facts.workloads import LabelSelector, SelectorRequirement
from podidentity_sandbox.kubeapi.authorization import Access, Authorizer, User, service_account_user
from podidentity_sandbox.kubeapi.history import History
from podidentity_sandbox.kubeapi.server import KubeApi
from tests.support.examples import examples
from tests.support.podidctl.access.small_cluster import bound, rbac, role, rule

NAMESPACES, NAMES = ("shop", "ops"), ("a", "b")
SUBJECTS = (
    "User anna",
    "Group developers",
    "Group system:authenticated",
    "Group system:serviceaccounts:shop",
    "ServiceAccount shop/a",
    "User system:serviceaccount:ops:b",
)
RESOURCES = ("pods", "pods/exec", "secrets", "serviceaccounts/token", "*", "*/exec")
VERBS = ("create", "get", "update", "*")


def some(draw: random.Random, several: Any) -> str:
    return " ".join(draw.sample(several, draw.randint(1, 2)))


def a_rule(draw: random.Random) -> Any:
    return rule(
        some(draw, VERBS), draw.choice(("", "apps", "*")), some(draw, RESOURCES), draw.choice(("", "", "a", "a b"))
    )


def an_rbac(draw: random.Random) -> Rbac:
    return rbac(
        *(role(name, a_rule(draw), namespace=where) for name in NAMES for where in NAMESPACES),
        cluster=tuple(role(name, a_rule(draw), a_rule(draw)) for name in NAMES),
        bindings=tuple(
            bound(
                draw.choice((*NAMES, "missing")),
                draw.choice(SUBJECTS),
                kind=draw.choice(("Role", "ClusterRole")) if where else "ClusterRole",
                namespace=where,
                name=f"b{number}",
            )
            for number, where in enumerate(draw.choice(("", *NAMESPACES)) for _ in range(3))
        ),
    )


def authorizer(api: KubeApi, several: Rbac) -> Authorizer:
    """Return the emulator's authorizer with these roles."""
    for namespace in NAMESPACES:
        api.store.create("namespaces", {"metadata": {"name": namespace}})
    kinds = (
        ("roles", several.roles),
        ("clusterroles", several.cluster_roles),
        ("rolebindings", several.role_bindings),
        ("clusterrolebindings", several.cluster_role_bindings),
    )
    for plural, objects in kinds:
        for stored in objects:
            api.store.create(f"{plural}.{RBAC_GROUP}", msgspec.to_builtins(stored))
    history: History = api._history
    return Authorizer(history, rbac=True)


@settings(max_examples=examples(100))
@given(st.integers(0, 2**32))
def test_permissions_equal_the_emulated_servers(seed: int) -> None:
    draw = random.Random(seed)
    several = an_rbac(draw)
    permissions, theirs = Permissions(several), authorizer(KubeApi(), several)
    account, user = service_account("shop/a"), service_account_user("system:serviceaccount:shop:a")
    anna = [SubjectKey("User", "", "anna"), SubjectKey("Group", "", "developers")]
    for subjects, client in ((account, user), (anna, User("anna", ("developers",)))):
        for verb in ("create", "get", "update"):
            for resource in ("pods", "pods/exec", "secrets", "serviceaccounts/token"):
                for namespace in ("", *NAMESPACES):
                    for name in ("", "a", "c"):
                        mine = permissions.allows(subjects, Request(verb, "", resource, namespace, name))
                        assert mine == theirs.allows(client, Access(verb, "", resource, namespace, name))


def aggregated(selector: LabelSelector, *parts: Role) -> Permissions:
    whole = role("whole", aggregation_rule=AggregationRule(cluster_role_selectors=[selector]))
    return Permissions(rbac(cluster=(whole, *parts), bindings=(bound("whole", "User anna"),)))


def has(permissions: Permissions, resource: str) -> bool:
    return permissions.allows([SubjectKey("User", "", "anna")], Request("get", "", resource))


def test_an_aggregated_role_has_the_rules_of_the_selected_roles() -> None:
    part = role("part", rule("get", "", "pods"), labels={"to": "whole"})
    other = role("other", rule("get", "", "secrets"), labels={"to": "else"})
    permissions = aggregated(LabelSelector(match_labels={"to": "whole"}), part, other)
    assert has(permissions, "pods")
    assert not has(permissions, "secrets")
    chained = AggregationRule(cluster_role_selectors=[LabelSelector(match_labels={"to": "middle"})])
    middle = role("middle", labels={"to": "whole"}, aggregation_rule=chained)
    last = role("last", rule("get", "", "pods"), labels={"to": "middle"})
    assert has(aggregated(LabelSelector(match_labels={"to": "whole"}), middle, last), "pods")
    itself = AggregationRule(cluster_role_selectors=[LabelSelector(match_labels={"to": "whole"})])
    cycle = role("cycle", rule("get", "", "pods"), labels={"to": "whole"}, aggregation_rule=itself)
    assert has(aggregated(LabelSelector(match_labels={"to": "whole"}), cycle), "pods")


@pytest.mark.parametrize(
    ("operator", "values", "selected"),
    [
        ("In", ["x"], True),
        ("In", ["y"], False),
        ("NotIn", ["y"], True),
        ("NotIn", ["x"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
        ("Unheard", None, False),
    ],
)
def test_label_expressions_select_as_in_the_api(operator: str, values: list[str] | None, *, selected: bool) -> None:
    part = role("part", rule("get", "", "pods"), labels={"to": "x"})
    selector = LabelSelector(match_expressions=[SelectorRequirement(key="to", operator=operator, values=values)])
    assert has(aggregated(selector, part), "pods") is selected


def test_each_action_is_found_by_exactly_its_own_rule() -> None:
    for check in CHECKS:
        for resource in check.resources:
            one = rule(check.verbs[0], check.group, resource)
            permissions = Permissions(rbac(cluster=(role("one", one),), bindings=(bound("one", "User anna"),)))
            everything = frozenset({"shop/a"})
            targets = Targets(
                identities=everything,
                offered=lambda _namespace: frozenset({"shop/a"}),
                of_pods=ByName({"shop/a": everything}),
                of_accounts=ByName({"shop/a": everything}),
                of_secrets=ByName({"shop/a": everything}),
            )
            (subject,) = find_subjects(permissions, targets)
            assert [(right.action, right.verbs) for right in subject.rights] == [(check.action, [check.verbs[0]])]
    assert {check.action for check in CHECKS} == set(Action)
