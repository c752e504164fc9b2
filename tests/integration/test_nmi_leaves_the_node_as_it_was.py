"""What NMI's end, in order or not, leaves in the node's tables. Excluded: repair of a rule while NMI runs."""

import asyncio
import re
import signal
import subprocess

import pytest

from podidctl.sandbox.cloud import Sandbox
from podidctl.sandbox.fabric import Fabric

pytestmark = pytest.mark.root

JUMP = "-A PREROUTING -j aad-metadata"
REDIRECT = (
    "-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 "
    "-j DNAT --to-destination 127.0.0.1:2579"
)
FOREIGN = ("-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "MASQUERADE")


def on_node(sandbox: Sandbox, *command: str) -> str:
    assert isinstance(sandbox.network, Fabric)
    entered = ["ip", "netns", "exec", sandbox.network.node_namespace("node-0"), *command]
    return subprocess.run(entered, check=True, capture_output=True, text=True, timeout=10).stdout


def saved(sandbox: Sandbox) -> list[str]:
    """Every table's rules, without counters and comments."""
    lines = on_node(sandbox, "iptables-save").splitlines()
    return [re.sub(r" ?\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#")]


async def end(sandbox: Sandbox, number: signal.Signals) -> int:
    program = sandbox.nmis["node-0"].program
    program.signal(number)
    async with asyncio.timeout(15):
        return await program.wait()


async def test_sigterm_leaves_the_tables_as_before(node: Sandbox) -> None:
    assert await end(node, signal.SIGTERM) == 0
    on_node(node, "iptables", *FOREIGN)
    before = saved(node)

    await node.start_nmi("node-0")
    await node.nmi_active("node-0")
    during = saved(node)
    assert JUMP in during
    assert REDIRECT in during

    assert await end(node, signal.SIGTERM) == 0
    assert saved(node) == before


@pytest.mark.parametrize("moment", ["nmi starts", "found the node's iptables", "the watches speak", "is in place"])
async def test_a_sigterm_in_the_middle_of_the_start_leaves_nothing(node: Sandbox, moment: str) -> None:
    assert await end(node, signal.SIGTERM) == 0
    before = saved(node)
    log = node.nmis["node-0"].program.log
    log.write_text("")
    await node.start_nmi("node-0")
    async with asyncio.timeout(15):
        while moment not in log.read_text():
            await asyncio.sleep(0.001)
    assert await end(node, signal.SIGTERM) == 0
    assert saved(node) == before


async def test_a_kill_and_a_restart_leave_exactly_one_rule(node: Sandbox) -> None:
    for _ in range(2):
        assert await end(node, signal.SIGKILL) == -signal.SIGKILL
        assert REDIRECT in saved(node), "a killed NMI must not give pods the node's own identities"
        await node.start_nmi("node-0")
        await node.nmi_active("node-0")
    lines = saved(node)
    assert lines.count(JUMP) == 1
    assert lines.count(REDIRECT) == 1
    assert [line for line in lines if line.startswith("-A PREROUTING")] == [JUMP]
