"""The circuit breaker: when it opens, for which pods, and when it closes. Excluded: the tokens served while open."""

import asyncio
import logging

import pytest

from nmi.tokens.breaker import Breaker
from nmi.tokens.fair_queue import Waiters
from nmi.tokens.governor import Governor
from podidentity.azure.errors import AzureError, NotSent, NotYet, Refused, Throttled, Unreachable
from tests.support.virtual_time import now, settle


def hang() -> Unreachable:
    return Unreachable("no whole answer", code="no_answer")


class Bench:
    """A governor with its breaker, on the running loop's clock, without jitter."""

    def __init__(self, at_once: int = 5) -> None:
        self.breaker = Breaker(random=lambda: 0.5)
        self.governor = Governor(at_once=at_once, breaker=self.breaker)
        self.sent = 0

    @property
    def state(self) -> str:
        return str(self.breaker.state)

    async def call(self, pod: str, error: AzureError | None = None, seconds: float = 0.0) -> None:
        """Make one call with this outcome; raise its error."""
        async with self.governor.token_permit(pod):
            self.sent += 1
            await asyncio.sleep(seconds)
            if error is not None:
                raise error

    async def fail(self, *pods: str, error: AzureError | None = None) -> None:
        for pod in pods:
            with pytest.raises(AzureError):
                await self.call(pod, error or hang())

    async def give_up(self, pod: str) -> None:
        """Make a call that ends before its response."""
        call = asyncio.create_task(self.call(pod, seconds=60.0))
        await settle()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def refused(self, pod: str) -> NotSent:
        sent = self.sent
        with pytest.raises(NotSent) as raised:
            await self.call(pod)
        assert self.sent == sent
        return raised.value


@pytest.fixture
async def bench() -> Bench:
    return Bench()


MANY = ("ns/a", "ns/b", "ns/a", "ns/b", "ns/c")


@pytest.mark.parametrize("error", [hang(), AzureError("down", status=500), AzureError("down", status=503)])
async def test_five_consecutive_failures_open_the_breaker(bench: Bench, error: AzureError) -> None:
    await bench.fail(*MANY[:4], error=error)
    assert bench.state == "closed"
    await bench.fail(MANY[4], error=error)
    assert bench.state == "open"
    for pod in ("ns/a", "ns/never-seen"):
        assert (await bench.refused(pod)).retry_after == pytest.approx(5.0)
    assert (bench.breaker.opened, bench.breaker.refused) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [
        None,
        Refused("no", status=400),
        NotYet("updating", status=410),
        Throttled("busy", status=429, retry_after=0.0),
        AzureError("not a token answer", status=200, code="bad_answer"),
    ],
    ids=["token", "400", "410", "429", "garbage"],
)
async def test_any_response_resets_the_failure_count(bench: Bench, error: AzureError | None) -> None:
    for _ in range(3):
        await bench.fail(*MANY[:4])
        if error is None:
            await bench.call("ns/a")
        else:
            await bench.fail("ns/a", error=error)
    assert bench.state == "closed"


async def test_a_cancelled_call_counts_neither_as_success_nor_as_failure(bench: Bench) -> None:
    await bench.fail(*MANY[:4])
    for _ in range(5):
        await bench.fail("ns/a", error=Unreachable("out of time", code="timeout"))
    await bench.give_up("ns/a")
    assert bench.state == "closed"
    await bench.fail("ns/c")
    assert bench.state == "open"


async def test_after_the_pause_one_probe_is_let_through_and_its_response_closes_the_breaker(bench: Bench) -> None:
    await bench.fail(*MANY)
    await asyncio.sleep(4.9)
    await bench.refused("ns/x")
    await asyncio.sleep(0.2)
    assert bench.state == "half_open"
    sent = bench.sent
    probe = asyncio.create_task(bench.call("ns/x", seconds=3.0))
    await settle()
    refused = await bench.refused("ns/y")
    assert refused.retry_after == pytest.approx(10.0)
    assert bench.sent == sent + 1
    await probe
    assert bench.state == "closed"
    await bench.call("ns/y")


async def test_each_failed_probe_doubles_the_pause_up_to_15_seconds(bench: Bench) -> None:
    await bench.fail(*MANY)
    pauses = []
    for number in range(5):
        left = (await bench.refused("ns/z")).retry_after
        assert left is not None
        pauses.append(left)
        await asyncio.sleep(left)
        await bench.fail(f"ns/probe-{number}")
    assert pauses == pytest.approx([5.0, 10.0, 15.0, 15.0, 15.0])
    await asyncio.sleep(15.0)
    await bench.call("ns/z")
    await bench.fail(*MANY)
    assert (await bench.refused("ns/z")).retry_after == pytest.approx(5.0)
    assert bench.breaker.opened == 2


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 4.0), (1.0, 6.0)])
async def test_nodes_do_not_probe_at_the_same_time(bench: Bench, random: float, seconds: float) -> None:
    bench.breaker._random = lambda: random
    await bench.fail(*MANY)
    assert (await bench.refused("ns/a")).retry_after == pytest.approx(seconds)


@pytest.mark.parametrize("ends", ["cancelled", "paused"])
async def test_a_probe_that_is_not_sent_or_cancelled_leaves_the_probe_to_the_next_call(bench: Bench, ends: str) -> None:
    await bench.fail(*MANY)
    async with bench.governor.permit("ns/instance-metadata"):
        pass
    assert bench.state == "open", "calls that request no token neither obey nor change the breaker"
    await asyncio.sleep(5.1)
    if ends == "cancelled":
        await bench.give_up("ns/x")
    else:
        bench.governor.pause(25.0)
        with pytest.raises(Throttled):
            await bench.call("ns/x")
        await asyncio.sleep(25.0)
    assert bench.state == "half_open"
    await bench.call("ns/y")
    assert bench.state == "closed"


