"""What the tests on nodes with Cilium share: their time limit, and the record of their results."""

from collections.abc import Generator
from typing import Final

import pytest

from tests.system.node import matrix
from tests.system.node.cilium_programs import Routing, find
from tests.system.node.matrix import MODULES
from tests.system.node.programs import BUILD

TIMEOUT_SECONDS = 600
"""The first test of a module starts a test bed."""
RESULTS: Final = pytest.StashKey[dict[Routing, dict[str, bool]]]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give the tests of this folder more time than the others, unless their own or their module's limit is set."""
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record whether each test of this folder has passed, with its fixtures."""
    report = yield
    results = item.config.stash.setdefault(RESULTS, {})
    for routing, module in MODULES.items():
        if item.path == module:
            tests = results.setdefault(routing, {})
            tests[item.name] = tests.get(item.name, True) and report.passed
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save the results of the modules of which each test ran. `-k` for a part of a module saves nothing."""
    for routing, tests in session.config.stash.get(RESULTS, {}).items():
        if matrix.names_of_tests(MODULES[routing]) <= tests.keys():
            result = matrix.CiliumResult(routing=routing, cilium=find().version, tests=tests, **matrix.circumstances())
            matrix.add(BUILD, {}, {routing: result})
