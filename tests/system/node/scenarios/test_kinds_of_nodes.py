"""Two nodes of a scale set, with point-to-point links and kube-proxy in mode nftables."""

from collections.abc import Iterator

import pytest

from tests.system.node.bed import Bed
from tests.system.node.options import Options
from tests.system.node.processes import wait_for
from tests.system.node.scenarios.applications import SECONDS, applications

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scale_set() -> Iterator[Bed]:
    with Bed(Options(cni="ptp", proxy="nftables", nodes=2, scale_set="set")) as bed:
        # In mode nftables kube-proxy leaves route_localnet at 0, without which the node drops redirected packets.
        bed.install({"nmi": {"routeLocalnet": "set"}})
        yield bed


def test_should_support_a_scale_set_and_release_its_identity_with_the_last_pod(scale_set: Bed) -> None:
    with applications(scale_set) as apps:
        apps.bind("shared")
        for number, node in enumerate(scale_set.nodes):
            apps.run(f"app-{number}", "shared", nodeName=node.name)
            apps.eventually(f"app-{number}", "shared")
        apps.kubectl("delete", "pod", "app-0")
        wait_for(lambda: len(apps.assigned()) == 1, SECONDS, "the assignment of the deleted pod remains")
        assert "shared" in apps.attached()
        apps.eventually("app-1", "shared")
        apps.kubectl("delete", "pod", "app-1")
        apps.wait_for_detached("shared")


def test_the_identities_of_a_deleted_node_are_detached(scale_set: Bed) -> None:
    with applications(scale_set) as apps:
        node = scale_set.nodes[1]
        apps.bind("gone")
        apps.run("app", "gone", nodeName=node.name)
        apps.eventually("app", "gone")
        node.kubelet.stop()
        scale_set.kubectl("delete", "node", node.name)
        try:
            # The collector of pods without a node waits 40 s for its return.
            wait_for(lambda: not apps.assigned(), 120, "the assignment remains")
            apps.wait_for_detached("gone")
        finally:
            node.start_kubelet()
            scale_set.wait_for_nodes()
