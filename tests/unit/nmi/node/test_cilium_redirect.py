"""The check of the redirect by Cilium: when NMI reports its loss, and for how long. No agent: a stored clock."""

import asyncio
from itertools import pairwise

import pytest

from nmi.node import cilium_redirect as cilium
from podidentity.azure.errors import AzureError, CameBack, NotSent, Refused, Unreachable

ADDRESS = ("169.254.169.254", 2579)
CAME_BACK = CameBack("", status=508)


class Bench(cilium.CiliumRedirect):
    """A check of a redirect that exists while *redirects* is set. Each step is one check."""

    def __init__(self) -> None:
        super().__init__(ADDRESS, connect=self._connects, clock=lambda: self.now, sleep=self._sleeps)
        self.now = 0.0
        self.redirects = True
        self._until = 0.0

    async def pass_time(self, seconds: float) -> None:
        self._until = self.now + seconds
        with pytest.raises(asyncio.CancelledError):
            await self.run()

    async def requests_come_back(self) -> None:
        """Let requests of NMI to IMDS come back for as long as a loss of the exemption takes."""
        self.note_imds(CAME_BACK)
        await self.pass_time(cilium.CAME_BACK_SECONDS)
        self.note_imds(CAME_BACK)

    async def seconds_until_not_ready(self) -> float:
        began = self.now
        while self.problem() is None:
            assert self.now < began + 10_000
            await self.pass_time(cilium.CHECK_SECONDS)
        return self.now - began

    async def _connects(self, address: tuple[str, int]) -> bool:
        assert address == ADDRESS
        return self.redirects

    async def _sleeps(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._until:
            raise asyncio.CancelledError


@pytest.fixture
async def seen() -> Bench:
    """Return a redirect that the first check has shown."""
    bench = Bench()
    await bench.pass_time(cilium.CHECK_SECONDS)
    return bench


@pytest.fixture
async def lost(seen: Bench) -> Bench:
    """Return a redirect that was shown, and has just been lost."""
    seen.redirects = False
    return seen


async def test_a_redirect_that_works_is_in_force_and_no_problem() -> None:
    bench = Bench()
    assert not bench.in_force
    await bench.pass_time(600)
    assert (bench.in_force, bench.problem(), bench.repairs) == (True, None, 0)


async def test_a_lost_redirect_makes_nmi_not_ready_until_cilium_has_noticed_and_then_ready(lost: Bench) -> None:
    assert await lost.seconds_until_not_ready() == cilium.FAILURES * cilium.CHECK_SECONDS
    problem = lost.problem() or ""
    assert "Cilium has lost the redirect" in problem
    assert "docs/data-planes.md" in problem
    assert not lost.in_force
    await lost.pass_time(cilium.NOT_READY_SECONDS)
    assert lost.problem() is None, "Cilium redirects only to a Ready pod"
    lost.redirects = True
    await lost.pass_time(cilium.CHECK_SECONDS)
    assert (lost.in_force, lost.repairs) == (True, 1)


async def test_fewer_failed_checks_than_the_limit_are_no_loss(seen: Bench) -> None:
    for _ in range(5):
        seen.redirects = False
        await seen.pass_time((cilium.FAILURES - 1) * cilium.CHECK_SECONDS)
        seen.redirects = True
        await seen.pass_time(cilium.CHECK_SECONDS)
    assert (seen.repairs, seen.in_force) == (0, True)


async def test_a_redirect_that_returns_early_makes_nmi_ready_immediately(lost: Bench) -> None:
    await lost.seconds_until_not_ready()
    lost.redirects = True
    await lost.pass_time(cilium.CHECK_SECONDS)
    assert lost.problem() is None


async def test_a_repair_without_success_is_repeated_after_a_time_that_doubles_up_to_a_limit(lost: Bench) -> None:
    pauses = []
    for _ in range(8):
        await lost.seconds_until_not_ready()
        await lost.pass_time(cilium.NOT_READY_SECONDS)
        pauses.append(await lost.seconds_until_not_ready())
        await lost.pass_time(cilium.NOT_READY_SECONDS)
    assert pauses[0] == pytest.approx(cilium.WAIT_SECONDS, abs=2 * cilium.CHECK_SECONDS)
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == pytest.approx(cilium.WAIT_SECONDS_MAX, abs=2 * cilium.CHECK_SECONDS)


async def test_after_a_stable_time_the_next_loss_begins_with_the_shortest_time() -> None:
    bench = Bench()
    for stable in (cilium.CHECK_SECONDS, cilium.STABLE_SECONDS + cilium.CHECK_SECONDS):
        bench.redirects = True
        await bench.pass_time(stable)
        bench.redirects = False
        await bench.seconds_until_not_ready()
        await bench.pass_time(cilium.NOT_READY_SECONDS)
    assert await bench.seconds_until_not_ready() == pytest.approx(cilium.WAIT_SECONDS, abs=2 * cilium.CHECK_SECONDS)


async def test_a_lost_exemption_makes_nmi_not_ready_for_the_whole_time_and_not_again_soon(seen: Bench) -> None:
    seen.note_imds(None)
    await seen.requests_come_back()
    assert "lost NMI's exemption" in str(seen.problem())
    await seen.pass_time(cilium.NOT_READY_SECONDS - cilium.CHECK_SECONDS)
    assert seen.problem() is not None, "Cilium has not noticed yet"
    await seen.pass_time(cilium.CHECK_SECONDS)
    for _ in range(100):
        seen.note_imds(CAME_BACK)
    assert (seen.problem(), seen.repairs) == (None, 1)


async def test_a_lost_exemption_long_after_another_begins_with_the_shortest_time() -> None:
    bench = Bench()
    bench.note_imds(None)
    for _ in range(2):
        await bench.pass_time(cilium.STABLE_SECONDS + 2 * cilium.CHECK_SECONDS)
        await bench.requests_come_back()
        await bench.pass_time(cilium.NOT_READY_SECONDS)
    await bench.pass_time(cilium.WAIT_SECONDS)
    await bench.requests_come_back()
    assert bench.repairs == 3


@pytest.mark.parametrize("error", [Unreachable("no response"), NotSent("paused")])
async def test_requests_that_always_came_back_do_not_keep_nmi_from_what_needs_no_imds(
    seen: Bench, error: AzureError
) -> None:
    seen.note_imds(error)
    await seen.requests_come_back()
    assert (seen.problem(), seen.repairs) == (None, 0)
    seen.note_imds(Refused("", status=400))
    await seen.requests_come_back()
    assert seen.repairs == 1


async def test_requests_that_come_back_for_a_moment_are_no_loss_of_the_exemption() -> None:
    bench = Bench()
    bench.note_imds(None)
    for _ in range(3):
        bench.note_imds(CAME_BACK)
        bench.now += cilium.CAME_BACK_SECONDS - 0.1
        bench.note_imds(CAME_BACK)
        bench.note_imds(None)
        bench.now += cilium.CAME_BACK_SECONDS
    assert (bench.problem(), bench.repairs) == (None, 0)


async def test_a_repair_of_the_exemption_is_repeated_only_if_requests_still_come_back() -> None:
    bench = Bench()
    bench.note_imds(None)
    await bench.requests_come_back()
    bench.now += cilium.NOT_READY_SECONDS + cilium.WAIT_SECONDS
    bench.note_imds(CAME_BACK)
    assert bench.repairs == 1
    bench.now += cilium.CAME_BACK_SECONDS
    bench.note_imds(CAME_BACK)
    assert bench.repairs == 2


async def test_without_a_first_success_nmi_stays_ready_and_states_the_next_action(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.redirects = False
    await bench.pass_time(cilium.UNSEEN_SECONDS / 2)
    assert (bench.note_text(), caplog.records) == ("", [])
    await bench.pass_time(100 * cilium.UNSEEN_SECONDS)
    assert (bench.problem(), bench.in_force, bench.repairs) == (None, False, 0)
    assert "localRedirectPolicies.enabled=true" in bench.note_text()
    (warned,) = caplog.records
    assert warned.message == "the redirect has not been seen; see the reason"
