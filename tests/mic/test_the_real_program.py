"""`python -m mic` with the API server and Azure of the sandbox, without fakes between them."""

import json

from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import ASSIGNED, EmulatedCloud
from tests.support.objects import vm_id


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
