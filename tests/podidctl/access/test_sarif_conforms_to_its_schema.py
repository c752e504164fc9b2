"""Every shape of the SARIF output is valid by the official schema."""

import json
from typing import Any

import msgspec
import pytest
from jsonschema import Draft4Validator, FormatChecker

from podidctl.access.policy import NAME_MAX, parse_policy
from podidctl.access.policy_output import SARIF_SCHEMA, PolicyOutput, render_policy
from podidctl.access.policy_rules import evaluate
from podidctl.access.violations import PolicyResult
from podidctl.diagnosis.input import ReadFailure
from tests.podidctl.access.sarif_schema import sarif_schema
from tests.podidctl.access.small_cluster import reviewed
from tests.podidctl.access.test_policy_output import hostile, results

pytestmark = pytest.mark.plane

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


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = sarif_schema()
    assert schema["id"] == SARIF_SCHEMA, "the log names the schema that it is tested with"
    return Draft4Validator(schema, format_checker=FormatChecker())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_log_is_valid(shape: Any, validator: Any) -> None:
    validator.validate(json.loads(render_policy(shape(), PolicyOutput.SARIF)))


def test_the_schema_rejects_other_logs(validator: Any) -> None:
    document = json.loads(render_policy(results(), PolicyOutput.SARIF))
    document["runs"][0]["results"][0]["level"] = "fatal"
    assert not validator.is_valid(document)
