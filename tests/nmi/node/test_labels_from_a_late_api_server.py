"""The real `nmi` on a node whose API server returns the node's labels late, or not at all.

Excluded: the redirect's decisions (test_rules_follow_the_labels), and the reads (tests/nmi/test_node_labels.py).
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nmi.node.host_routing import LABEL
from podidentity_sandbox.faults import Mode
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.nmi.node.machines import Machine
from tests.nmi.node.unavailable_api_server import Away, Nmi, start_without_api_server
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.programs]

NODE = "/api/v1/nodes/n0"
KUBELET = "KUBELET_NODE_LABELS=agentpool=a\n"
FLAGS = ("--redirect=iptables-nft", "--fail-closed", "--http-probe-port=8085")


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    machine = await asyncio.to_thread(Machine)
    yield machine
    await asyncio.to_thread(machine.close)


@pytest.fixture
async def away(tmp_path: Path, machine: Machine) -> AsyncIterator[Away]:
    """The API server, which only processes on *machine* use."""
    async with start_without_api_server(tmp_path) as made:
        await made.proxy.stop()
        listener = await asyncio.to_thread(machine.listening, made.proxy.port)
        await made.proxy.start(extra_sockets=[listener])
        yield made


async def start(away: Away, machine: Machine, kubelet: str) -> Nmi:
    """Start NMI with these labels in the kubelet's flags."""
    file = away.folder / "kubelet"
    file.write_text(kubelet)
    return await away.nmi(*FLAGS, f"--kubelet-config={file}", inside=machine.inside())


@pytest.mark.parametrize("kubelet", [KUBELET, ""], ids=["labels in the kubelet's flags", "no labels there"])
@pytest.mark.parametrize("value", ["true", "false"])
async def test_the_label_of_an_api_server_that_responds_late_decides(
    away: Away, machine: Machine, kubelet: str, value: str
) -> None:
    away.api.store.create("nodes", {"metadata": {"name": "n0", "labels": {LABEL: value}}})
    await away.proxy.set_mode(Mode.RESET)
    nmi = await start(away, machine, kubelet)
    await until(lambda: "no contact with the API server" in nmi.read_log(), nmi.read_log)
    if kubelet:
        await until(
            lambda: asyncio.to_thread(machine.rules, "nft", "FORWARD"),
            nmi.read_log,
            holds=lambda rules: len(rules) == 1,
        )
    else:
        await until(lambda: "no rule is written until the API server responds" in nmi.read_log(), nmi.read_log)
        assert machine.rules("nft", "FORWARD") == []
    await away.proxy.set_mode(Mode.PASS)
    await until(lambda: "nmi active" in nmi.read_log(), nmi.read_log)
    expected = 0 if value == "true" else 1
    await until(
        lambda: asyncio.to_thread(machine.rules, "nft", "FORWARD"),
        nmi.read_log,
        holds=lambda rules: len(rules) == expected,
    )
    await until(
        lambda: asyncio.to_thread(machine.rules, "nft", "PREROUTING"),
        nmi.read_log,
        holds=lambda rules: len(rules) == expected,
    )
    assert ("so NMI writes no rule" in nmi.read_log()) is (value == "true")
    await nmi.stop()


async def test_a_node_object_that_cannot_be_read_delays_only_a_start_without_labels(
    away: Away, machine: Machine
) -> None:
    away.api.store.create("nodes", {"metadata": {"name": "n0"}})
    reads = 0

    def no_node(request: object) -> StatusError | None:
        nonlocal reads
        if getattr(request, "path", "") != NODE:
            return None
        reads += 1
        return StatusError(500, "InternalError", "nodes cannot be read")

    away.api.intercept = no_node
    nmi = await start(away, machine, KUBELET)
    await until(lambda: "nmi active" in nmi.read_log(), nmi.read_log)
    assert machine.rules("nft", "PREROUTING") != []
    await nmi.stop()
    machine.run("iptables-nft", "-F", "FORWARD")
    reads = 0
    nmi = await start(away, machine, "")
    await until(lambda: reads >= 5, nmi.read_log)  # the pauses between five reads are longer than FIRST_SECONDS
    assert "nmi active" not in nmi.read_log()
    assert machine.rules("nft", "FORWARD") == []
    assert "the labels of this node could not be read" in nmi.read_log()
    away.api.intercept = None
    await until(lambda: "nmi active" in nmi.read_log(), nmi.read_log)
    assert len(machine.rules("nft", "FORWARD")) == 1
    await nmi.stop()
