"""`python -m mic` stopped during its work (SIGSTOP) for longer than its lease: after SIGCONT it writes nothing."""

import asyncio
import signal

from podidentity_sandbox.serving import ResponseFault
from tests.mic.cluster import vm_id
from tests.mic.emulated_cloud import EmulatedCloud, Mic

LEASE = "--leader-election-duration=4s"


def api_writes(cloud: EmulatedCloud) -> list[str]:
    """Return the writes to the API server so far, without those of the leader election."""
    return [
        f"{each.method} {each.path}"
        for each in cloud.api.requests
        if each.method != "GET" and "/leases" not in each.path
    ]


async def woken(cloud: EmulatedCloud, first: Mic) -> None:
    """Continue the first leader, and test that it ends and that nothing is written: the other one has no work left."""
    await quiet(cloud)
    kubernetes, azure = api_writes(cloud), len(cloud.arm.writes())
    first.process.send_signal(signal.SIGCONT)
    assert await first.ended() == 1
    assert "is lost" in first.read_log()
    assert "Traceback" not in first.read_log()
    assert api_writes(cloud) == kubernetes
    assert len(cloud.arm.writes()) == azure


async def quiet(cloud: EmulatedCloud) -> None:
    """Wait until nothing was written for a second, so that later writes are not the other leader's."""
    async with asyncio.timeout(30):
        before = -1
        while before != len(api_writes(cloud)):
            before = len(api_writes(cloud))
            await asyncio.sleep(1.0)


async def test_a_leader_suspended_in_the_middle_of_its_writes_makes_none_after_the_lease_expired(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    cloud.identity()
    # A burst of one: with the default, all thirty would begin before the stop.
    first = await cloud.mic(LEASE, "--clientQps=2", "--client-burst=1")
    for number in range(30):
        cloud.pod(f"web{number}", "n0")
    await cloud.until(lambda: len(cloud.assigned()) > 3)
    first.process.send_signal(signal.SIGSTOP)
    assert len(cloud.assigned()) < 25, "the leader was suspended during its writes"
    cloud.running.remove(first)
    try:
        await cloud.mic(LEASE)
        await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * 30)
        await woken(cloud, first)
    finally:
        cloud.running.append(first)


async def test_a_leader_suspended_between_reading_azure_and_the_change_does_not_make_the_change(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    cloud.identity()
    # The read before a change is answered late, while the process is stopped. The change would follow immediately.
    slow = cloud.arm.faults.add(ResponseFault(delay_seconds=3.0, times=1, method="GET"))
    first = await cloud.mic(LEASE)
    cloud.pod("web", "n0")
    await cloud.until(lambda: slow.times == 0)
    first.process.send_signal(signal.SIGSTOP)
    cloud.running.remove(first)
    try:
        await cloud.mic(LEASE)
        await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
        await woken(cloud, first)
        assert cloud.on(vm_id("n0")) == {"demo"}
        assert len(cloud.arm.writes()) == 1
    finally:
        cloud.running.append(first)
