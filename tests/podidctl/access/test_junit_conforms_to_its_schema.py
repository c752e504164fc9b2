"""Every shape of the JUnit output is valid by the schema of Jenkins, and its totals are those of its cases."""

from typing import Any

import pytest

from podidctl.access.policy_output import PolicyOutput, render_policy
from tests.podidctl.access.junit_schema import violations
from tests.podidctl.access.policy_results import SHAPES, results


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_report_is_valid(shape: Any) -> None:
    assert violations(render_policy(shape(), PolicyOutput.JUNIT)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<testcase ", '<testcase status="failed" '),
        ('<testcase classname="single-namespace" name="one namespace"', "<testcase"),
        ("<failure ", "<failed "),
        ("<system-out>", "<system-out><b />"),
        ('failures="1"', 'failures="2"'),
        ('tests="4"', 'tests="5"'),
        ("<testsuite ", "text<testsuite "),
    ],
)
def test_other_reports_are_rejected(old: str, new: str) -> None:
    text = render_policy(results(azure=None), PolicyOutput.JUNIT)
    assert old in text
    changed = text.replace(old, new, 1).replace("</failure>", "</failed>" if new == "<failed " else "</failure>")
    assert violations(changed)
