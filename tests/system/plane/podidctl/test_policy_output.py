"""Results of a policy as text, SARIF and JUnit XML."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import msgspec
import pytest
from jsonschema import Draft4Validator, FormatChecker

from podidctl.access.policy import NAME_MAX, PolicyResult, RuleResult, evaluate, parse_policy
from podidctl.access.policy_output import SARIF_SCHEMA, PolicyOutput, render_policy
from podidctl.access.policy_rules import IdentityTypes, Violation
from podidctl.facts.model import ReadFailure
from tests.support.podidctl.access.small_cluster import reviewed
from tests.support.testplane import up

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
    violation = Violation(object=f"Pod shop/{HOSTILE}", message=HOSTILE)
    rule = IdentityTypes(name=HOSTILE, why=HOSTILE, types=[])
    result = RuleResult(rule, line=3, violations=[violation], undecided=[HOSTILE])
    return PolicyResult(file="a b#c.yaml", rules=[result])


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
    names = ("n" * (NAME_MAX - 1) + digit for digit in "12")
    rules = ", ".join(f"{{rule: single-namespace, name: {name}}}" for name in names)
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


JUNIT: dict[str, set[str]] = {
    "testsuites": {"name", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped"},
    "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "system-out": set(),
}
"""Elements and attributes of the report. Jenkins' schema has all of them, and requires no other.

Source: jenkinsci/xunit-plugin, src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd.
"""


def sarif(result: PolicyResult) -> Any:
    """Return the run of the log, which `test_the_log_is_valid` validates."""
    (run,) = json.loads(render_policy(result, PolicyOutput.SARIF))["runs"]
    return run


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - the text is the program's own


def test_text_names_the_rule_the_object_and_the_reason() -> None:
    lines = render_policy(results(), PolicyOutput.TEXT).splitlines()
    assert lines[:2] == ["error: no secrets: AzureIdentity ops/legacy has type 1", "  Secrets leak"]
    assert "warning: all federated: AzureIdentity shop/payments has type 0" in lines
    assert lines[-1] == "4 rules, 4 violations"


def test_an_undecided_rule_is_counted_and_a_failed_execution() -> None:
    lines = render_policy(results(azure=None), PolicyOutput.TEXT).splitlines()
    assert "unknown: explained: azure: it was not read; pass --cloudconfig" in lines
    assert lines[-1] == "4 rules, 3 violations, 1 rule not decided"
    (invocation,) = sarif(results(azure=None))["invocations"]
    assert not invocation["executionSuccessful"]
    assert [notification["associatedRule"]["id"] for notification in invocation["toolExecutionNotifications"]] == [
        "explained"
    ]


def test_sarif_has_one_result_per_violation_at_the_line_of_its_rule() -> None:
    run = sarif(results())
    assert [result["ruleId"] for result in run["results"]] == [
        "no secrets",
        "all federated",
        "all federated",
        "explained",
    ]
    first = run["results"][0]
    assert first["level"] == "error"
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"]
    (location,) = first["locations"]
    assert location["physicalLocation"] == {"artifactLocation": {"uri": "ci/policy.yaml"}, "region": {"startLine": 4}}
    assert location["logicalLocations"] == [{"fullyQualifiedName": "ops/legacy", "kind": "AzureIdentity"}]
    assert run["invocations"] == [{"executionSuccessful": True}]
    first, second = (
        [result["partialFingerprints"]["podidctlAccess/v1"] for result in sarif(results())["results"]] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == len(first)


def test_junit_has_one_case_per_rule() -> None:
    root = parsed(render_policy(results(azure=None), PolicyOutput.JUNIT))
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "4", "1", "1")
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert list(cases) == ["no secrets", "one namespace", "all federated", "explained"]
    failure = cases["no secrets"].find("failure")
    assert failure is not None
    assert failure.text == "Secrets leak\nAzureIdentity ops/legacy has type 1"
    assert list(cases["one namespace"]) == []
    assert [element.tag for element in cases["all federated"]] == ["system-out"], "a warning does not fail"
    assert [element.tag for element in cases["explained"]] == ["error"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_junit_has_only_what_jenkins_accepts_and_its_totals_are_those_of_its_cases(shape: Any) -> None:
    root = parsed(render_policy(shape(), PolicyOutput.JUNIT))
    (suite,) = root
    cases = list(suite)
    assert (root.tag, suite.tag, {case.tag for case in cases}) == ("testsuites", "testsuite", {"testcase"})
    assert {element.tag for case in cases for element in case} <= {"failure", "error", "system-out"}
    for element in root.iter():
        assert set(element.keys()) == JUNIT[element.tag]
    for element in (root, suite):
        assert element.get("tests") == str(len(cases))
        for name, child in (("failures", "failure"), ("errors", "error")):
            assert element.get(name) == str(sum(case.find(child) is not None for case in cases))


@pytest.mark.parametrize("output", PolicyOutput)
def test_names_of_objects_cannot_control_a_terminal_or_break_the_document(output: PolicyOutput) -> None:
    text = render_policy(hostile(), output)
    assert all(character.isprintable() or character == "\n" for character in text)
    match output:
        case PolicyOutput.SARIF:
            (result,) = sarif(hostile())["results"]
            assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b%23c.yaml"
        case PolicyOutput.JUNIT:
            (case,) = parsed(text).iter("testcase")
            assert [element.tag for element in case] == ["failure", "system-out"]
        case PolicyOutput.TEXT:
            assert text.count("\n") == 4, "one line each: the violation, the unknown part, the reason, the totals"


MODULE: Final = "github.com/owenrumney/go-sarif/v3@v3.2.3"
FILE: Final = "pkg/report/v210/sarif/schema.go"
SHA256: Final = "639ddb152218b3b959c5a30cb7e6dabc753801c63a0b73d7e8df060c24055db6"
"""Of the file."""
BEGIN: Final = "const schema = `"


def sarif_schema() -> Any:
    """Return the schema. The first call downloads the module."""

    def make(new: Path) -> None:
        done = subprocess.run(
            [up.go(), "mod", "download", "-json", MODULE], cwd=new, capture_output=True, check=True, timeout=100
        )
        content = (Path(json.loads(done.stdout)["Dir"]) / FILE).read_bytes()
        assert hashlib.sha256(content).hexdigest() == SHA256, "the module has another content"
        (new / "schema.json").write_text(content.decode().partition(BEGIN)[2].rpartition("`")[0])

    return json.loads((up.once(up.CACHE / f"sarif-{SHA256[:16]}", make) / "schema.json").read_text())


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = sarif_schema()
    assert schema["id"] == SARIF_SCHEMA, "the log names the schema that it is tested with"
    return Draft4Validator(schema, format_checker=FormatChecker())


@pytest.mark.plane
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_log_is_valid(shape: Any, validator: Any) -> None:
    validator.validate(json.loads(render_policy(shape(), PolicyOutput.SARIF)))
