"""`python -m mic` stopped during its work (SIGSTOP) for longer than its lease: after SIGCONT it writes nothing."""

import asyncio
import json
import signal
import socket

import pytest

from tests.support.mic.emulated_cloud import EmulatedCloud, Mic
from tests.support.objects import vm_id

SUSPENDING = "tests.support.mic.suspending"
LEASE = "--leader-election-duration=12s"
"""MIC gives up after half of it: a pause of this machine is shorter."""
SECOND_ADDRESS = "127.0.0.2"


def api_writes(cloud: EmulatedCloud) -> list[str]:
    """Return the first leader's writes to the API server so far, without those of the leader election."""
    return [
        f"{each.method} {each.path}"
        for each in cloud.api.requests
        if each.method != "GET" and "/leases" not in each.path and each.host != SECOND_ADDRESS
    ]


async def second_leader(cloud: EmulatedCloud) -> None:
    """Start a second replica and wait until it leads. It reaches the API server at an address of its own, by which its
    writes are known."""
    await cloud.api.add_socket(socket.create_server((SECOND_ADDRESS, cloud.api.port)))
    config = json.loads(cloud.api.kubeconfig())
    server = f"https://{SECOND_ADDRESS}:{cloud.api.port}"
    config["clusters"][0]["cluster"] |= {"server": server, "tls-server-name": "localhost"}
    path = cloud.folder / "kubeconfig-second"
    await asyncio.to_thread(path.write_text, json.dumps(config))
    await cloud.mic(LEASE, f"--kubeconfig={path}")
    assert any(each.host == SECOND_ADDRESS for each in cloud.api.requests)


async def woken_after_its_successor_has_led(cloud: EmulatedCloud, first: Mic, *pods: str) -> None:
    """Wait until another replica has assigned the identity to all *pods*, continue the suspended leader, and test that
    it ends and writes nothing: not to Azure, where the other one has no work left either."""
    cloud.running.remove(first)  # it may end with an error
    try:
        await second_leader(cloud)
        wanted = {f"{pod}-default-demo": "Assigned" for pod in pods}
        await cloud.until(lambda: cloud.assigned() == wanted)
        kubernetes, azure = api_writes(cloud), len(cloud.arm.writes())
        assert kubernetes
        first.process.send_signal(signal.SIGCONT)
        assert await first.ended() == 1
    finally:
        cloud.running.append(first)
    assert "is lost" in first.read_log()
    assert "Traceback" not in first.read_log()
    assert api_writes(cloud) == kubernetes
    assert len(cloud.arm.writes()) == azure


async def test_a_leader_suspended_in_the_middle_of_its_writes_makes_none_after_the_lease_expired(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    cloud.identity()
    # A burst of one: with the default, all thirty would begin before the stop.
    first = await cloud.mic(LEASE, "--clientQps=2", "--client-burst=1", module=SUSPENDING)
    pods = [f"web{number}" for number in range(30)]
    for name in pods:
        cloud.pod(name, "n0")
    await cloud.until(lambda: len(cloud.assigned()) > 3)
    first.process.send_signal(signal.SIGUSR1)
    await first.suspended()
    assert len(cloud.assigned()) < 25, "the leader was suspended during its writes"
    await woken_after_its_successor_has_led(cloud, first, *pods)


@pytest.mark.parametrize("place", ["send", "write_bytes"])
async def test_a_leader_suspended_while_it_sends_a_change_has_sent_it_before_or_never_does(
    cloud: EmulatedCloud, place: str
) -> None:
    cloud.node("n0")
    cloud.identity()
    first = await cloud.mic(LEASE, environ={"SUSPEND_AFTER": place}, module=SUSPENDING)
    cloud.pod("web", "n0")
    await first.suspended()
    await woken_after_its_successor_has_led(cloud, first, "web")
    assert cloud.on(vm_id("n0")) == {"demo"}
    assert len(cloud.arm.writes()) == 1
