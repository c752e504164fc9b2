"""The default values of the chart on a node where a Cilium agent routes pods' packets through netfilter.

The agent replaces kube-proxy and the CNI plugin. NMI selects backend and target itself.
"""

import time
from collections.abc import Iterator
from typing import Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client
from tests.system.node.bed import Bed
from tests.system.node.manifests import binding, identity, pod
from tests.system.node.options import Options
from tests.system.node.podidctl_commands import verified

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
        started.apply(
            identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID),
            binding(DEMO_IDENTITY),
            pod("app", ["sleep", "3600"], labels={"aadpodidbinding": DEMO_IDENTITY}),
        )
        started.kubectl("wait", "--for=condition=Ready", "pod/app", "--timeout=60s")
        yield started


def test_a_pod_gets_a_token_of_its_managed_identity(bed: Bed) -> None:
    client.eventually(bed, "app", DEMO_IDENTITY)


def test_verify_proves_that_nmi_receives_requests_from_the_pods_own_addresses(bed: Bed) -> None:
    code, answered_by = verified(bed)
    assert (code, set(answered_by.values())) == (0, {"nmi"})


def test_the_node_itself_reaches_imds(bed: Bed) -> None:
    url = f"http://{METADATA_ADDRESS}/metadata/instance?api-version=2021-02-01"
    assert "Server: IMDS" in bed.nodes[0].run("curl", "--silent", "--include", "--header", "Metadata: true", url)


def test_no_request_reaches_imds_when_nmi_is_killed(bed: Bed) -> None:
    begin = time.time()
    bed.nodes[0].run("kill", "-KILL", str(bed.nmi_pid()))
    client.eventually(bed, "app", DEMO_IDENTITY)
    assert [each for each in bed.azure.requests(begin) if each.leaked] == []
