"""`python -m mic` with the API server and Azure of the sandbox, without fakes between them."""

import json
import time

from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import ASSIGNED, BINDINGS, EmulatedCloud
from tests.support.objects import identity_id, set_id, vm_id


async def test_a_pods_identity_is_assigned_and_revoked(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    seen: list[str] = []
    cloud.api.store.subscribe(ASSIGNED, lambda change: seen.append(change.item.document["status"]["status"]))
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert seen[0] == "Created"
    assert cloud.on(vm_id("n0")) == {"demo"}
    assert len(cloud.arm.writes()) == 1
    await cloud.until(lambda: ("demo", "binding applied") in cloud.events())
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == set()
    assert len(cloud.arm.writes()) == 2
    await cloud.until(lambda: ("demo", "binding removed") in cloud.events())
    page = await mic.page("/metrics")
    assert "aadpodidentity_assigned_identity_addition_count 1.0\n" in page
    assert 'aadpodidentity_cloud_provider_operations_duration_seconds_count{operation_type="vm_update"} 2.0' in page
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="bindings"}' in page
    assert "aadpodidentity_mic_events_dropped 0.0\n" in page
    assert await mic.stop() == 0
    assert "Traceback" not in mic.read_log()


async def test_nodes_of_a_scale_set_share_its_identities(cloud: EmulatedCloud) -> None:
    for number in range(2):
        cloud.node(f"s{number}", f"azure://{set_id()}/virtualMachines/{number}")
    cloud.identity()
    await cloud.mic()
    for number in range(2):
        cloud.pod(f"web{number}", f"s{number}")
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * 2)
    assert len(cloud.arm.writes(set_id())) == 1
    cloud.remove_pod("web0")
    await cloud.until(lambda: set(cloud.assigned()) == {"web1-default-demo"})
    assert cloud.on(set_id()) == {"demo"}
    cloud.remove_pod("web1")
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(set_id()) == set()


