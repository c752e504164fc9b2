"""Several real `python -m mic` while pods change and leaders stop, are killed or are suspended: only one writes."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.kubeapi.history import Change
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import EmulatedCloud, Mic, emulated_cloud
from tests.support.objects import identity_id, set_id, vm_id

LEASES = "leases.coordination.k8s.io"
LEASE_SECONDS = 8.0
HOSTS = (vm_id("n0"), vm_id("n1"), set_id())
NODES = ("n0", "n1", "s0", "s1")
HOST_OF = dict(zip(NODES, (*HOSTS, set_id()), strict=True))
IDENTITIES = tuple(f"i{number}" for number in range(6))
PODS_MOST = 1500


@dataclass
class Watched:
    """Leaders over time, and the requests of each replica, as the servers received them.

    Each replica asks the API server by an address of its own, and is a principal of its own in Azure: so both know it.
    """

    cloud: EmulatedCloud
    active: list[tuple[float, str]] = field(default_factory=list)
    """The time (monotonic) and the new holder of each change of the lease."""
    foreign_writes: list[str] = field(default_factory=list)
    """Writes while another process held the lease."""
    principals: dict[str, str] = field(default_factory=dict)
    """Object id to the replica's name."""
    pods: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The node and the identity of each existing pod, by its name."""

    @property
    def holder(self) -> str:
        return self.active[-1][1] if self.active else ""

    def changed(self, change: Change) -> None:
        holder = str(change.item.document["spec"].get("holderIdentity") or "").rpartition("_")[0]
        if holder != self.holder:
            self.active.append((time.monotonic(), holder))

    def asked(self, request: Recorded) -> None:
        if request.method == "GET" or "/leases" in request.path:
            return
        name = f"mic-{int(request.host.rpartition('.')[2]) - 10}"
        if self.holder not in {"", name}:
            self.foreign_writes.append(f"{name} under {self.holder}: {request.method} {request.path}")

    def holder_at(self, moment: float) -> str:
        return next((holder for at, holder in reversed(self.active) if at <= moment), "")

    def handovers(self) -> list[float]:
        """Seconds from each release to the next holder."""
        return [
            after[0] - before[0]
            for before, after in zip(self.active, self.active[1:], strict=False)
            if not before[1] and after[1]
        ]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        for name in ("n0", "n1"):
            made.node(name)
        for number in range(2):
            made.node(f"s{number}", f"azure://{set_id()}/virtualMachines/{number}")
        for name in ("keep", *IDENTITIES):
            made.identity(name)
        for host in HOSTS:
            made.arm.vm(host).operation_seconds = 0.5
        yield made


@pytest.fixture
def watched(cloud: EmulatedCloud) -> Watched:
    made = Watched(cloud)
    cloud.api.store.subscribe(LEASES, made.changed)
    cloud.api.intercept = made.asked
    return made


async def replica(watched: Watched) -> Mic:
    """Start another replica with a separate address and principal."""
    cloud, number = watched.cloud, len(watched.principals)
    address = f"127.0.0.{number + 10}"
    await cloud.api.add_socket(socket.create_server((address, cloud.api.port)))
    config = json.loads(cloud.api.kubeconfig())
    config["clusters"][0]["cluster"] |= {
        "server": f"https://{address}:{cloud.api.port}",
        "tls-server-name": "localhost",
    }
    (cloud.folder / f"kubeconfig-{number}").write_text(json.dumps(config))
    principal = cloud.directory.add_principal()
    cloud.directory.grant(principal.object_id, "Contributor")
    watched.principals[principal.object_id] = f"mic-{number}"
    azure = json.loads((cloud.folder / "azure.json").read_text())
    azure |= {"aadClientId": principal.client_id, "aadClientSecret": principal.secret}
    (cloud.folder / f"azure-{number}.json").write_text(json.dumps(azure))
    return await cloud.mic(
        f"--kubeconfig={cloud.folder / f'kubeconfig-{number}'}",
        f"--cloudconfig={cloud.folder / f'azure-{number}.json'}",
        f"--leader-election-instance=mic-{number}",
        f"--leader-election-duration={LEASE_SECONDS}s",
        active=False,
        module="tests.mic.suspending",
    )


def create(watched: Watched, name: str, node: str, identity: str) -> None:
    watched.cloud.pod(name, node, label=identity)
    watched.pods[name] = (node, identity)


async def load(watched: Watched) -> None:
    """Create and delete pods continuously, so that the identities that hosts need change every second."""
    for number in range(PODS_MOST):
        create(watched, f"p{number}", NODES[number % 4], IDENTITIES[number // 16 % len(IDENTITIES)])
        gone = f"p{number - 20}"
        if gone in watched.pods and number % 16:
            watched.cloud.remove_pod(gone)
            del watched.pods[gone]
        await asyncio.sleep(0.05)


def updates(watched: Watched) -> list[tuple[str, str, float, int, dict[str, Any]]]:
    """Host, replica, time, status and content of each PATCH of Azure."""
    return [
        (
            call.path.lower(),
            watched.principals[call.caller],
            call.at,
            call.status,
            {key.rpartition("/")[2]: value for key, value in call.body["identity"]["userAssignedIdentities"].items()},
        )
        for call in watched.cloud.arm.writes()
    ]


def judge(watched: Watched) -> None:
    """Check that only the leader wrote, and that each update of Azure changed something and detached no identity in
    use."""
    assert watched.foreign_writes == []
    on: dict[str, set[str]] = {host.lower(): set() for host in HOSTS}
    for host, replica_name, at, status, asked in updates(watched):
        assert watched.holder_at(at) in {"", replica_name}, "Azure was changed by who does not lead"
        assert status == 200, "a new leader waits for the operation that an earlier one started"
        adds = {name for name, value in asked.items() if value is not None}
        removes = asked.keys() - adds
        assert adds | removes
        assert not adds & on[host], "it was there already"
        assert removes <= on[host], "it was not there"
        assert "keep" not in removes
        on[host] = on[host] - removes | adds


async def test_exactly_one_leader_writes_and_nothing_is_lost_however_a_leadership_ends(
    cloud: EmulatedCloud, watched: Watched
) -> None:
    replicas = {f"mic-{number}": await replica(watched) for number in range(3)}
    await cloud.until(lambda: watched.holder)
    for node in NODES:
        create(watched, f"keeper-{node}", node, "keep")
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * 4)
    loading = asyncio.create_task(load(watched))
    try:
        for how in ("stop", "kill", "suspend", "stop"):
            before = len(watched.cloud.arm.writes())
            await cloud.until(lambda before=before: len(cloud.arm.writes()) >= before + 2, "some work")  # type: ignore[misc]  # bound at once
            name = watched.holder
            leader = replicas.pop(name)
            cloud.running.remove(leader)
            await ended(watched, name, leader, how)
            number = len(watched.principals)
            replicas[f"mic-{number}"] = await replica(watched)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        wanted = {f"{pod}-default-{identity}": "Assigned" for pod, (_, identity) in watched.pods.items()}
        await cloud.until(lambda: cloud.assigned() == wanted, "everything settled")
        for host in HOSTS:
            needed = {identity for node, identity in watched.pods.values() if HOST_OF[node] == host}
            await cloud.until(lambda host=host, needed=needed: cloud.on(host) == needed)  # type: ignore[misc]  # as above
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    judge(watched)
    assert identity_id("keep").lower() in cloud.arm.vm(set_id()).identities
    assert len({holder for _, holder in watched.active if holder}) == 5
    # A replica that checks every second leads a second later; on a busy machine this can take longer once.
    assert min(watched.handovers()) < 2.0


async def ended(watched: Watched, name: str, leader: Mic, how: str) -> None:
    """End the leader, or suspend it for longer than its lease, and wait until another one leads."""
    try:
        match how:
            case "stop":
                assert await leader.stop() == 0
            case "kill":
                leader.process.kill()
                await leader.ended()
            case "suspend":
                leader.process.send_signal(signal.SIGUSR1)
                await leader.suspended()
        await watched.cloud.until(lambda: watched.holder not in {"", name}, f"another leader after {how}")
        if how == "suspend":
            leader.process.send_signal(signal.SIGCONT)
            assert await leader.ended() == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            leader.process.kill()
        await leader.process.wait()
