"""`python -m mic` with the API server and Azure of the sandbox: pods, leadership, pages, and the role that it needs."""

import asyncio
import json
import re
import urllib.error
from typing import Any, Final

import pytest

from podidentity.kube.transport import CONNECTIONS_MAX
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import ASSIGNED, EmulatedCloud, Mic
from tests.support.objects import set_id, vm_id
from tests.support.waiting import until
from tests.system.plane.e2e.operators_shell import blocks_of

PAGE: Final = (ROOT / "docs" / "install-on-aks.md").read_text()
TAINT: Final = {"key": "aadpodidentity.k8s.io/nmi-not-ready", "effect": "NoSchedule"}
VERBS: Final = {"GET": "read", "PATCH": "write"}
RESOURCE: Final = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/(Microsoft\.Compute/\w+)/[^/]+", re.IGNORECASE
)
"""A VM or a scale set, and nothing below it."""
OPERATION: Final = re.compile(r".*/providers/Microsoft\.Compute/locations/[^/]+/operations/[^/]+", re.IGNORECASE)


def role() -> dict[str, list[str]]:
    (block,) = blocks_of(PAGE, "json")
    found: dict[str, list[str]] = json.loads(block)
    return found


def action_of(method: str, path: str) -> str:
    """Return the action of Azure that a request needs."""
    if OPERATION.fullmatch(path) and method == "GET":
        return "Microsoft.Compute/locations/operations/read"
    found = RESOURCE.fullmatch(path)
    assert found, path
    return f"{found[1]}/{VERBS[method]}"


async def test_identities_are_assigned_and_revoked_with_exactly_the_actions_of_the_role(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.node("pool-0", f"azure://{set_id()}/virtualMachines/0")
    cloud.identity()
    mic = await cloud.mic()
    seen: list[str] = []
    cloud.api.store.subscribe(ASSIGNED, lambda change: seen.append(change.item.document["status"]["status"]))
    for name, node in (("web", "n0"), ("worker", "pool-0")):
        cloud.pod(name, node)
    names = ("web-default-demo", "worker-default-demo")
    await cloud.until(lambda: cloud.assigned() == dict.fromkeys(names, "Assigned"))
    assert seen[0] == "Created"
    assert cloud.on(vm_id("n0")) == cloud.on(set_id()) == {"demo"}
    assert len(cloud.arm.writes()) == 2
    await cloud.until(lambda: ("demo", "binding applied") in cloud.events())
    for name in ("web", "worker"):
        cloud.remove_pod(name)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == cloud.on(set_id()) == set()
    assert len(cloud.arm.writes()) == 4
    await cloud.until(lambda: ("demo", "binding removed") in cloud.events())
    assert {action_of(each.method, each.path) for each in cloud.arm.calls} == set(role()["Actions"])
    page = await mic.page("/metrics")
    assert "aadpodidentity_assigned_identity_addition_count 2.0\n" in page
    assert 'aadpodidentity_cloud_provider_operations_duration_seconds_count{operation_type="vm_update"} 2.0' in page
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="bindings"}' in page
    assert "aadpodidentity_mic_events_dropped 0.0\n" in page
    assert await mic.stop() == 0
    assert "Traceback" not in mic.read_log()


