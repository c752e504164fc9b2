"""A pytest plugin that writes each test's outcome as a line of JSON into the file named by MUTANT_OUTCOMES.

    {"test": "tests/x.py::test_y", "when": "call", "outcome": "failed", "errors": ["AssertionError"]}

`errors` are the types of the exceptions that were raised, those inside of groups and their bases included. A module
that cannot be collected is a line with `when` "collect".
"""

import gc
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings


def _types(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _types(each)
    else:
        yield from (each.__name__ for each in type(error).__mro__[:-2])


def _write(**line: object) -> None:
    with Path(os.environ["MUTANT_OUTCOMES"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Keep property tests from spending a minute on the smallest example that fails: any one that fails is enough."""
    settings.register_profile("mutants", settings(), phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    # pytest parses sources of the traceback. Python 3.11 fails if a finalizer that logs parses one at the same time.
    gc.disable()
    try:
        report = yield
    finally:
        gc.enable()
    errors = sorted(set(_types(call.excinfo.value))) if call.excinfo else []
    _write(test=item.nodeid.partition("[")[0], when=report.when, outcome=report.outcome, errors=errors)
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(test=report.nodeid, when="collect", outcome="failed", errors=[])
