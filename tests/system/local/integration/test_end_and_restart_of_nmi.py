"""Tests of the node's rules, and of a pod that sends requests, while NMI ends, is not running and starts again.

No request bypasses NMI and reaches the real IMDS, except after an orderly end without --fail-closed, and then only
when the open requests are answered.

Excluded: connections that are older than the rules (tests/system/local/nmi/node/test_packets).
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import SandboxSettings
from tests.support.identity_requests import (
    JUMP,
    NODE,
    REDIRECT,
    REJECT,
    ask,
    bind,
    end,
    logged,
    on_node,
    request_held,
    run_pod,
    saved,
    start_again,
)
from tests.system.local.integration.continuous_client import asking

pytestmark = pytest.mark.root

FOREIGN = ("-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "MASQUERADE")
STARTING = ("nmi starting", "redirect chosen", "no watch is silent", "rule in place", "nmi active")
CLOSED = ("redirect chosen", "no watch is silent", "nmi active")

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
        sandbox = Sandbox(SandboxSettings(namespaces=True, programs=False, environment=os.environ, nmi_flags=flags))
        made.append(sandbox)
        await sandbox.start()
        on_node(sandbox, f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        await sandbox.start_mic()
        await start_again(sandbox)
        return sandbox

    yield run
    for sandbox in made:
        await sandbox.stop()


@pytest.mark.parametrize(("flags", "moments"), [((), STARTING), (("--fail-closed",), CLOSED)])
async def test_a_sigterm_at_any_moment_of_the_start_leaves_the_tables_as_an_orderly_end_does(
    flags: tuple[str, ...], moments: tuple[str, ...]
) -> None:
    async with Sandbox(SandboxSettings(namespaces=True, environment=os.environ, nmi_flags=flags)) as sandbox:
        assert {JUMP, REDIRECT} <= set(saved(sandbox))
        assert await end(sandbox.nmis[NODE].program) == 0
        on_node(sandbox, "iptables", *FOREIGN)
        before = saved(sandbox)
        assert [rule in before for rule in (JUMP, REDIRECT, REJECT)] == [bool(flags)] * 3
        for moment in moments:
            sandbox.nmis[NODE].program.log.write_text("")
            await sandbox.start_nmi(NODE)
            await logged(sandbox, moment)
            assert await end(sandbox.nmis[NODE].program) == 0
            assert saved(sandbox) == before, moment


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_with_fail_closed_no_request_reaches_imds_however_nmi_ends(
    start: Start, backend: str, number: signal.Signals
) -> None:
    sandbox = await start("--fail-closed")
    async with asking(sandbox) as asker:
        nmi = sandbox.nmis[NODE].program
        assert await end(nmi, number) == (0 if number == signal.SIGTERM else -number)
        assert ("nmi --cleanup" in nmi.output()) is (number == signal.SIGTERM)
        await asker.all_refused()
        assert {JUMP, REDIRECT, REJECT} <= set(saved(sandbox, backend))
        on_node(sandbox, f"iptables-{backend}", "-t", "nat", "-F")  # by another program, while NMI is not running
        await asker.all_refused()
        await start_again(sandbox)
        await asker.tokens_flow()
        assert asker.reached_imds == 0
    assert [saved(sandbox, backend).count(rule) for rule in (JUMP, REJECT)] == [1, 1]


async def test_without_fail_closed_a_killed_nmi_leaves_the_redirect_and_no_request_reaches_imds(
    start: Start, backend: str
) -> None:
    sandbox = await start()
    async with asking(sandbox) as asker:
        await end(sandbox.nmis[NODE].program, signal.SIGKILL)
        await asker.all_refused()
        assert [rule in saved(sandbox, backend) for rule in (REDIRECT, REJECT)] == [True, False]
        await start_again(sandbox)
        await asker.tokens_flow()
        assert asker.reached_imds == 0
    assert [saved(sandbox, backend).count(rule) for rule in (JUMP, REDIRECT)] == [1, 1]


async def test_without_fail_closed_the_redirect_stays_until_open_requests_are_answered(start: Start) -> None:
    sandbox = await start("--drain-timeout=60s", "--max-hold=60s")
    async with asking(sandbox) as asker:
        context = await run_pod(sandbox, "waiting", {"aadpodidbinding": "late"})
        request = asyncio.create_task(ask(sandbox, context))
        await request_held(sandbox)
        first = len(asker.outcomes)
        ended = asyncio.create_task(end(sandbox.nmis[NODE].program))
        await asker.until(lambda came: len(came) >= 50)
        assert not request.done()
        assert asker.reached_imds == 0
        assert set(asker.outcomes[first:]) == {"200"}
        await bind(sandbox, "late")
        assert (await request).status == 200
        assert await ended == 0
        await asker.until(lambda came: len(came) >= 20)
        assert asker.reached_imds > 0, "--fail-closed prevents this; it also proves that the tests detect a leak"


async def test_a_held_request_is_answered_503_when_the_drain_time_ends() -> None:
    flags = ["--drain-timeout=1s", "--max-hold=10m"]
    async with Sandbox(SandboxSettings(namespaces=False, environment=os.environ, nmi_flags=flags)) as sandbox:
        context = await run_pod(sandbox, "waiting", {"aadpodidbinding": "late"})
        request = asyncio.create_task(ask(sandbox, context))
        await request_held(sandbox)
        assert await end(sandbox.nmis[NODE].program) == 0
        response = await request
        assert response.status == 503
        assert response.headers["Retry-After"]
