"""The label of AKS for eBPF host routing makes the real NMI remove its rules, and not Ready."""

import json
import signal

import pytest

from podidentity.kube.client import MERGE_PATCH
from podidentity.resources import NODES
from podidentity_sandbox.sandbox import Sandbox
from tests.integration.identity_requests import Answer, ask_at
from tests.integration.node_tables import JUMP, REDIRECT, end, saved, start_again
from tests.support.waiting import until

pytestmark = pytest.mark.root
NODE = "node-0"


async def ready(sandbox: Sandbox) -> Answer:
    port = sandbox.nmis[NODE].probe_port
    return await ask_at(sandbox, sandbox.contexts[NODE], f"127.0.0.1:{port}", "/readyz")


@pytest.mark.parametrize(("value", "status"), [("true", 503), ("false", 200)])
async def test_with_the_label_of_ebpf_host_routing_nmi_writes_no_rule_and_is_not_ready(
    node: Sandbox, value: str, status: int
) -> None:
    assert (await ready(node)).status == 200
    body = json.dumps({"metadata": {"labels": {"kubernetes.azure.com/ebpf-host-routing": value}}}).encode()
    await node.cluster.client.request("PATCH", NODES.path("", NODE), body=body, content_type=MERGE_PATCH)
    await end(node, signal.SIGKILL)
    assert REDIRECT in saved(node), "a rule of the former NMI"
    await start_again(node)
    answer = await until(
        lambda: ready(node), "NMI, which reads the labels while it starts", holds=lambda seen: seen.status == status
    )
    assert "could not be read" not in node.nmis[NODE].program.output()
    assert ("kubernetes.azure.com/ebpf-host-routing=true" in answer.text) is (status == 503)
    assert ("use --redirect=cilium" in answer.text) is (status == 503)
    assert (REDIRECT in saved(node)) is (status == 200)
    assert (JUMP in saved(node)) is (status == 200)
