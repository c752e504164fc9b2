"""The test bed that the tests of this folder share: one node with a bridge, kube-proxy in mode iptables, the chart."""

from collections.abc import Iterator

import pytest

from tests.system.node.bed import Bed
from tests.system.node.options import Options
from tests.system.node.scenario import Scenarios
from tests.system.node.scenarios.applications import Applications, applications

TIMEOUT_SECONDS = 400
"""The API server is unavailable for two minutes in one test, and the first test starts the test bed."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give the tests of this folder more time than the others, unless their own or their module's limit is set."""
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """A test bed with the chart installed with the default values."""
    with Bed(Options()) as started:
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
