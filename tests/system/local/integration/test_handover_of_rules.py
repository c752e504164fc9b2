"""Handovers between real NMIs of one node that keep or change the backend of netfilter and the redirect's target.

No request fails, none reaches IMDS, and a successor fetches no token that the former NMI has cached.

Excluded: a killed NMI, and rules of other programs (tests/system/local/nmi/node/test_migration_between_backends.py).
"""

import asyncio
import os
from pathlib import Path

import pytest

from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import NMI_PORT, SandboxSettings
from tests.support.identity_requests import JUMP, NODE, end, logged, on_node, saved
from tests.support.waiting import until
from tests.system.local.integration.continuous_client import asking
from tests.system.local.integration.limited_nmi import HANDOVER_SECONDS, changed_nmi

pytestmark = pytest.mark.root

LEGACY, NFT, NATIVE = "iptables-legacy", "iptables-nft", "nftables"
DESTINATIONS = {"loopback": f"127.0.0.1:{NMI_PORT}", "node": f"10.199.0.2:{NMI_PORT}"}


Redirect = tuple[str, str]
"""Backend and target of one NMI."""
FIRST: Redirect = (LEGACY, "loopback")
STEPS: tuple[tuple[Redirect, bool], ...] = (
    ((LEGACY, "loopback"), True),
    ((NFT, "node"), True),
    ((NFT, "node"), True),
    ((NATIVE, "node"), False),
    ((LEGACY, "loopback"), False),
    ((NATIVE, "loopback"), True),
    ((NFT, "node"), False),
    ((NFT, "loopback"), True),
    ((LEGACY, "loopback"), False),
)
"""Handovers to an NMI with this redirect: each ordered pair of backends and of targets, and the changes of one of them
alone. If the second value is True, one such NMI gives the node back before the next takes over.
"""


class Handovers:
    """The NMIs of one node, each the successor of the one before."""

    def __init__(self, sandbox: Sandbox, flags: list[str]) -> None:
        self.sandbox = sandbox
        self._flags = flags
        self._taken = 0

    async def take(self, redirect: Redirect) -> None:
        """Start the next NMI, and wait until it has taken over."""
        self._flags[-2:] = flags_of(redirect)
        await self.sandbox.start_nmi(NODE)
        self._taken += 1
        await logged(self.sandbox, "this NMI has taken over", self._taken)

    async def end_unready(self) -> None:
        """Stop an NMI that knows its redirect, and waits for a list to take over."""
        serving, api = self.sandbox.nmis[NODE], self.sandbox.cluster.api
        assert api is not None
        lists = [0]

        def refuse(request: Recorded) -> StatusError | None:
            if not request.path.startswith("/api/v1/pods?") or "nmi/" not in request.user_agent:
                return None
            lists[0] += 1
            return StatusError(500, "InternalError", "down")

        api.intercept = refuse
        await self.sandbox.start_nmi(NODE)
        await until(lambda: lists[0])
        assert await end(self.sandbox.nmis[NODE].program) == 0
        api.intercept = None
        self.sandbox.nmis[NODE] = serving

    async def give_back(self, former: Redirect) -> None:
        """Stop the NMI that serves, and wait until the former one serves with its redirect."""
        assert await end(self.sandbox.nmis[NODE].program) == 0
        await until(lambda: asyncio.to_thread(redirects, self.sandbox), holds=[former].__eq__)


def flags_of(redirect: Redirect) -> list[str]:
    backend, target = redirect
    return [f"--redirect={backend}", f"--redirect-target={target}"]


def redirects(sandbox: Sandbox) -> list[Redirect]:
    """Return each redirect of the node, in every backend."""
    rules = {backend: saved(sandbox, backend.removeprefix("iptables-")) for backend in (LEGACY, NFT)}
    assert all(lines.count(JUMP) == sum("--to-destination" in line for line in lines) for lines in rules.values())
    if "table ip aad-pod-identity\n" in on_node(sandbox, "nft", "list", "tables"):
        rules[NATIVE] = on_node(sandbox, "nft", "list", "table", "ip", "aad-pod-identity").splitlines()
    return [
        (backend, target)
        for backend, lines in rules.items()
        for line in lines
        for target, destination in DESTINATIONS.items()
        if line.endswith(f" {destination}")
    ]


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_no_request_reaches_imds_or_fails_and_only_the_last_redirect_remains(
    directory: Path, fail_closed: bool
) -> None:
    flags = [
        *(f"--handover-socket={directory / 'nmi.sock'}", "--require-redirected"),
        *(f"--fail-closed={str(fail_closed).lower()}", *flags_of(FIRST)),
    ]
    # On a busy machine, a successor can need more than the few seconds for which the serving NMI waits.
    with changed_nmi(HANDOVER_SECONDS.format(60.0)):
        await hand_over_in_each_way(flags, fail_closed=fail_closed)


async def hand_over_in_each_way(flags: list[str], *, fail_closed: bool) -> None:
    async with (
        Sandbox(SandboxSettings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox,
        asking(sandbox) as asker,
    ):
        assert redirects(sandbox) == [FIRST]
        handovers, serving = Handovers(sandbox, flags), FIRST
        calls = len(sandbox.azure.imds.token_calls)
        await handovers.end_unready()
        assert redirects(sandbox) == [FIRST], "a successor that is not ready must not remove the rules either"
        await asker.tokens_flow()
        for redirect, gives_back in STEPS:
            former = sandbox.nmis[NODE].program
            if gives_back:
                await handovers.take(redirect)
                await handovers.give_back(serving)
                await asker.tokens_flow()
            await handovers.take(redirect)
            serving = redirect
            assert redirects(sandbox) == [serving]
            await asker.tokens_flow()
            assert await end(former) == 0
            assert redirects(sandbox) == [serving], "the former NMI must not remove its successor's rules"
            await asker.tokens_flow()
        assert asker.reached_imds == 0
        assert set(asker.outcomes) == {"200"}
        assert len(sandbox.azure.imds.token_calls) == calls, "each NMI uses the tokens of the former one"
        assert await end(sandbox.nmis[NODE].program) == 0
        assert redirects(sandbox) == ([serving] if fail_closed else [])
