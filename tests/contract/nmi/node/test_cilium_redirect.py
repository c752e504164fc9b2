"""The check of the redirect by Cilium: when NMI reports its loss, and for how long. No agent: a stored clock."""

import asyncio
import socket
from itertools import pairwise

import pytest

from nmi.node.cilium_redirect import (
    CAME_BACK_SECONDS,
    CHECK_SECONDS,
    FAILURES,
    NOT_READY_SECONDS,
    STABLE_SECONDS,
    UNSEEN_SECONDS,
    WAIT_SECONDS,
    WAIT_SECONDS_MAX,
    CiliumRedirect,
    connects,
)
from podidentity.azure.errors import AzureError, CameBack, NotSent, Refused, Unreachable

ADDRESS = ("169.254.169.254", 2579)


class Bench:
    """A redirect that exists while *redirects* is set. Each step is one check."""

    def __init__(self) -> None:
        self.now = 0.0
        self.redirects = True
        self.checked = CiliumRedirect(ADDRESS, connect=self._connect, clock=lambda: self.now, sleep=self._sleep)
        self._until = 0.0

    async def run(self, seconds: float) -> None:
        self._until = self.now + seconds
        with pytest.raises(asyncio.CancelledError):
            await self.checked.run()

    async def requests_come_back(self) -> None:
        """Let requests of NMI to IMDS come back for as long as a loss of the exemption takes."""
        self.checked.note_imds(CameBack("", status=508))
        await self.run(CAME_BACK_SECONDS)
        self.checked.note_imds(CameBack("", status=508))

    async def run_until_not_ready(self) -> float:
        """Return the seconds until NMI is not Ready."""
        began = self.now
        while self.checked.problem() is None:
            assert self.now < began + 10_000
            await self.run(CHECK_SECONDS)
        return self.now - began

    async def _connect(self, address: tuple[str, int]) -> bool:
        assert address == ADDRESS
        return self.redirects

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._until:
            raise asyncio.CancelledError


async def test_a_redirect_that_works_is_in_force_and_no_problem() -> None:
    bench = Bench()
    assert not bench.checked.in_force
    await bench.run(600)
    assert (bench.checked.in_force, bench.checked.problem(), bench.checked.repairs) == (True, None, 0)


async def test_a_lost_redirect_makes_nmi_not_ready_until_cilium_has_noticed_and_then_ready() -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    bench.redirects = False
    seconds = await bench.run_until_not_ready()
    assert seconds == FAILURES * CHECK_SECONDS
    problem = bench.checked.problem() or ""
    assert "Cilium has lost the redirect" in problem
    assert "docs/data-planes.md" in problem
    assert not bench.checked.in_force
    await bench.run(NOT_READY_SECONDS)
    assert bench.checked.problem() is None, "Cilium redirects only to a Ready pod"
    bench.redirects = True
    await bench.run(CHECK_SECONDS)
    assert (bench.checked.in_force, bench.checked.repairs) == (True, 1)


@pytest.mark.parametrize("failed", range(FAILURES))
async def test_fewer_failed_checks_than_the_limit_are_no_loss(failed: int) -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    for _ in range(5):
        bench.redirects = False
        await bench.run(failed * CHECK_SECONDS) if failed else None
        bench.redirects = True
        await bench.run(CHECK_SECONDS)
    assert (bench.checked.repairs, bench.checked.in_force) == (0, True)


async def test_a_redirect_that_returns_early_makes_nmi_ready_immediately() -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    bench.redirects = False
    await bench.run_until_not_ready()
    bench.redirects = True
    await bench.run(CHECK_SECONDS)
    assert bench.checked.problem() is None


async def test_a_repair_without_success_is_repeated_after_a_time_that_doubles_up_to_a_limit() -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    bench.redirects = False
    pauses = []
    for _ in range(8):
        await bench.run_until_not_ready()
        await bench.run(NOT_READY_SECONDS)
        began = bench.now
        await bench.run_until_not_ready()
        pauses.append(bench.now - began)
        await bench.run(NOT_READY_SECONDS)
    assert pauses[0] == pytest.approx(WAIT_SECONDS, abs=2 * CHECK_SECONDS)
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == pytest.approx(WAIT_SECONDS_MAX, abs=2 * CHECK_SECONDS)


