"""Tests of the node's iptables rules after NMI shuts down or is killed. Excluded: repair of a rule while NMI runs."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.node_tables import JUMP, REDIRECT, REJECT, end, on_node, saved
from tests.support.waiting import until

pytestmark = pytest.mark.root

FOREIGN = ("-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "MASQUERADE")


@pytest.mark.parametrize(
    "moment", ["nmi starting", "redirect chosen", "no watch is silent", "rule in place", "nmi active"]
)
async def test_a_sigterm_during_or_after_the_start_leaves_the_tables_as_before(node: Sandbox, moment: str) -> None:
    during = saved(node)
    assert JUMP in during
    assert REDIRECT in during
    assert await end(node, signal.SIGTERM) == 0
    on_node(node, "iptables", *FOREIGN)
    before = saved(node)
    log = node.nmis["node-0"].program.log
    log.write_text("")
    await node.start_nmi("node-0")
    await until(lambda: moment in log.read_text())
    assert await end(node, signal.SIGTERM) == 0
    assert saved(node) == before


async def test_a_kill_and_a_restart_leave_exactly_one_rule(node: Sandbox) -> None:
    for _ in range(2):
        assert await end(node, signal.SIGKILL) == -signal.SIGKILL
        for _ in range(5):  # nothing that NMI left behind removes the rule later
            assert REDIRECT in saved(node), "a killed NMI must not give pods the node's own identities"
            await asyncio.sleep(0.1)
        await node.start_nmi("node-0")
        await node.nmi_active("node-0")
    lines = saved(node)
    assert lines.count(JUMP) == 1
    assert lines.count(REDIRECT) == 1
    assert [line for line in lines if line.startswith("-A PREROUTING")] == [JUMP]


@pytest.fixture
async def closed() -> AsyncIterator[Sandbox]:
    """Yield a sandbox with one node, whose NMI runs with --fail-closed."""
    settings = Settings(namespaces=True, environment=os.environ, nmi_flags=["--fail-closed"])
    async with Sandbox(settings) as running:
        yield running


async def test_with_fail_closed_both_rules_stay_until_the_cleanup(closed: Sandbox) -> None:
    during = saved(closed)
    assert await end(closed, signal.SIGTERM) == 0
    assert saved(closed) == during
    assert "nmi --cleanup" in closed.nmis["node-0"].program.output()
    output = on_node(closed, sys.executable, "-m", "nmi", "--cleanup")
    assert output.count("removed") == 2
    assert not [line for line in saved(closed) if line in (JUMP, REDIRECT, REJECT)]
    assert on_node(closed, sys.executable, "-m", "nmi", "--cleanup") == "there was nothing of NMI on this node\n"


@pytest.mark.parametrize("moment", ["redirect chosen", "no watch is silent", "nmi active"])
async def test_with_fail_closed_a_sigterm_in_the_middle_of_the_start_leaves_the_node_closed(
    closed: Sandbox, moment: str
) -> None:
    during = saved(closed)
    assert await end(closed, signal.SIGTERM) == 0
    closed.nmis["node-0"].program.log.write_text("")
    await closed.start_nmi("node-0")
    await until(lambda: moment in closed.nmis["node-0"].program.output())
    assert await end(closed, signal.SIGTERM) == 0
    assert saved(closed) == during
