"""Faults of one VM or scale set do not affect others: the real program, with throttled, broken and lost hosts.

A slow host is in `test_the_real_program`.
"""

import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity_sandbox.serving import ResponseFault
from tests.mic.emulated_cloud import ASSIGNED, EmulatedCloud, emulated_cloud
from tests.support.objects import identity_id, set_id, vm_id


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        made.node("n0")
        made.node("s0", f"azure://{set_id()}/virtualMachines/0")
        made.identity()
        yield made


def statuses(cloud: EmulatedCloud, status: str) -> set[str]:
    return {name for name, each in cloud.assigned().items() if each == status}


async def test_a_throttled_scale_set_waits_for_its_retry_after_and_delays_no_vm(cloud: EmulatedCloud) -> None:
    pause = 3.0
    cloud.arm.faults.add(
        ResponseFault(status=429, method="PATCH", path="/pool", headers={"Retry-After": str(int(pause))}, times=2)
    )
    await cloud.mic()
    cloud.pod("slow", "s0")
    await cloud.until(lambda: cloud.arm.writes(set_id()))
    cloud.pod("fast", "n0")
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"fast-default-demo"})
    await cloud.until(lambda: len(statuses(cloud, "Assigned")) == 2)
    writes = [call.at for call in cloud.arm.writes(set_id())]
    assert len(writes) == 3
    assert all(later - earlier >= pause for earlier, later in itertools.pairwise(writes))


async def test_a_throttled_read_of_one_scale_set_delays_no_vm(cloud: EmulatedCloud) -> None:
    cloud.arm.faults.add(ResponseFault(status=429, method="GET", path="/pool", headers={"Retry-After": "3"}))
    await cloud.mic()
    cloud.pod("slow", "s0")
    await cloud.until(lambda: cloud.arm.reads(set_id()))
    cloud.pod("fast", "n0")
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"fast-default-demo"})
    await cloud.until(lambda: len(statuses(cloud, "Assigned")) == 2)
    first, second = (call.at for call in cloud.arm.reads(set_id())[:2])
    assert second - first >= 3.0


async def test_one_refused_identity_among_twenty_costs_each_scale_set_two_updates(cloud: EmulatedCloud) -> None:
    cloud.arm.add_vmss(set_id("second"), operation_seconds=0.2)
    cloud.node("t0", f"azure://{set_id('second')}/virtualMachines/0")
    names = [f"id{number:02d}" for number in range(20)]
    for name in names:
        cloud.identity(name)
        for node in ("s0", "t0"):
            cloud.pod(f"{node}-{name}", node, label=name)
    bad = {f"{node}-id07-default-id07" for node in ("s0", "t0")}
    cloud.arm.marked.failing.add(identity_id("id07").lower())
    await cloud.mic()
    await cloud.until(lambda: len(statuses(cloud, "Assigned")) == 38)
    assert statuses(cloud, "Created") == bad
    for host in (set_id(), set_id("second")):
        assert cloud.on(host) == set(names) - {"id07"}
        assert len(cloud.arm.writes(host)) == 2, "one with it, one without it"
    concerned = {"id07", "s0-id07", "t0-id07", *bad}
    await cloud.until(lambda: concerned <= {name for name, reason in cloud.events() if reason == "binding apply error"})
    # No other update of the set includes the refused identity.
    cloud.pod("later", "s0")
    await cloud.until(lambda: "later-default-demo" in statuses(cloud, "Assigned"))
    assert [len(call.body["identity"]["userAssignedIdentities"]) for call in cloud.arm.writes(set_id())] == [20, 19, 1]


