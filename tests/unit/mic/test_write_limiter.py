"""The write limiter: the rate, the burst, and the order of writes by host and urgency."""

import asyncio

from mic.reconciliation.write_limiter import LEAST_SHARE, Urgency, WriteLimiter
from mic.startup.settings import Settings
from podidentity.telemetry.token_bucket import TokenBucket

BUSY = 40
"""Requests of one host that wait before those of others."""


class Writes:
    """Requests that the test sends one by one, and their order."""

    def __init__(self, limiter: WriteLimiter) -> None:
        self._limiter = limiter
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, host: str, urgency: Urgency = Urgency.ASSIGN) -> asyncio.Task[None]:
        task = asyncio.create_task(self._one(host, urgency))
        self.tasks.append(task)
        return task

    async def _one(self, host: str, urgency: Urgency) -> None:
        async with self._limiter.permit(urgency, host):
            self.order.append(host)
            await asyncio.sleep(0)


def unlimited(in_flight: int = 1) -> WriteLimiter:
    return WriteLimiter(in_flight=in_flight, per_second=1000.0, burst=100_000.0)


async def test_a_single_write_does_not_wait_behind_another_hosts_rollout() -> None:
    writes = Writes(unlimited())
    for _ in range(BUSY):
        writes.ask("large set")
    await asyncio.sleep(0)
    writes.ask("small vm")
    await asyncio.gather(*writes.tasks)
    assert writes.order.index("small vm") <= 3
    assert len(writes.order) == BUSY + 1


async def test_revocations_are_sent_before_all_other_writes() -> None:
    writes = Writes(unlimited())
    for _ in range(5):
        writes.ask("tidy", Urgency.TIDY)
        writes.ask("assign", Urgency.ASSIGN)
    await asyncio.sleep(0)
    for _ in range(3):
        writes.ask("revoke", Urgency.REVOKE)
    await asyncio.gather(*writes.tasks)
    assert writes.order[0] == "tidy", "a granted permit is not revoked"
    assert writes.order[2:5] == ["revoke"] * 3
    assert writes.order[5:9] == ["assign"] * 4


async def test_the_lowest_priority_gets_its_share_under_load() -> None:
    writes = Writes(unlimited())
    for _ in range(3 * LEAST_SHARE):
        writes.ask("revoke", Urgency.REVOKE)
    await asyncio.sleep(0)
    for _ in range(2):
        writes.ask("tidy", Urgency.TIDY)
    await asyncio.gather(*writes.tasks)
    assert [at for at, host in enumerate(writes.order) if host == "tidy"] == [LEAST_SHARE - 1, 2 * LEAST_SHARE - 1]


async def test_concurrent_writes_are_limited() -> None:
    limiter, most, now = unlimited(in_flight=3), 0, 0

    async def one(host: str) -> None:
        nonlocal most, now
        async with limiter.permit(Urgency.ASSIGN, host):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1

    await asyncio.gather(*(one(f"host {number % 4}") for number in range(20)))
    assert most == 3


async def test_a_burst_is_sent_immediately_and_the_others_at_the_rate() -> None:
    writes = Writes(WriteLimiter(in_flight=100, per_second=50.0, burst=30.0))
    for number in range(40):
        writes.ask(f"host {number}")
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(writes.order) == 30
    await asyncio.sleep(0.11)  # five and a half more
    assert len(writes.order) == 35
    await asyncio.gather(*writes.tasks)


async def test_a_cancelled_waiter_leaves_its_turn_to_others() -> None:
    writes = Writes(unlimited())
    first, given_up, last = (writes.ask(host) for host in ("first", "given up", "last"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(first, last)
    assert writes.order == ["first", "last"]


async def test_a_waiter_cancelled_when_it_is_granted_passes_the_grant_on() -> None:
    limiter = unlimited()
    writes = Writes(limiter)
    async with limiter.permit(Urgency.ASSIGN, "holder"):
        waiting = writes.ask("cancelled")
        await asyncio.sleep(0)
    waiting.cancel()  # it has its permit, and has not continued yet
    async with asyncio.timeout(5.0), limiter.permit(Urgency.ASSIGN, "next"):
        writes.order.append("next")
    assert writes.order == ["next"]
    await asyncio.gather(waiting, return_exceptions=True)


def test_the_default_rate_permits_the_writes_of_two_thousand_pods_soon_after_azures_operation() -> None:
    settings, now = Settings(namespace="default"), 0.0
    bucket = TokenBucket(settings.writes_per_second, settings.writes_at_once, lambda: now)
    for _ in range(400):  # created before Azure has their identities
        assert bucket.take()
    now = 5.4
    for _ in range(2000):  # the last write of each object
        while not bucket.take():
            now += bucket.seconds()
    assert now <= 8.01