async def test_flags_decide_about_namespaces_and_detaches_and_without_one_taints_stay(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.api.store.patch("nodes", "n0", {"spec": {"taints": [TAINT]}})
    labels = {"app.kubernetes.io/component": "nmi"}
    meta = {"name": "nmi", "namespace": "default", "labels": labels}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    spec = {"nodeName": "n0", "containers": [{"name": "nmi", "image": "nmi"}]}
    cloud.api.store.create("pods", {"metadata": meta, "spec": spec, "status": ready})
    cloud.api.store.create("namespaces", {"metadata": {"name": "team"}})
    for name in ("demo", "later"):
        cloud.identity(name)
    cloud.pod("stranger", "n0", namespace="team")
    cloud.pod("web", "n0")
    mic = await cloud.mic("--forceNamespaced", "--detach-grace=1h")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    cloud.remove_pod("web")
    await cloud.until(lambda: all("deletionTimestamp" in each["metadata"] for each in cloud.api.store.list(ASSIGNED)))
    cloud.pod("later", "n0", label="later")
    await cloud.until(lambda: cloud.assigned().get("later-default-later") == "Assigned")
    assert cloud.on(vm_id("n0")) == {"demo", "later"}, "the grace period has not ended"
    assert "stranger-team-demo" not in cloud.assigned()
    assert cloud.api.store.get("nodes", "n0")["spec"]["taints"] == [TAINT]
    assert 'watch="startup_taint_nodes"' not in await mic.page("/metrics")


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
    await cloud.until(lambda: "another candidate leads; waiting" in second.read_log())
    assert 'reason="held by mic-0' in second.read_log()
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


async def ready(mic: Mic) -> dict[str, bool]:
    """The checks of /readyz, and whether each is met."""
    try:
        page = await mic.page("/readyz")
    except urllib.error.HTTPError as answer:
        page = answer.read().decode()
    lines = [line for line in page.splitlines() if line.startswith("[")]
    return {line[3:].partition(" ok")[0].partition(":")[0]: line.startswith("[+]") for line in lines}


async def another(cloud: EmulatedCloud) -> Mic:
    """A second process, which waits for the lease, once it listens."""
    mic = await cloud.mic(active=False)
    await until(lambda: mic.page("/healthz"), "MIC listens", ignoring=OSError)
    return mic


async def test_the_leader_and_a_candidate_waiting_for_the_lease_are_ready(cloud: EmulatedCloud) -> None:
    leader = await cloud.mic()
    waiting = await another(cloud)
    await until(lambda: ready(waiting), "the candidate is ready", holds=lambda checks: all(checks.values()))
    for mic in (leader, waiting):
        assert await ready(mic) == {"api server": True, "watches": True, "azure": True}
    pages = [await mic.page("/metrics") for mic in (leader, waiting)]
    assert "aadpodidentity_mic_lease_held 1.0\n" in pages[0]
    assert "aadpodidentity_mic_lease_held 0.0\n" in pages[1]
    assert await waiting.stop() == 0
    assert "the lease is released" not in waiting.read_log(), "it had none"


async def test_unusable_credentials_make_the_leader_not_ready(cloud: EmulatedCloud) -> None:
    config = json.loads((cloud.folder / "azure.json").read_text())
    (cloud.folder / "azure.json").write_text(json.dumps(config | {"aadClientSecret": "wrong"}))
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    assert await ready(mic) == {"api server": True, "watches": True, "azure": True}
    cloud.pod("web", "n0")
    await until(lambda: ready(mic), "MIC is not ready", holds=lambda checks: not checks["azure"])
    await cloud.until(lambda: "no token for Resource Manager" in mic.read_log())
    assert "azure.identity" not in mic.read_log(), "the library's lines are another one at each try"


async def test_the_state_is_served_on_loopback_and_a_profile_if_enabled(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic("--enableProfile")
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    state = json.loads(await mic.page("/debug/state"))
    assert state["health"] == "Active"
    assert state["cluster"]["assigned identities"] == 1
    assert state["lease"]["seconds"] > 0
    secret = json.loads((cloud.folder / "azure.json").read_text())["aadClientSecret"]
    assert secret not in json.dumps(state)
    await mic.page("/debug/profile?seconds=1")
    plain = await another(cloud)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await plain.page("/debug/profile?seconds=1")


def test_the_role_has_the_fields_of_a_role_definition() -> None:
    assert set(role()) == {"Name", "Description", "AssignableScopes", "Actions"}
    assert role()["AssignableScopes"] == ["/subscriptions/SUBSCRIPTION"]


LEASE_SECONDS = 12.0
"""MIC renews after a quarter of it and gives up after half: the rest exceeds a pause of this machine."""
LEASES = "leases.coordination.k8s.io"
PODS = CONNECTIONS_MAX + 20


async def test_hanging_writes_on_every_connection_do_not_cost_the_lease(
    cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, released = 0, asyncio.Event()
    answer = cloud.api._handler.answer

    async def hang(request: Any, target: Any) -> Any:
        nonlocal hanging
        if request.method == "POST" and "azureassignedidentities" in request.path:
            hanging += 1
            await released.wait()
        return await answer(request, target)

    monkeypatch.setattr(cloud.api._handler, "answer", hang)
    cloud.node("n0")
    cloud.identity()
    await cloud.mic(f"--leader-election-duration={LEASE_SECONDS}s", "--createDeleteBatch=1000", "--clientQps=1000")
    for number in range(PODS):
        cloud.pod(f"web{number}", "n0")
    await cloud.until(lambda: hanging >= CONNECTIONS_MAX)
    before = cloud.api.store.get(LEASES, "aad-pod-identity-mic", "default")["spec"]
    renewals: list[dict[str, Any]] = []
    cloud.api.store.subscribe(LEASES, lambda change: renewals.append(change.item.document["spec"]))
    await cloud.until(lambda: len(renewals) == 2, "two renewals")
    assert {each["holderIdentity"] for each in renewals} == {before["holderIdentity"]}
    assert [each["renewTime"] for each in (before, *renewals)] == sorted(
        {each["renewTime"] for each in (before, *renewals)}
    )
    released.set()
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * PODS)