@pytest.mark.parametrize("error", [None, hang()], ids=["response", "failure"])
async def test_a_response_to_a_call_sent_before_closes_the_breaker_and_a_failure_does_not_extend_the_pause(
    bench: Bench, error: AzureError | None
) -> None:
    slow = asyncio.create_task(bench.call("ns/slow", error, seconds=2.0))
    await settle()
    await bench.fail(*MANY)
    assert (await bench.refused("ns/a")).retry_after == pytest.approx(5.0)
    await asyncio.gather(slow, return_exceptions=True)
    if error is None:
        assert bench.state == "closed"
    else:
        assert (await bench.refused("ns/a")).retry_after == pytest.approx(3.0, abs=0.2)


async def test_a_call_that_waits_for_a_permit_fails_when_the_breaker_opens() -> None:
    bench = Bench(at_once=2)
    holders = [asyncio.create_task(bench.call(pod, hang(), seconds=10.0)) for pod in ("ns/a", "ns/b")]
    await settle()
    for pod in ("ns/a", "ns/b"):
        bench.breaker._blamed[pod] = 2
    waiting = [asyncio.create_task(bench.call(f"ns/{n}")) for n in range(20)]
    other_call = asyncio.create_task(bench.governor.permit("ns/instance-metadata").__aenter__())
    await settle()
    assert bench.governor.waiting == 21
    before = now()
    results = await asyncio.gather(*holders, *waiting, return_exceptions=True)
    assert now() - before == pytest.approx(10.0)
    assert {type(result) for result in results[2:]} == {NotSent}
    assert bench.sent == 2
    permit = await other_call
    await permit.__aexit__(None, None, None)
    assert (bench.governor.waiting, bench.governor.in_flight) == (0, 0)


async def test_the_failures_of_one_pod_block_only_that_pod(bench: Bench) -> None:
    await bench.fail(*["ns/hostile"] * 5)
    await bench.refused("ns/hostile")
    await bench.fail("ns/neighbour")
    await bench.call("ns/neighbour")
    assert bench.state == "closed"
    await bench.fail(*["ns/hostile"] * 5)
    await bench.fail("ns/neighbour", "ns/other")
    assert (await bench.refused("ns/third")).retry_after == pytest.approx(5.0)


async def test_a_failure_is_charged_to_the_pod_whose_turn_it_was_and_not_to_a_waiter_that_left() -> None:
    bench = Bench(at_once=1)
    holder = bench.governor.permit("ns/holder")
    await holder.__aenter__()
    waiters = Waiters("ns/left")
    permit = bench.governor.token_permit(waiters)
    entered = asyncio.create_task(permit.__aenter__())
    await settle()
    waiters.join("ns/stayed")
    waiters.leave("ns/left")
    await holder.__aexit__(None, None, None)
    await entered
    await permit.__aexit__(Unreachable, hang(), None)
    assert bench.breaker._blamed == {"ns/stayed": 1}


async def test_a_shared_call_fails_only_if_the_breaker_refuses_every_pod_that_waits_for_it() -> None:
    bench = Bench(at_once=1)
    await bench.fail(*["ns/hostile"] * 4)
    await asyncio.sleep(1.0)
    holder = asyncio.create_task(bench.call("ns/hostile", hang(), seconds=1.0))
    await settle()
    shared = [Waiters("ns/hostile", "ns/neighbour"), Waiters("ns/hostile"), Waiters("ns/neighbour")]
    permits = [bench.governor.token_permit(identity_) for identity_ in shared]
    entered = [asyncio.create_task(permit.__aenter__()) for permit in permits]
    await settle()
    assert bench.governor.waiting == 3
    await asyncio.gather(holder, return_exceptions=True)
    await settle()
    shared[2].join("ns/hostile")
    assert isinstance(entered[1].exception(), NotSent)
    for permit, entry in ((permits[0], entered[0]), (permits[2], entered[2])):
        await entry
        assert permit.pod_key == "ns/neighbour"
        await permit.__aexit__(None, None, None)
    assert (bench.governor.waiting, bench.governor.in_flight) == (0, 0)


async def test_the_blocked_pod_is_let_through_once_after_the_pause(bench: Bench) -> None:
    await bench.fail(*["ns/alone"] * 5)
    await asyncio.sleep(5.1)
    await bench.fail("ns/alone")
    assert (await bench.refused("ns/alone")).retry_after == pytest.approx(10.0)
    await asyncio.sleep(10.1)
    await bench.call("ns/alone")
    assert bench.state == "closed"


async def test_a_pod_whose_probe_failed_lets_others_probe_first(bench: Bench) -> None:
    await bench.fail(*MANY)
    await asyncio.sleep(5.1)
    await bench.fail("ns/hostile")
    await asyncio.sleep(10.1)
    refused = await bench.refused("ns/hostile")
    assert refused.retry_after == pytest.approx(1.9)
    await bench.call("ns/neighbour")
    assert bench.state == "closed"
    await bench.call("ns/hostile")


async def test_each_state_change_is_one_log_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nmi.tokens.breaker"):
        await bench.fail(*MANY)
        for _ in range(50):
            await bench.refused("ns/flood")
        await asyncio.sleep(5.1)
        await bench.call("ns/x")
        await bench.call("ns/x")
    assert [f"{record.levelname} {record.getMessage()}"[:24] for record in caplog.records] == [
        "WARNING IMDS fails, call",
        "INFO probing IMDS with o",
        "INFO IMDS responds again",
    ]
