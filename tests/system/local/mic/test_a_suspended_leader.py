"""`python -m mic` stopped during its work (SIGSTOP) for longer than its lease: after SIGCONT it writes nothing."""

import asyncio
import json
import signal
import socket

import pytest

from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.objects import vm_id

LEASE = "--leader-election-duration=3600s"
"""MIC gives up after half of it: a pause of this machine is shorter. No test waits for its end."""
SECOND_ADDRESS = "127.0.0.2"


def api_writes(cloud: EmulatedCloud) -> list[str]:
    """Return the first leader's writes to the API server so far, without those of the leader election."""
    return [
        f"{request.method} {request.path}"
        for request in cloud.api.requests
        if request.method != "GET" and "/leases" not in request.path and request.host != SECOND_ADDRESS
    ]


async def second_leader(cloud: EmulatedCloud) -> None:
    """End the lease, start a second replica and wait until it leads. It reaches the API server at an address of its
    own, by which its writes are known."""
    released = {"spec": {"holderIdentity": ""}}
    cloud.api.store.patch("leases.coordination.k8s.io", "aad-pod-identity-mic", released, "default")
    await cloud.api.listen(socket.create_server((SECOND_ADDRESS, cloud.api.port)))
    config = json.loads(cloud.api.kubeconfig())
    server = f"https://{SECOND_ADDRESS}:{cloud.api.port}"
    config["clusters"][0]["cluster"] |= {"server": server, "tls-server-name": "localhost"}
    path = cloud.folder / "kubeconfig-second"
    await asyncio.to_thread(path.write_text, json.dumps(config))
    await cloud.mic(LEASE, f"--kubeconfig={path}")
    assert any(request.host == SECOND_ADDRESS for request in cloud.api.requests)


@pytest.mark.parametrize(
    ("suspended_after", "number"),
    [
        ("send POST /azureassignedidentities 5", 30),
        ("send PATCH /virtualMachines/ 1", 1),
        ("write_bytes PATCH /virtualMachines/ 1", 1),
    ],
    ids=["in the middle of its writes", "while it sends a change", "when it has sent a change"],
)
async def test_a_suspended_leader_writes_nothing_after_another_one_has_led(
    cloud: EmulatedCloud, suspended_after: str, number: int
) -> None:
    """Neither to the API server nor to Azure, where the other one has no work left either."""
    cloud.node("n0")
    cloud.identity()
    # A burst of one: with the default, all would begin before the stop.
    slow = ("--clientQps=2", "--client-burst=1")
    environ = {"SUSPEND": suspended_after}
    first = await cloud.mic(LEASE, *slow, environ=environ, module="tests.support.mic.suspending")
    pods = [f"web{index}" for index in range(number)]
    for name in pods:
        cloud.pod(name, "n0")
    await first.suspended()
    assert len(cloud.assigned()) <= 5
    cloud.running.remove(first)  # it may end with an error
    try:
        await second_leader(cloud)
        await cloud.until(lambda: cloud.assigned() == {f"{pod}-default-demo": "Assigned" for pod in pods})
        kubernetes, azure = api_writes(cloud), len(cloud.arm.writes())
        assert kubernetes
        first.process.send_signal(signal.SIGCONT)
        assert await first.ended() == 1
    finally:
        cloud.running.append(first)
    assert "is lost" in first.read_log()
    assert "Traceback" not in first.read_log()
    assert api_writes(cloud) == kubernetes
    assert len(cloud.arm.writes()) == azure == 1
    assert cloud.on(vm_id("n0")) == {"demo"}