async def test_a_restart_with_all_assigned_writes_nothing(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    first = await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert await first.stop() == 0
    lease = cloud.api.store.get("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")
    assert lease["spec"]["holderIdentity"] == ""
    before = len(cloud.arm.writes())
    version = cloud.api.store.get(ASSIGNED, "web-default-demo", "default")["metadata"]["resourceVersion"]
    await cloud.mic()
    # MIC assigns another pod only after all earlier work.
    cloud.identity("other")
    cloud.node("n1")
    cloud.pod("later", "n1", label="other")
    await cloud.until(lambda: cloud.assigned().get("later-default-other") == "Assigned")
    assert len(cloud.arm.writes(vm_id("n0"))) == before
    assert cloud.api.store.get(ASSIGNED, "web-default-demo", "default")["metadata"]["resourceVersion"] == version


async def test_identities_assigned_before_a_kill_are_detached_after_it(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    first = await cloud.mic("--leader-election-duration=6s")
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    first.process.kill()
    await first.ended()
    cloud.running.clear()
    cloud.remove_pod("web")
    await cloud.mic("--leader-election-duration=6s")
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == set()


async def test_a_deleted_binding_revokes_the_object_before_azure_changes(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    machine = cloud.arm.vm(vm_id("n0"))
    machine.operation_seconds = 600.0
    cloud.identity("slow")
    cloud.pod("slow", "n0", label="slow")
    await cloud.until(lambda: len(cloud.arm.writes()) == 2)
    cloud.api.store.delete(BINDINGS, "demo", "default")
    await cloud.until(
        lambda: cloud.api.store.get(ASSIGNED, "web-default-demo", "default")["metadata"].get("deletionTimestamp")
    )
    assert machine.updating, "it waited for Azure"
    machine.operation_seconds = 0.1
    assert machine.operation is not None
    machine.operation.ends = time.monotonic()
    await cloud.until(lambda: cloud.assigned() == {"slow-default-slow": "Assigned"})
    assert cloud.on(vm_id("n0")) == {"slow"}


async def test_a_slow_scale_set_delays_no_other_host(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.node("s0", f"azure://{set_id()}/virtualMachines/0")
    cloud.arm.vm(set_id()).operation_seconds = 60.0
    cloud.identity()
    await cloud.mic()
    cloud.pod("slow", "s0")
    await cloud.until(lambda: cloud.arm.vm(set_id()).updating)
    cloud.pod("fast", "n0")
    await cloud.until(lambda: cloud.assigned().get("fast-default-demo") == "Assigned")
    assert cloud.arm.vm(set_id()).updating


async def test_one_refused_identity_is_reported_and_blocks_no_other(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.identity("bad")
    cloud.arm.marked.unauthorized.add(identity_id("bad").lower())
    await cloud.mic("--update-user-msi-retry-interval=10ms")
    cloud.pod("web", "n0")
    cloud.pod("unlucky", "n0", label="bad")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned", "unlucky-default-bad": "Created"})
    await cloud.until(lambda: ("bad", "binding apply error") in cloud.events())

    def message() -> str:
        annotations = cloud.api.store.get(ASSIGNED, "unlucky-default-bad", "default")["metadata"]["annotations"]
        return str(annotations.get("aadpodidentity.k8s.io/message", ""))

    await cloud.until(message)
    assert "grant it the role" in message()
    assert len(cloud.arm.writes()) == 2, "one with it, one without it"


async def test_a_service_principal_is_assigned_without_resource_manager(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity("principal", type=1, resourceID="", tenantID="t")
    await cloud.mic()
    cloud.pod("web", "n0", label="principal")
    await cloud.until(lambda: cloud.assigned() == {"web-default-principal": "Assigned"})
    assert cloud.arm.calls == []


async def test_only_the_leader_acts_and_a_second_process_takes_over(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    first = await cloud.mic()
    second = await cloud.mic(active=False)
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    assert await first.stop() == 0
    await cloud.active(second)
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.assigned())


async def test_two_processes_of_the_same_name_never_lead_together(cloud: EmulatedCloud) -> None:
    flags = ("--leader-election-instance=same", "--leader-election-duration=6s")
    first = await cloud.mic(*flags)
    second = await cloud.mic(*flags, active=False)
    # A wrong takeover would follow the first read. This replica has read the lease, and waits.
    lease = "leases.coordination.k8s.io"
    looks = 0

    def looked(request: Recorded) -> None:
        nonlocal looks
        looks += request.method == "GET" and "/leases/" in request.path

    cloud.api.intercept = looked
    await cloud.until(lambda: looks >= 3)
    cloud.api.intercept = None
    assert [await each.page("/healthz") for each in (first, second)] == ["Active", "Not Active"]
    holder = cloud.api.store.get(lease, "aad-pod-identity-mic", "default")["spec"]["holderIdentity"]
    assert holder.startswith("same_")
    assert await first.stop() == 0
    await cloud.active(second)


async def test_a_stolen_lease_ends_the_process(cloud: EmulatedCloud) -> None:
    mic = await cloud.mic("--leader-election-duration=6s")
    cloud.api.store.patch(
        "leases.coordination.k8s.io", "aad-pod-identity-mic", {"spec": {"holderIdentity": "thief"}}, "default"
    )
    assert await mic.ended() == 1
    assert "Traceback" not in mic.read_log()


async def test_a_go_implementation_that_becomes_leader_ends_the_process_which_releases_the_lease(
    cloud: EmulatedCloud,
) -> None:
    mic = await cloud.mic()
    record = {"holderIdentity": "reference", "leaseDurationSeconds": 15, "renewTime": "2024-01-01T00:00:00Z"}
    annotations = {"control-plane.alpha.kubernetes.io/leader": json.dumps(record)}
    meta = {"name": "aad-pod-identity-mic", "namespace": "default", "annotations": annotations}
    cloud.api.store.create("endpoints", {"metadata": meta})
    assert await mic.ended() == 1
    assert "another candidate holds it: 'reference'" in mic.read_log()
    lease = cloud.api.store.get("leases.coordination.k8s.io", "aad-pod-identity-mic", "default")
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_new_leader_reads_azure_first_and_waits_for_the_operation_of_the_dead_one(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    cloud.identity("other")
    machine = cloud.arm.vm(vm_id("n0"))
    machine.operation_seconds = 600.0
    first = await cloud.mic("--leader-election-duration=6s")
    cloud.pod("web", "n0")
    await cloud.until(cloud.arm.writes)
    first.process.kill()
    await first.ended()
    cloud.running.clear()
    machine.operation_seconds = 0.2
    reads = len(cloud.arm.reads())
    await cloud.mic("--leader-election-duration=6s")
    cloud.pod("later", "n0", label="other")
    await cloud.until(lambda: len(cloud.arm.reads()) > reads + 2)
    assert len(cloud.arm.writes()) == 1
    assert machine.operation is not None
    machine.operation.ends = time.monotonic()
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * 2)
    assert [write.status for write in cloud.arm.writes()] == [200, 200]