async def test_after_a_stable_time_the_next_loss_begins_with_the_shortest_time() -> None:
    bench = Bench()
    for stable in (CHECK_SECONDS, STABLE_SECONDS + CHECK_SECONDS):
        bench.redirects = True
        await bench.run(stable)
        bench.redirects = False
        await bench.run_until_not_ready()
        await bench.run(NOT_READY_SECONDS)
    seconds = await bench.run_until_not_ready()
    assert seconds == pytest.approx(WAIT_SECONDS, abs=2 * CHECK_SECONDS)


async def test_a_lost_exemption_makes_nmi_not_ready_for_the_whole_time_and_not_again_soon() -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    bench.checked.note_imds(None)
    await bench.requests_come_back()
    assert "lost NMI's exemption" in str(bench.checked.problem())
    await bench.run(NOT_READY_SECONDS - CHECK_SECONDS)
    assert bench.checked.problem() is not None, "Cilium has not noticed yet"
    await bench.run(CHECK_SECONDS)
    for _ in range(100):
        bench.checked.note_imds(CameBack("", status=508))
    assert (bench.checked.problem(), bench.checked.repairs) == (None, 1)


async def test_a_lost_exemption_long_after_another_begins_with_the_shortest_time() -> None:
    bench = Bench()
    bench.checked.note_imds(None)
    for _ in range(2):
        await bench.run(STABLE_SECONDS + 2 * CHECK_SECONDS)
        await bench.requests_come_back()
        await bench.run(NOT_READY_SECONDS)
    await bench.run(WAIT_SECONDS)
    await bench.requests_come_back()
    assert bench.checked.repairs == 3


@pytest.mark.parametrize("error", [Unreachable("no response"), NotSent("paused")])
async def test_requests_that_always_came_back_do_not_keep_nmi_from_what_needs_no_imds(error: AzureError) -> None:
    bench = Bench()
    await bench.run(CHECK_SECONDS)
    bench.checked.note_imds(error)
    await bench.requests_come_back()
    assert (bench.checked.problem(), bench.checked.repairs) == (None, 0)
    bench.checked.note_imds(Refused("", status=400))
    await bench.requests_come_back()
    assert bench.checked.repairs == 1


async def test_requests_that_come_back_for_a_moment_are_no_loss_of_the_exemption() -> None:
    bench = Bench()
    bench.checked.note_imds(None)
    for _ in range(3):
        bench.checked.note_imds(CameBack("", status=508))
        bench.now += CAME_BACK_SECONDS - 0.1
        bench.checked.note_imds(CameBack("", status=508))
        bench.checked.note_imds(None)
        bench.now += CAME_BACK_SECONDS
    assert (bench.checked.problem(), bench.checked.repairs) == (None, 0)


async def test_a_repair_of_the_exemption_is_repeated_only_if_requests_still_come_back() -> None:
    bench = Bench()
    bench.checked.note_imds(None)
    await bench.requests_come_back()
    bench.now += NOT_READY_SECONDS + WAIT_SECONDS
    bench.checked.note_imds(CameBack("", status=508))
    assert bench.checked.repairs == 1
    bench.now += CAME_BACK_SECONDS
    bench.checked.note_imds(CameBack("", status=508))
    assert bench.checked.repairs == 2


async def test_without_a_first_success_nmi_stays_ready_and_states_the_next_action(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.redirects = False
    await bench.run(UNSEEN_SECONDS / 2)
    assert (bench.checked.note_text(), caplog.records) == ("", [])
    await bench.run(100 * UNSEEN_SECONDS)
    assert (bench.checked.problem(), bench.checked.in_force, bench.checked.repairs) == (None, False, 0)
    assert "localRedirectPolicies.enabled=true" in bench.checked.note_text()
    (warned,) = caplog.records
    assert warned.message == "the redirect has not been seen; see the reason"


async def test_the_check_is_one_connection_without_a_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await connects(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(1) == b""
    assert not await connects(("127.0.0.1", 1)), "nothing listens there"
