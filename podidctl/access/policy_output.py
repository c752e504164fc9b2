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

from podidctl.access.violations import PolicyResult, RuleResult, Violation
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
    for rule in result.rules:
        for each in rule.violations:
            yield plain(f"{rule.severity}: {rule.name}: {_message(each)}")
        for part in rule.undecided:
            yield plain(f"unknown: {rule.name}: {part}")
        if (rule.violations or rule.undecided) and rule.why:
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
                "id": plain(each.name),
                "name": each.kind,
                "shortDescription": {"text": plain(each.why or f"{each.kind}: {each.name}")},
                "defaultConfiguration": {"level": each.severity},
            }
            for each in result.rules
        ],
    }
    notifications = [
        {
            "level": "error",
            "message": {"text": plain(part)},
            "associatedRule": {"id": plain(each.name), "index": number},
        }
        for number, each in enumerate(result.rules)
        for part in each.undecided
    ]
    invocation: dict[str, Any] = {"executionSuccessful": not notifications}
    if notifications:
        invocation["toolExecutionNotifications"] = notifications
    return {
        "$schema": SARIF_SCHEMA,
        "version": SARIF_VERSION,
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [invocation],
                "results": [
                    _result(number, rule, each, uri)
                    for number, rule in enumerate(result.rules)
                    for each in rule.violations
                ],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _result(number: int, rule: RuleResult, violation: Violation, uri: str) -> dict[str, Any]:
    kind, _, name = violation.object.partition(" ")
    digest = hashlib.sha256(json.dumps([rule.name, violation.object, violation.says]).encode()).hexdigest()
    return {
        "ruleId": plain(rule.name),
        "ruleIndex": number,
        "level": rule.severity,
        "message": {"text": plain(_message(violation))},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": rule.line}},
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
    errors = sum(bool(each.undecided) and not _fails(each) for each in result.rules)
    numbers = {
        "tests": str(len(result.rules)),
        "failures": str(sum(map(_fails, result.rules))),
        "errors": str(errors),
    }
    suites = ElementTree.Element("testsuites", {"name": "podidctl access", **numbers})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": plain(result.file), "skipped": "0", **numbers})
    for rule in result.rules:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": rule.kind, "name": plain(rule.name), "time": "0"}
        )
        lines = [plain(_message(each)) for each in rule.violations]
        undecided = [plain(each) for each in rule.undecided]
        if _fails(rule):
            failure = ElementTree.SubElement(
                case, "failure", {"type": rule.kind, "message": counted(len(lines), "violation")}
            )
            failure.text = "\n".join(filter(None, (plain(rule.why), *lines)))
        elif undecided:
            error = ElementTree.SubElement(case, "error", {"type": "unknown", "message": "not decided"})
            error.text = "\n".join(undecided)
        remaining = [*([] if _fails(rule) else lines), *(undecided if _fails(rule) else ())]
        if remaining:
            ElementTree.SubElement(case, "system-out").text = "\n".join(remaining)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _fails(rule: RuleResult) -> bool:
    return bool(rule.violations) and rule.severity == "error"