async def test_two_hundred_identities_are_attached_in_two_updates(cloud: EmulatedCloud) -> None:
    await cloud.mic("--clientQps=1000", "--createDeleteBatch=100")
    cloud.arm.vm(vm_id("n0")).operation_seconds = 0.5
    for number in range(200):
        cloud.identity(f"many{number}")
        cloud.pod(f"p{number}", "n0", label=f"many{number}")
    await cloud.until(lambda: len(cloud.on(vm_id("n0"))) == 200)
    sizes = [len(call.body["identity"]["userAssignedIdentities"]) for call in cloud.arm.writes()]
    assert max(sizes) <= 150
    assert sum(sizes) == 200
    assert {call.status for call in cloud.arm.writes()} == {200}


async def test_a_deleted_node_costs_no_call(cloud: EmulatedCloud) -> None:
    await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"web-default-demo"})
    calls = len(cloud.arm.calls)
    cloud.api.store.delete("nodes", "n0")
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.api.store.list(ASSIGNED))
    assert len(cloud.arm.calls) == calls
    assert cloud.on(vm_id("n0")) == {"demo"}, "the deletion of the VM removes it too"


async def test_an_identity_stays_attached_for_the_next_pod(cloud: EmulatedCloud) -> None:
    await cloud.mic("--detach-grace=3s")
    cloud.pod("job1", "n0")
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"job1-default-demo"})
    began = time.monotonic()
    cloud.remove_pod("job1")

    def revoked() -> bool:
        return all(each["metadata"].get("deletionTimestamp") for each in cloud.api.store.list(ASSIGNED))

    await cloud.until(revoked)
    cloud.pod("job2", "n0")
    await cloud.until(lambda: "job2-default-demo" in statuses(cloud, "Assigned"))
    if time.monotonic() - began < 3.0:
        assert len(cloud.arm.writes()) == 1
    gone = time.monotonic()
    cloud.remove_pod("job2")
    await cloud.until(lambda: not cloud.api.store.list(ASSIGNED))
    assert time.monotonic() - gone >= 2.9
    assert cloud.on(vm_id("n0")) == set()


async def test_an_outage_of_one_host_affects_no_other(cloud: EmulatedCloud) -> None:
    outage = cloud.arm.faults.add(ResponseFault(status=500, path="/pool", times=1000))
    await cloud.mic()
    cloud.pod("slow", "s0")
    cloud.pod("fast", "n0")
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"fast-default-demo"})
    cloud.arm.faults.remove(outage)
    await cloud.until(lambda: len(statuses(cloud, "Assigned")) == 2)


async def test_the_clusters_own_identity_and_immutable_ones_stay_attached(cloud: EmulatedCloud) -> None:
    config = json.loads((cloud.folder / "azure.json").read_text())
    (cloud.folder / "azure.json").write_text(json.dumps(config | {"userAssignedIdentityID": "CLIENT-Kubelet"}))
    names = ("kubelet", "backup", "plain")
    for name in names:
        cloud.identity(name)
        cloud.pod(name, "n0", label=name)
    await cloud.mic("--immutable-user-msis=other,Client-BACKUP", "--assign-cluster-identity")
    await cloud.until(lambda: len(statuses(cloud, "Assigned")) == 3)
    for name in names:
        cloud.remove_pod(name)
    await cloud.until(lambda: not cloud.api.store.list(ASSIGNED))
    assert cloud.on(vm_id("n0")) == {"kubelet", "backup"}


async def test_the_clusters_own_identity_is_neither_attached_nor_assigned(cloud: EmulatedCloud) -> None:
    config = json.loads((cloud.folder / "azure.json").read_text())
    (cloud.folder / "azure.json").write_text(json.dumps(config | {"userAssignedIdentityID": "CLIENT-Kubelet"}))
    for name in ("kubelet", "plain"):
        cloud.identity(name)
        cloud.pod(name, "n0", label=name)
    await cloud.mic()
    await cloud.until(lambda: statuses(cloud, "Assigned") == {"plain-default-plain"})
    await cloud.until(lambda: statuses(cloud, "Created") == {"kubelet-default-kubelet"})
    assert cloud.on(vm_id("n0")) == {"plain"}
