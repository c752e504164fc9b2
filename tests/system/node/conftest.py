"""What the tests on real nodes share: a test bed, and the record of results on nodes with Cilium."""

from collections.abc import Iterator

import pytest

from tests.system.node.bed import Bed
from tests.system.node.matrix import MODULES, CiliumResult, Results, circumstances, names_of_tests
from tests.system.node.programs import BUILD, find_cilium
from tests.system.node.scenario import Scenarios
from tests.system.node.scenarios.applications import Applications, applications


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save the results of the modules of which each test ran. `-k` for a part of a module saves nothing."""
    stats = getattr(session.config.pluginmanager.get_plugin("terminalreporter"), "stats", {})
    passed, *failed = ({report.nodeid for report in stats.get(kind, ())} for kind in ("passed", "failed", "error"))
    for routing, module in MODULES.items():
        ran = [item for item in session.items if item.path == module and item.nodeid in passed.union(*failed)]
        tests = {item.name: item.nodeid in passed.difference(*failed) for item in ran}
        if set(names_of_tests(routing)) <= tests.keys():
            results = Results(BUILD)
            results.cilium[routing] = CiliumResult(
                routing=routing, cilium=find_cilium().version, tests=tests, **circumstances()
            )
            results.save()


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """One node with a bridge, kube-proxy in mode iptables, and the chart with the default values."""
    with Bed() as started:
        started.install()
        yield started


@pytest.fixture(scope="session")
def scenarios(bed: Bed) -> Iterator[Scenarios]:
    """Prober pods on the test bed. The results are saved for docs/reliability.md at the end."""
    made = Scenarios(bed)
    made.create_probers()
    yield made
    made.save()


@pytest.fixture
def apps(bed: Bed) -> Iterator[Applications]:
    """Identities, bindings and pods of one test on the test bed."""
    with applications(bed) as made:
        yield made
