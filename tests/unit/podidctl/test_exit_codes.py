"""The exit code of `doctor` for warnings, by its flag."""

import pytest

from podidctl.cli import main
from podidctl.commands import doctor
from podidctl.report.documents import CheckResult, Report
from podidctl.report.finding import Level


@pytest.mark.parametrize(
    ("level", "flags", "code"),
    [
        (Level.WARNING, [], 0),
        (Level.WARNING, ["--fail-on=problem"], 0),
        (Level.WARNING, ["--fail-on=warning"], 3),
        (Level.PROBLEM, [], 3),
        (Level.PROBLEM, ["--fail-on=warning"], 3),
        (Level.UNKNOWN, ["--fail-on=warning"], 1),
        (Level.OK, ["--fail-on=warning"], 0),
        (Level.OK, ["--fail-on=ok"], 2),
    ],
)
def test_a_warning_is_no_failure_unless_the_flag_requests_it(
    level: Level, flags: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def examine(*_: object, **__: object) -> Report:
        return Report(findings=[CheckResult(check="exceptions", level=level, says="one", next="")])

    monkeypatch.setattr(doctor, "_examine", examine)
    assert main(["doctor", *flags]) == code
