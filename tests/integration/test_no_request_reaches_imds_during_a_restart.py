"""Tests of a pod that sends requests continuously while NMI ends, is not running and starts again.

No request bypasses NMI and reaches the real IMDS, except after an orderly end without --fail-closed, and then only
when the open requests are answered. Excluded:
connections that are older than the rules (tests/nmi/node/test_packets.py).
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.continuous_client import asking
from tests.integration.identity_requests import NODE, ask, request_held, run_pod
from tests.integration.node_tables import JUMP, REDIRECT, REJECT, end, on_node, saved, start_again

pytestmark = pytest.mark.root

QUICK_SECONDS = 5.0
"""A refusal takes under a millisecond and a token a few milliseconds; a busy machine takes longer."""

Start = Callable[..., Awaitable[Sandbox]]


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(backend: str) -> AsyncIterator[Start]:
    """Yield a function that starts a sandbox whose node uses that backend, with the given flags for NMI."""
    made: list[Sandbox] = []

    async def run(*flags: str) -> Sandbox:
        flags = ("--redirect=auto", *flags)  # the sandbox requires a backend
        sandbox = Sandbox(Settings(namespaces=True, programs=False, environment=os.environ, nmi_flags=flags))
        made.append(sandbox)
        await sandbox.start()
        on_node(sandbox, f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        await sandbox.start_mic()
        await start_again(sandbox)
        return sandbox

    yield run
    for sandbox in made:
        await sandbox.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_with_fail_closed_no_request_reaches_imds_however_nmi_ends(
    start: Start, backend: str, number: signal.Signals
) -> None:
    sandbox = await start("--fail-closed")
    async with asking(sandbox) as asker:
        assert await end(sandbox, number) == (0 if number == signal.SIGTERM else -number)
        await asker.all_refused()
        assert {JUMP, REDIRECT, REJECT} <= set(saved(sandbox, backend))
        on_node(sandbox, f"iptables-{backend}", "-t", "nat", "-F")  # by another program, while NMI is not running
        await asker.all_refused()
        await start_again(sandbox)
        await asker.tokens_flow()
        assert asker.reached_imds == 0
        assert max(answer.seconds for answer in asker.answers) < QUICK_SECONDS
    assert saved(sandbox, backend).count(JUMP) == 1
    assert saved(sandbox, backend).count(REJECT) == 1


async def test_without_fail_closed_a_killed_nmi_leaves_the_redirect_and_no_request_reaches_imds(
    start: Start, backend: str
) -> None:
    sandbox = await start()
    async with asking(sandbox) as asker:
        await end(sandbox, signal.SIGKILL)
        await asker.all_refused()
        lines = saved(sandbox, backend)
        assert REDIRECT in lines
        assert REJECT not in lines
        await start_again(sandbox)
        await asker.tokens_flow()
        assert asker.reached_imds == 0


async def test_without_fail_closed_a_clean_end_lets_pods_reach_imds(start: Start) -> None:
    sandbox = await start()
    async with asking(sandbox) as asker:
        assert await end(sandbox, signal.SIGTERM) == 0
        await asker.until(lambda came: len(came) >= 20)
        assert asker.reached_imds > 0, "--fail-closed prevents this; it also proves that the tests detect a leak"


async def test_without_fail_closed_the_redirect_stays_until_open_requests_are_answered(start: Start) -> None:
    sandbox = await start("--drain-timeout=6s")
    async with asking(sandbox) as asker:
        context = await run_pod(sandbox, "waiting", {"aadpodidbinding": "nothing-yet"})
        request = asyncio.create_task(ask(sandbox, context))
        await request_held(sandbox)
        first = len(asker.answers)
        sandbox.nmis[NODE].program.signal(signal.SIGTERM)
        await asker.until(lambda came: len(came) >= 50)
        assert not request.done()
        assert asker.reached_imds == 0
        assert {answer.outcome for answer in asker.answers[first:]} == {"200"}
        assert (await request).status == 503
        assert await sandbox.nmis[NODE].program.wait() == 0
