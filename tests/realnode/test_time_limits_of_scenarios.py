"""The time limits of tests on real nodes: that of the folder, unless a module or a test has one of its own."""

from types import ModuleType

import pytest

from tests.realnode.on_cilium import conftest as of_cilium
from tests.realnode.scenarios import conftest as of_scenarios

pytestmark = pytest.mark.timeout(77)


def collected(parent: pytest.Collector) -> pytest.Function:
    """Return a test without markers that is collected from *parent*."""
    return pytest.Function.from_parent(parent, name="test_of_a_scenario", callobj=lambda: None)


def limit(item: pytest.Item) -> object:
    marker = item.get_closest_marker("timeout")
    assert marker is not None
    return marker.args[0]


@pytest.mark.parametrize("folder", [of_scenarios, of_cilium])
def test_the_limit_of_a_module_is_kept(request: pytest.FixtureRequest, folder: ModuleType) -> None:
    item = collected(request.node.parent)
    folder.pytest_itemcollected(item)
    assert limit(item) == 77


@pytest.mark.parametrize("folder", [of_scenarios, of_cilium])
def test_a_test_without_a_limit_gets_that_of_the_folder(request: pytest.FixtureRequest, folder: ModuleType) -> None:
    item = collected(request.session)
    folder.pytest_itemcollected(item)
    assert limit(item) == folder.TIMEOUT_SECONDS
