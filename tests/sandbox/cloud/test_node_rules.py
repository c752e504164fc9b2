"""The rules that the real NMI leaves on its node after SIGTERM and after SIGKILL."""

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from nmi.node.redirect_choice import Backend
from podidentity_sandbox.network_choice import choose_network
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings

pytestmark = pytest.mark.root
NODE = "node-0"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(Settings(programs=False, namespaces=True, environment=os.environ)) as made:
        yield made


async def output_of(sandbox: Sandbox, *command: str) -> str:
    """Return the output of the command on the node."""
    process = await asyncio.create_subprocess_exec(
        *sandbox.contexts[NODE].command(command), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def saved(sandbox: Sandbox) -> list[str]:
    """Return the node's rules without comments and counters."""
    lines = (await output_of(sandbox, "iptables-save")).splitlines()
    return [line.partition(" [")[0] for line in lines if not line.startswith("#")]


async def begin(sandbox: Sandbox) -> None:
    await sandbox.start_nmi(NODE)
    await sandbox.nmi_active(NODE)


async def test_a_clean_end_restores_the_tables(sandbox: Sandbox) -> None:
    for rule in (["-N", "theirs"], ["-A", "PREROUTING", "-j", "theirs"], ["-A", "theirs", "-p", "tcp", "-j", "RETURN"]):
        command = sandbox.contexts[NODE].command(["iptables", "-t", "nat", *rule])
        assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    before = await saved(sandbox)
    await begin(sandbox)
    assert await saved(sandbox) != before
    assert await sandbox.nmis[NODE].program.stop() == 0
    assert await saved(sandbox) == before


async def test_a_restart_after_a_kill_leaves_exactly_one_rule(sandbox: Sandbox) -> None:
    await begin(sandbox)
    once = await saved(sandbox)
    sandbox.nmis[NODE].program.signal(signal.SIGKILL)
    await sandbox.nmis[NODE].program.wait()
    assert await saved(sandbox) == once
    await begin(sandbox)
    assert await saved(sandbox) == once
    assert sum("DNAT" in line for line in once) == 1
    assert sum("-j aad-metadata" in line for line in once) == 1


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
        choice = sandbox.network_choice
        assert choice.backend is backend
        await begin(sandbox)
        rules = choice.rules_in(await output_of(sandbox, *choice.listing))
        assert sum("dnat" in rule.lower() for rule in rules) == 1
        assert await sandbox.nmis[NODE].program.stop() == 0
        assert choice.rules_in(await output_of(sandbox, *choice.listing)) == []
