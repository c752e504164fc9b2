"""The default values of the chart on a node where a Cilium agent routes pods' packets through netfilter.

The agent replaces kube-proxy and the CNI plugin. NMI selects backend and target itself.
"""

import time
from collections.abc import Iterator
from typing import Final

import pytest

from podidentity_sandbox.azure import DEMO_IDENTITY
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client
from tests.system.node.bed import Bed
from tests.system.node.manifests import demo, pod
from tests.system.node.options import Options

pytestmark = pytest.mark.node

CALLER: Final = f"""
import socket, time
while True:
    try: socket.create_connection(("{METADATA_ADDRESS}", 80), 1).close()
    except OSError: pass
    time.sleep(0.5)
"""
"""NMI on a node with Cilium and without kube-proxy is Ready after the first redirected packet."""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """A node with Cilium, the chart with the default values, and a pod with an identity."""
    with Bed(Options(cilium="legacy")) as started:
        started.apply(pod("caller", ["python3", "-c", CALLER]))
        started.install()
        started.apply(*demo(), pod("app", selector=DEMO_IDENTITY))
        started.wait_for_pods("app")
        yield started


def test_a_pod_gets_a_token_of_its_managed_identity(bed: Bed) -> None:
    client.eventually(bed, "app", DEMO_IDENTITY)


def test_verify_proves_that_nmi_receives_requests_from_the_pods_own_addresses(bed: Bed) -> None:
    assert client.verified(bed) == (0, {bed.nodes[0].name: "nmi"})


def test_the_node_itself_reaches_imds(bed: Bed) -> None:
    url = f"http://{METADATA_ADDRESS}/metadata/instance?api-version=2021-02-01"
    assert "Server: IMDS" in bed.nodes[0].run("curl", "--silent", "--include", "--header", "Metadata: true", url)


def test_no_request_reaches_imds_when_nmi_is_killed(bed: Bed) -> None:
    begin = time.time()
    bed.kill_nmi()
    client.eventually(bed, "app", DEMO_IDENTITY)
    assert bed.azure.leaked(begin) == []
