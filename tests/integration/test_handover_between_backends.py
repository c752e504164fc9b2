"""Handovers between real NMIs of one node that use different backends of netfilter.

Excluded: a killed NMI, and rules of other programs (tests/nmi/node/test_migration_between_backends.py).
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.continuous_client import asking
from tests.integration.handovers import end, logged
from tests.integration.identity_requests import NODE
from tests.integration.node_tables import JUMP, on_node, saved
from tests.support.waiting import until

pytestmark = pytest.mark.root

LEGACY, NFT, NATIVE = "iptables-legacy", "iptables-nft", "nftables"
CHANGES = (LEGACY, NFT, NATIVE, LEGACY, NATIVE, NFT, LEGACY)
"""Each ordered pair of backends once."""
TAKEN = "this NMI has taken over"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory with a short path, as that of a Unix socket must be; its mode is 0700."""
    with tempfile.TemporaryDirectory(prefix="nmi-") as directory:
        yield Path(directory)


def redirects(sandbox: Sandbox) -> list[str]:
    """Return the backends with a redirect of NMI."""
    found = [f"iptables-{backend}" for backend in ("legacy", "nft") if JUMP in saved(sandbox, backend)]
    return [*found, *([NATIVE] if "table ip aad-pod-identity\n" in on_node(sandbox, "nft", "list", "tables") else [])]


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_no_request_reaches_imds_or_fails_and_only_the_last_backend_keeps_rules(
    directory: Path, fail_closed: bool
) -> None:
    flags = [
        *(f"--handover-socket={directory / 'nmi.sock'}", "--require-redirected"),
        *(f"--fail-closed={str(fail_closed).lower()}", f"--redirect={CHANGES[0]}"),
    ]
    async with (
        Sandbox(Settings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox,
        asking(sandbox) as asker,
    ):
        assert redirects(sandbox) == [CHANGES[0]]
        for number, backend in enumerate(CHANGES[1:], start=1):
            former = sandbox.nmis[NODE].program
            flags[-1] = f"--redirect={backend}"
            await sandbox.start_nmi(NODE)
            await logged(sandbox, TAKEN, number)
            assert redirects(sandbox) == [backend]
            await asker.tokens_flow()
            assert await end(former) == 0
            assert redirects(sandbox) == [backend], "the former NMI must not remove its successor's rules"
            await asker.tokens_flow()
        # A rollout that is undone: the successor stops, and the former NMI serves again, in its own backend.
        former = sandbox.nmis[NODE].program
        flags[-1] = f"--redirect={NATIVE}"
        await sandbox.start_nmi(NODE)
        await logged(sandbox, TAKEN, len(CHANGES))
        assert await end(sandbox.nmis[NODE].program) == 0
        await asker.tokens_flow()

        async def restored() -> bool:
            return await asyncio.to_thread(redirects, sandbox) == [CHANGES[-1]]

        await until(restored)
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers} == {"200"}
        assert await end(former) == 0
        assert redirects(sandbox) == ([CHANGES[-1]] if fail_closed else [])
