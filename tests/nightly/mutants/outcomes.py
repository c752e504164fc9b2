"""A pytest plugin that writes each test's Outcome as a line of JSON into the file named by MUTANT_OUTCOMES."""

import gc
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, settings


@dataclass(frozen=True)
class Outcome:
    """The outcome of one phase of one test. A module that cannot be collected has the phase "collect"."""

    test: str
    when: str
    outcome: str
    errors: Sequence[str] = ()
    """The types of the exceptions that were raised, those inside of groups and their bases included."""


def _types(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _types(part)
    else:
        yield from (type_.__name__ for type_ in type(error).__mro__[:-2])


def _write(outcome: Outcome) -> None:
    with Path(os.environ["MUTANT_OUTCOMES"]).open("ab") as file:
        file.write(msgspec.json.encode(outcome) + b"\n")


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
    _write(Outcome(item.nodeid.partition("[")[0], report.when, report.outcome, errors))
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(Outcome(report.nodeid, "collect", "failed"))
