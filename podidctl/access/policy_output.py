"""Results of a policy as text, SARIF 2.1.0 and JUnit XML. Pure.

Names in the results come from objects that tenants write: they are cut, and control characters are replaced.
"""

import hashlib
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from podidctl.access.policy import PolicyResult, RuleResult
from podidctl.access.policy_rules import Violation
from podidentity.report import counted, plain
from podidentity.version import VERSION

SARIF_VERSION: Final = "2.1.0"
SARIF_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT: Final = "podidctlAccess/v1"


class PolicyOutput(StrEnum):
    """Output format of the results."""

    TEXT = "text"
    SARIF = "sarif"
    JUNIT = "junit"


def render_policy(policy: PolicyResult, output: PolicyOutput) -> str:
    """Return the results as text that ends with a line end."""
    match output:
        case PolicyOutput.SARIF:
            return json.dumps(sarif(policy), indent=2) + "\n"
        case PolicyOutput.JUNIT:
            return junit(policy)
        case PolicyOutput.TEXT:
            return "\n".join(text_lines(policy)) + "\n"


def text_lines(policy: PolicyResult) -> Iterator[str]:
    """Yield one line per violation, and the totals."""
    for result in policy.rules:
        rule = result.rule
        for violation in result.violations:
            yield plain(f"{rule.severity}: {rule.name}: {_message(violation)}")
        for part in result.undecided:
            yield plain(f"unknown: {rule.name}: {part}")
        if (result.violations or result.undecided) and rule.why:
            yield f"  {plain(rule.why)}"
    violations = sum(len(result.violations) for result in policy.rules)
    undecided = sum(bool(result.undecided) for result in policy.rules)
    unknown = f", {counted(undecided, 'rule')} not decided" if undecided else ""
    yield f"{counted(len(policy.rules), 'rule')}, {counted(violations, 'violation')}{unknown}"


def _message(violation: Violation) -> str:
    return f"{violation.object} {violation.message}"


def sarif(policy: PolicyResult) -> dict[str, Any]:
    """Return the SARIF log. Locations are the rules in the policy file, with the objects as logical locations."""
    uri = _uri(policy.file)
    driver = {
        "name": "podidctl",
        "version": VERSION,
        "rules": [
            {
                "id": plain(result.rule.name),
                "name": result.rule.kind,
                "shortDescription": {"text": plain(result.rule.why or f"{result.rule.kind}: {result.rule.name}")},
                "defaultConfiguration": {"level": result.rule.severity},
            }
            for result in policy.rules
        ],
    }
    notifications = [
        {
            "level": "error",
            "message": {"text": plain(part)},
            "associatedRule": {"id": plain(result.rule.name), "index": number},
        }
        for number, result in enumerate(policy.rules)
        for part in result.undecided
    ]
    invocation: dict[str, Any] = {"executionSuccessful": not notifications}
    if notifications:
        invocation["toolExecutionNotifications"] = notifications
    results = [
        _result(number, result, violation, uri)
        for number, result in enumerate(policy.rules)
        for violation in result.violations
    ]
    run = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SARIF_SCHEMA, "version": SARIF_VERSION, "runs": [run]}


def _result(number: int, result: RuleResult, violation: Violation, uri: str) -> dict[str, Any]:
    kind, _, name = violation.object.partition(" ")
    # Without the line, which changes when another rule is added above.
    digest = hashlib.sha256(json.dumps([result.rule.name, violation.object, violation.message]).encode()).hexdigest()
    return {
        "ruleId": plain(result.rule.name),
        "ruleIndex": number,
        "level": result.rule.severity,
        "message": {"text": plain(_message(violation))},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": result.line}},
                "logicalLocations": [{"fullyQualifiedName": plain(name), "kind": plain(kind)}],
            }
        ],
        "partialFingerprints": {FINGERPRINT: digest},
    }


def _uri(file: str) -> str:
    """Return the file as a URI: relative to the working directory if it is given so."""
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def junit(policy: PolicyResult) -> str:
    """Return JUnit XML: one test case per rule. A violation is a failure, an undecided rule is an error."""
    failures = sum(result.is_violated for result in policy.rules)
    errors = sum(bool(result.undecided) and not result.is_violated for result in policy.rules)
    numbers = {"tests": str(len(policy.rules)), "failures": str(failures), "errors": str(errors)}
    suites = ElementTree.Element("testsuites", {"name": "podidctl access", **numbers})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": plain(policy.file), "skipped": "0", **numbers})
    for result in policy.rules:
        rule = result.rule
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": rule.kind, "name": plain(rule.name), "time": "0"}
        )
        lines = [plain(_message(violation)) for violation in result.violations]
        undecided = [plain(part) for part in result.undecided]
        if result.is_violated:
            failure = ElementTree.SubElement(
                case, "failure", {"type": rule.kind, "message": counted(len(lines), "violation")}
            )
            failure.text = "\n".join(filter(None, (plain(rule.why), *lines)))
        elif undecided:
            error = ElementTree.SubElement(case, "error", {"type": "unknown", "message": "not decided"})
            error.text = "\n".join(undecided)
        if remaining := undecided if result.is_violated else lines:
            ElementTree.SubElement(case, "system-out").text = "\n".join(remaining)
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return f"{document.decode()}\n"
