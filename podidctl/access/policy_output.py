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


def render_policy(result: PolicyResult, output: PolicyOutput) -> str:
    """Return the results as text that ends with a line end."""
    match output:
        case PolicyOutput.SARIF:
            return json.dumps(sarif(result), indent=2) + "\n"
        case PolicyOutput.JUNIT:
            return junit(result)
        case PolicyOutput.TEXT:
            return "\n".join(text_lines(result)) + "\n"


def text_lines(result: PolicyResult) -> Iterator[str]:
    """Yield one line per violation, and the totals."""
    for each in result.rules:
        rule = each.rule
        for violation in each.violations:
            yield plain(f"{rule.severity}: {rule.name}: {_message(violation)}")
        for part in each.undecided:
            yield plain(f"unknown: {rule.name}: {part}")
        if (each.violations or each.undecided) and rule.why:
            yield f"  {plain(rule.why)}"
    violations = sum(len(each.violations) for each in result.rules)
    undecided = sum(bool(each.undecided) for each in result.rules)
    unknown = f", {counted(undecided, 'rule')} not decided" if undecided else ""
    yield f"{counted(len(result.rules), 'rule')}, {counted(violations, 'violation')}{unknown}"


def _message(violation: Violation) -> str:
    return f"{violation.object} {violation.says}"


def sarif(result: PolicyResult) -> dict[str, Any]:
    """Return the SARIF log. Locations are the rules in the policy file, with the objects as logical locations."""
    uri = _uri(result.file)
    driver = {
        "name": "podidctl",
        "version": VERSION,
        "rules": [
            {
                "id": plain(each.rule.name),
                "name": each.rule.kind,
                "shortDescription": {"text": plain(each.rule.why or f"{each.rule.kind}: {each.rule.name}")},
                "defaultConfiguration": {"level": each.rule.severity},
            }
            for each in result.rules
        ],
    }
    notifications = [
        {
            "level": "error",
            "message": {"text": plain(part)},
            "associatedRule": {"id": plain(each.rule.name), "index": number},
        }
        for number, each in enumerate(result.rules)
        for part in each.undecided
    ]
    invocation: dict[str, Any] = {"executionSuccessful": not notifications}
    if notifications:
        invocation["toolExecutionNotifications"] = notifications
    results = [
        _result(number, each, violation, uri)
        for number, each in enumerate(result.rules)
        for violation in each.violations
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
    digest = hashlib.sha256(json.dumps([result.rule.name, *violation]).encode()).hexdigest()
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


def junit(result: PolicyResult) -> str:
    """Return JUnit XML: one test case per rule. A violation is a failure, an undecided rule is an error."""
    failures = sum(each.is_violated for each in result.rules)
    errors = sum(bool(each.undecided) and not each.is_violated for each in result.rules)
    numbers = {"tests": str(len(result.rules)), "failures": str(failures), "errors": str(errors)}
    suites = ElementTree.Element("testsuites", {"name": "podidctl access", **numbers})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": plain(result.file), "skipped": "0", **numbers})
    for each in result.rules:
        rule = each.rule
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": rule.kind, "name": plain(rule.name), "time": "0"}
        )
        lines = [plain(_message(violation)) for violation in each.violations]
        undecided = [plain(part) for part in each.undecided]
        if each.is_violated:
            failure = ElementTree.SubElement(
                case, "failure", {"type": rule.kind, "message": counted(len(lines), "violation")}
            )
            failure.text = "\n".join(filter(None, (plain(rule.why), *lines)))
        elif undecided:
            error = ElementTree.SubElement(case, "error", {"type": "unknown", "message": "not decided"})
            error.text = "\n".join(undecided)
        if remaining := undecided if each.is_violated else lines:
            ElementTree.SubElement(case, "system-out").text = "\n".join(remaining)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
