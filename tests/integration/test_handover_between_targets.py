"""Handovers that change the target of the redirect: no request fails, and none reaches IMDS."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NMI_PORT, Settings
from tests.integration.continuous_client import asking
from tests.integration.handovers import end, logged
from tests.integration.identity_requests import NODE
from tests.integration.node_tables import JUMP, saved

pytestmark = pytest.mark.root

DESTINATIONS = {"loopback": f"127.0.0.1:{NMI_PORT}", "node": f"10.199.0.2:{NMI_PORT}"}


def flags(directory: Path, target: str) -> list[str]:
    return [f"--handover-socket={directory / 'nmi.sock'}", "--require-redirected", f"--redirect-target={target}"]


def destinations(sandbox: Sandbox) -> list[str]:
    """Return where each rule of the redirect leads."""
    return [rule.rpartition(" ")[2] for rule in saved(sandbox) if "--to-destination" in rule]


async def start_with(sandbox: Sandbox, directory: Path, target: str, times: int) -> None:
    """Start the next NMI, and wait until it has taken over; it is the one number *times*."""
    sandbox.settings = replace(sandbox.settings, nmi_flags=flags(directory, target))
    await sandbox.start_nmi(NODE)
    await logged(sandbox, "this NMI has taken over", times)
    assert saved(sandbox).count(JUMP) == 1
    assert destinations(sandbox) == [DESTINATIONS[target]]


async def test_no_request_fails_when_a_handover_changes_the_target(directory: Path) -> None:
    settings = Settings(namespaces=True, environment=os.environ, nmi_flags=flags(directory, "loopback"))
    async with Sandbox(settings) as sandbox, asking(sandbox) as asker:
        for number, target in enumerate(("node", "node", "loopback", "node", "loopback"), 1):
            former = sandbox.nmis[NODE].program
            await start_with(sandbox, directory, target, number)
            await asker.tokens_flow()
            assert await end(former) == 0
            await asker.tokens_flow()
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers} == {"200"}
        assert await end(sandbox.nmis[NODE].program) == 0
        assert destinations(sandbox) == []


@pytest.mark.parametrize(("first", "second"), [("loopback", "node"), ("node", "loopback"), ("node", "node")])
async def test_no_request_fails_when_a_successor_with_another_target_gives_back(
    directory: Path, first: str, second: str
) -> None:
    settings = Settings(namespaces=True, environment=os.environ, nmi_flags=flags(directory, first))
    async with Sandbox(settings) as sandbox, asking(sandbox) as asker:
        former = sandbox.nmis[NODE].program
        await start_with(sandbox, directory, second, 1)
        await asker.tokens_flow()
        assert await end(sandbox.nmis[NODE].program) == 0
        await logged(sandbox, "the former NMI serves this node again", 1)
        await asker.tokens_flow()
        assert destinations(sandbox) == [DESTINATIONS[first]]
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers} == {"200"}
        assert await end(former) == 0
        assert destinations(sandbox) == []
