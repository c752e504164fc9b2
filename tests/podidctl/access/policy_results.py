"""Results of a policy in every shape, for the tests of the output formats."""

from typing import Any

import msgspec

from podidctl.access.policy import NAME_MAX, parse_policy
from podidctl.access.policy_rules import evaluate
from podidctl.access.violations import PolicyResult, RuleResult, Violation
from podidctl.diagnosis.input import ReadFailure
from tests.podidctl.access.small_cluster import reviewed

POLICY = """
version: 1
rules:
  - {rule: identity-types, name: no secrets, types: [0, 3], why: Secrets leak}
  - {rule: single-namespace, name: one namespace}
  - {rule: identity-types, name: all federated, types: [3], severity: warning}
  - {rule: no-unexplained-identities, name: explained}
"""
HOSTILE = 'x\x1b[2J\x07\u202e\x00"]]><a>&'


def results(**changes: Any) -> PolicyResult:
    return evaluate(reviewed(**changes), parse_policy(POLICY.encode()), "ci/policy.yaml")


def hostile() -> PolicyResult:
    violation = Violation(object=f"Pod shop/{HOSTILE}", says=HOSTILE)
    rule = RuleResult(
        name=HOSTILE,
        kind="identity-types",
        why=HOSTILE,
        severity="error",
        line=3,
        violations=[violation],
        undecided=[HOSTILE],
    )
    return PolicyResult(file="a b#c.yaml", rules=[rule])


UNREAD: dict[str, Any] = {
    name: ReadFailure("not allowed") for name in ("identities", "bindings", "assigned", "pods", "nodes", "rbac")
}


def without_violations() -> PolicyResult:
    policy = b"version: 1\nrules: [{rule: single-namespace, name: a}]"
    return evaluate(reviewed(), parse_policy(policy), "/ci/policy.yaml")


def many() -> PolicyResult:
    (first, *_) = results().rules
    return msgspec.structs.replace(
        results(), rules=[msgspec.structs.replace(first, violations=[*first.violations] * 5000)]
    )


def long_names() -> PolicyResult:
    """Two rules whose names have the greatest length and differ in the last character."""
    names = ("n" * (NAME_MAX - 1) + each for each in "12")
    rules = ", ".join(f"{{rule: single-namespace, name: {each}}}" for each in names)
    return evaluate(reviewed(), parse_policy(f"version: 1\nrules: [{rules}]".encode()), "p" * 5000)


SHAPES = {
    "usual": results,
    "without-violations": without_violations,
    "undecided": lambda: results(azure=None),
    "unread": lambda: results(**UNREAD),
    "hostile": hostile,
    "many": many,
    "long-names": long_names,
}
