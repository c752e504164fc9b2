"""When suspensions are verified, how often, and their log lines. Excluded: the requests of suspended pods."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from nmi.identity import suspensions
from nmi.identity.address_evidence import Evidence, EvidenceKind
from nmi.identity.pod_entry import PodEntry
from nmi.identity.suspensions import Suspensions
from tests.support.nmi_objects import pod
from tests.support.objects import started_at
from tests.support.virtual_time import now, settle


def evidence(number: int = 0, kind: EvidenceKind = EvidenceKind.INTERFACE_REMOVED) -> Evidence:
    return Evidence(f"10.0.0.{number}", kind, "veth")


class SuspensionBench:
    """Pods, the suspensions of them, and the reads that verify them."""

    def __init__(self, pods: int = 1) -> None:
        self.entries = {f"10.0.0.{n}": PodEntry(pod(f"web-{n}", addresses=(f"10.0.0.{n}",))) for n in range(pods)}
        self.reads: list[tuple[float, str]] = []
        self.confirms = True
        self.during_read: list[Evidence] = []
        self.wall = 2e9
        self.suspensions = Suspensions(wall_clock=lambda: self.wall)

    def begin(self, changes: Iterable[Evidence]) -> None:
        for change in changes:
            self.suspensions.begin(change, [self.entries[change.address]] if change.address in self.entries else [])

    async def verify(self, entry: PodEntry, address: str) -> bool:
        assert self.entries[address] is entry
        self.reads.append((now(), address))
        await asyncio.sleep(0.05)
        self.begin(self.during_read)
        return self.confirms

    def is_suspended(self) -> bool:
        return self.entry.suspended

    @property
    def entry(self) -> PodEntry:
        return self.entries["10.0.0.0"]


@asynccontextmanager
async def running(pods: int = 1) -> AsyncIterator[SuspensionBench]:
    bench = SuspensionBench(pods)
    task = asyncio.create_task(bench.suspensions.run(bench.verify))
    await settle()
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_suspension_is_verified_once_ten_seconds_after_the_evidence() -> None:
    async with running() as bench:
        begun = now()
        bench.begin([evidence()])
        assert bench.is_suspended()
        await asyncio.sleep(suspensions.VERIFY_SECONDS + 60)
        assert [round(when - begun, 1) for when, _ in bench.reads] == [suspensions.VERIFY_SECONDS]
        assert not bench.is_suspended()
        assert bench.suspensions.pods == 0


async def test_an_unconfirmed_suspension_is_verified_at_growing_intervals() -> None:
    async with running() as bench:
        bench.confirms = False
        bench.begin([evidence()])
        await asyncio.sleep(suspensions.VERIFY_SECONDS + sum(suspensions.RETRY_SECONDS) + 100)
        times = [when for when, _ in bench.reads]
        gaps = [round(later - sooner) for sooner, later in itertools.pairwise(times)]
        assert gaps[: len(suspensions.RETRY_SECONDS)] == [round(gap) for gap in suspensions.RETRY_SECONDS]
        assert set(gaps[len(suspensions.RETRY_SECONDS) :]) == {round(suspensions.RETRY_SECONDS[-1])}
        assert bench.is_suspended()
        bench.confirms = True
        await asyncio.sleep(suspensions.RETRY_SECONDS[-1] + 1)
        assert not bench.is_suspended()


async def test_more_evidence_delays_verification_and_invalidates_a_read_in_progress() -> None:
    async with running() as bench:
        begun = now()
        bench.begin([evidence()])
        await asyncio.sleep(6)
        bench.begin([evidence(kind=EvidenceKind.PORT_MOVED)])
        bench.during_read = [evidence()]
        await asyncio.sleep(10.5)
        assert [round(when - begun) for when, _ in bench.reads] == [16]
        assert bench.is_suspended()
        bench.during_read = []
        await asyncio.sleep(10.5)
        assert not bench.is_suspended()
        assert bench.suspensions.counts[EvidenceKind.INTERFACE_REMOVED] == 1
        assert bench.suspensions.counts[EvidenceKind.PORT_MOVED] == 0, "it was suspended already"


async def test_many_pods_are_verified_one_after_the_other() -> None:
    async with running(250) as bench:
        bench.begin([evidence(number) for number in range(250)])
        assert bench.suspensions.pods == 250
        await asyncio.sleep(suspensions.VERIFY_SECONDS + 60)
        times = [when for when, _ in bench.reads]
        assert len(times) == 250
        assert all(later - sooner >= suspensions.GAP_SECONDS for sooner, later in itertools.pairwise(times))
        assert bench.suspensions.pods == 0


async def test_a_pod_with_two_addresses_is_served_when_both_are_verified() -> None:
    async with running(2) as bench:
        bench.entries["10.0.0.1"] = bench.entry
        bench.entry.addresses = ("10.0.0.0", "10.0.0.1")
        bench.begin([evidence(0), evidence(1)])
        assert bench.suspensions.of(bench.entry) == dict.fromkeys(bench.entry.addresses, "interface_removed")
        bench.entry.addresses = ("10.0.0.1",)
        bench.suspensions.changed(bench.entry)
        assert bench.is_suspended()
        bench.suspensions.left(bench.entry)
        assert not bench.suspensions.of(bench.entry)
        await asyncio.sleep(60)
        assert bench.reads == []


def moment(second: int) -> float:
    """The wall clock then."""
    return datetime.fromisoformat(started_at(second)).timestamp()


CLAIMS: dict[str, tuple[EvidenceKind, int, bool]] = {
    "started before": (EvidenceKind.INTERFACE_REMOVED, 59, True),
    "started in the same second": (EvidenceKind.ROUTE_REMOVED, 60, True),
    "started after": (EvidenceKind.INTERFACE_REMOVED, 61, False),
    "the next owner's own first packet": (EvidenceKind.LINK_LAYER_CHANGED, 59, False),
    "the next owner's own port": (EvidenceKind.PORT_MOVED, 59, False),
    "the next owner's own route": (EvidenceKind.ROUTE_MOVED, 59, False),
}


@pytest.mark.parametrize("case", CLAIMS)
async def test_a_pod_that_claims_the_address_of_an_ended_sandbox_is_suspended_unless_it_started_since(
    case: str,
) -> None:
    kind, second, is_suspended = CLAIMS[case]
    async with running(0) as bench:
        bench.wall = moment(60) + 0.5
        begun = now()
        bench.begin([evidence(kind=kind)])
        assert sum(bench.suspensions.counts.values()) == 0, "no pod has the address"
        await asyncio.sleep(4)
        entry = bench.entries["10.0.0.0"] = PodEntry(pod(addresses=("10.0.0.0",), started=second))
        bench.suspensions.address_added("10.0.0.0", entry)
        assert entry.suspended is is_suspended
        await asyncio.sleep(60)
        assert [round(when - begun) for when, _ in bench.reads] == [10] * is_suspended
        assert not entry.suspended


async def test_evidence_is_kept_for_a_minute_and_for_a_limited_number_of_addresses() -> None:
    async with running(0) as bench:
        entry = PodEntry(pod(addresses=("10.0.0.0",)))
        bench.begin([evidence()])
        await asyncio.sleep(suspensions.REMEMBERED_SECONDS)
        bench.suspensions.address_added("10.0.0.0", entry)
        assert not entry.suspended
        bench.begin(evidence(number) for number in range(suspensions.REMEMBERED_MAX + 100))
        assert bench.suspensions.remembered == suspensions.REMEMBERED_MAX
        bench.suspensions.address_added("10.0.0.0", entry)
        assert not entry.suspended
        bench.suspensions.address_added("10.0.0.100", entry)
        assert entry.suspended


async def test_an_endlessly_suspended_pod_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as bench:
        caplog.set_level(logging.INFO)
        begun = now()
        for _ in range(1000):
            bench.begin([evidence()])
            bench.suspensions.left(bench.entry)
            await asyncio.sleep(0.1)
        lines = [
            record for record in caplog.records if record.message == "pod suspended, its address changed its owner"
        ]
        assert (
            suspensions.LOGGED_AT_ONCE
            <= len(lines)
            <= suspensions.LOGGED_AT_ONCE + (now() - begun) / suspensions.LOG_GAP_SECONDS + 1
        )
        assert (lines[0].pod, lines[0].address, lines[0].evidence, lines[0].interface) == (  # type: ignore[attr-defined]
            "ns/web-0",
            "10.0.0.0",
            "interface_removed",
            "veth",
        )
        assert sum(line.left_out for line in lines) + len(lines) <= 1000  # type: ignore[attr-defined]
        assert lines[-1].left_out > 10  # type: ignore[attr-defined]
        assert bench.suspensions.counts[EvidenceKind.INTERFACE_REMOVED] == 1000
