"""The chosen backend with the real NMI: the listing of a node's rules shows NMI's redirect while NMI runs."""

import asyncio
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nmi.node.redirect_choice import Backend
from podidentity_sandbox.network_choice import choose_network
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings

pytestmark = pytest.mark.root
NODE = "node-0"


async def listed_rules(sandbox: Sandbox) -> list[str]:
    """Return NMI's rules in the output of the listing on the node."""
    choice = sandbox.network_choice
    process = await asyncio.create_subprocess_exec(
        *sandbox.contexts[NODE].command(choice.listing), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return choice.rules_in(output.decode())


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        (["nft"], Backend.NFTABLES),
        (["iptables-nft", "iptables-nft-save", "iptables-nft-restore"], Backend.IPTABLES_NFT),
        (["iptables-legacy", "iptables-legacy-save"], Backend.IPTABLES_LEGACY),
    ],
)
async def test_nmi_redirects_with_the_only_backend_of_the_machine(
    installed: Sequence[str], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in installed:
        (tmp_path / name).symlink_to(f"/usr/sbin/{name}")
    monkeypatch.setattr("podidentity_sandbox.sandbox.choose_network", functools.partial(choose_network, str(tmp_path)))
    async with Sandbox(Settings(programs=False, namespaces=True, environment=os.environ)) as sandbox:
        assert sandbox.network_choice.backend is backend
        await sandbox.start_nmi(NODE)
        await sandbox.nmi_active(NODE)
        assert sum("dnat" in rule.lower() for rule in await listed_rules(sandbox)) == 1
        assert await sandbox.nmis[NODE].program.stop() == 0
        assert await listed_rules(sandbox) == []
