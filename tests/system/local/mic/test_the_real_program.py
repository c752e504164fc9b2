"""`python -m mic` with the API server and Azure of the sandbox: pods, leadership, pages, credentials, and its role."""

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
from tests.support.mic.renewing import LEASE_SECONDS
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import until

PAGE: Final = (ROOT / "docs" / "install-on-aks.md").read_text()
TAINT: Final = {"key": "aadpodidentity.k8s.io/nmi-not-ready", "effect": "NoSchedule"}
VERBS: Final = {"GET": "read", "PATCH": "write"}
RESOURCE: Final = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/(Microsoft\.Compute/\w+)/[^/]+", re.IGNORECASE
)
"""A VM or a scale set, and nothing below it."""
OPERATION: Final = re.compile(r".*/providers/Microsoft\.Compute/locations/[^/]+/operations/[^/]+", re.IGNORECASE)
LEASES: Final = "leases.coordination.k8s.io"
READY: Final = {"api server": True, "watches": True, "azure": True}


def action_of(method: str, path: str) -> str:
    """Return the action of Azure that a request needs."""
    if OPERATION.fullmatch(path) and method == "GET":
        return "Microsoft.Compute/locations/operations/read"
    match = RESOURCE.fullmatch(path)
    assert match, path
    return f"{match[1]}/{VERBS[method]}"


async def ready(mic: Mic) -> dict[str, bool]:
    """The checks of /readyz, and whether each is met."""
    try:
        page = await mic.page("/readyz")
    except urllib.error.HTTPError as error:
        page = error.read().decode()
    lines = [line for line in page.splitlines() if line.startswith("[")]
    return {line[3:].partition(" ok")[0].partition(":")[0]: line.startswith("[+]") for line in lines}


async def test_identities_are_assigned_and_revoked_with_exactly_the_actions_of_the_role(cloud: EmulatedCloud) -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```\n", PAGE, re.MULTILINE | re.DOTALL)
    role = json.loads(block)
    assert set(role) == {"Name", "Description", "AssignableScopes", "Actions"}
    assert role["AssignableScopes"] == ["/subscriptions/SUBSCRIPTION"]
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
    state = json.loads(await mic.page("/debug/state"))
    assert (state["health"], state["cluster"]["assigned identities"]) == ("Active", 2)
    assert state["lease"]["seconds"] > 0
    assert json.loads((cloud.folder / "azure.json").read_text())["aadClientSecret"] not in json.dumps(state)
    assert cloud.on(vm_id("n0")) == cloud.on(set_id()) == {"demo"}
    assert len(cloud.arm.writes()) == 2
    await cloud.until(lambda: ("demo", "binding applied") in cloud.events())
    for name in ("web", "worker"):
        cloud.remove_pod(name)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == cloud.on(set_id()) == set()
    assert len(cloud.arm.writes()) == 4
    await cloud.until(lambda: ("demo", "binding removed") in cloud.events())
    assert {action_of(call.method, call.path) for call in cloud.arm.calls} == set(role["Actions"])
    page = await mic.page("/metrics")
    assert "aadpodidentity_assigned_identity_addition_count 2.0\n" in page
    assert 'aadpodidentity_cloud_provider_operations_duration_seconds_count{operation_type="vm_update"} 2.0' in page
    assert 'aadpodidentity_mic_watch_staleness_seconds{watch="bindings"}' in page
    assert "aadpodidentity_mic_events_dropped 0.0\n" in page
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await mic.page("/debug/profile?seconds=1")
    assert await mic.stop() == 0
    assert "Traceback" not in mic.read_log()


async def test_flags_decide_about_namespaces_detaches_profiles_and_taints(
    cloud: EmulatedCloud,
) -> None:
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
    mic = await cloud.mic("--forceNamespaced", "--detach-grace=1h", "--enableProfile")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    cloud.remove_pod("web")
    await cloud.until(lambda: all("deletionTimestamp" in item["metadata"] for item in cloud.api.store.list(ASSIGNED)))
    cloud.pod("later", "n0", label="later")
    await cloud.until(lambda: cloud.assigned().get("later-default-later") == "Assigned")
    assert cloud.on(vm_id("n0")) == {"demo", "later"}, "the grace period has not ended"
    assert "stranger-team-demo" not in cloud.assigned()
    assert cloud.api.store.get("nodes", "n0")["spec"]["taints"] == [TAINT]
    assert 'watch="startup_taint_nodes"' not in await mic.page("/metrics")
    await mic.page("/debug/profile?seconds=1")


async def test_of_two_processes_of_one_name_only_the_leader_acts_and_both_are_ready(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    first = await cloud.mic("--leader-election-instance=same")
    holder = cloud.api.store.get(LEASES, "aad-pod-identity-mic", "default")["spec"]["holderIdentity"]
    assert holder.startswith("same_")
    looks: list[Recorded] = []
    cloud.api.intercept = looks.append
    second = await cloud.mic("--leader-election-instance=same", active=False)
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    await cloud.until(lambda: "another candidate leads; waiting" in second.read_log())
    assert f'reason="held by {holder}' in second.read_log()
    # A wrong takeover would follow the first read. This replica has read the lease, and waits.
    before = len(looks)
    await cloud.until(
        lambda: [request.method for request in looks[before:] if "/leases/" in request.path].count("GET") >= 3
    )
    await until(lambda: ready(second), "the candidate is ready", holds=READY.__eq__, ignoring=OSError)
    assert await ready(first) == READY
    assert [await process.page("/healthz") for process in (first, second)] == ["Active", "Not Active"]
    assert "aadpodidentity_mic_lease_held 1.0\n" in await first.page("/metrics")
    assert "aadpodidentity_mic_lease_held 0.0\n" in await second.page("/metrics")
    third = await cloud.mic(active=False)
    await cloud.until(lambda: "another candidate leads; waiting" in third.read_log())
    assert await third.stop() == 0
    assert "the lease is released" not in third.read_log(), "it had none"
    assert await first.stop() == 0
    await cloud.active(second)
    cloud.remove_pod("web")
    await cloud.until(lambda: not cloud.assigned())


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
    lease = cloud.api.store.get(LEASES, "aad-pod-identity-mic", "default")
    assert lease["spec"]["holderIdentity"] == ""


async def test_unusable_credentials_make_the_leader_not_ready(cloud: EmulatedCloud) -> None:
    cloud.change_config(aadClientSecret="wrong")
    cloud.node("n0")
    cloud.identity()
    mic = await cloud.mic()
    assert await ready(mic) == READY
    cloud.pod("web", "n0")
    await until(lambda: ready(mic), "MIC is not ready", holds=lambda checks: not checks["azure"])
    await cloud.until(lambda: "no token for Resource Manager" in mic.read_log())
    assert "azure.identity" not in mic.read_log(), "the library's lines are another one at each try"


PODS = CONNECTIONS_MAX + 20


async def test_hanging_writes_on_every_connection_do_not_cost_the_lease(
    cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied, released = 0, asyncio.Event()
    respond = cloud.api._handler.response_to

    async def hang(request: Any, target: Any) -> Any:
        nonlocal occupied
        hangs = request.method == "POST" and "azureassignedidentities" in request.path
        occupies = hangs or "watch" in request.query
        occupied += occupies
        try:
            if hangs:
                await released.wait()
            return await respond(request, target)
        finally:
            occupied -= occupies

    monkeypatch.setattr(cloud.api._handler, "response_to", hang)
    cloud.node("n0")
    cloud.identity()
    flags = (f"--leader-election-duration={LEASE_SECONDS}s", "--createDeleteBatch=1000", "--clientQps=1000")
    await cloud.mic(*flags, module="tests.support.mic.renewing")
    for number in range(PODS):
        cloud.pod(f"web{number}", "n0")
    await cloud.until(lambda: occupied >= CONNECTIONS_MAX, "writes and watches occupy all connections")
    before = cloud.api.store.get(LEASES, "aad-pod-identity-mic", "default")["spec"]
    renewals: list[dict[str, Any]] = []
    cloud.api.store.subscribe(LEASES, lambda change: renewals.append(change.item.document["spec"]))
    await cloud.until(lambda: len(renewals) == 2, "two renewals")
    assert {renewal["holderIdentity"] for renewal in renewals} == {before["holderIdentity"]}
    times = [lease["renewTime"] for lease in (before, *renewals)]
    assert times == sorted(set(times))
    released.set()
    await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * PODS)


async def test_the_clusters_own_identity_is_not_assigned_and_it_and_immutable_ones_stay_attached(
    cloud: EmulatedCloud,
) -> None:
    """Also one that becomes the cluster's own while MIC runs."""
    names = ("kubelet", "backup", "plain", "demo")
    cloud.change_config(userAssignedIdentityID="CLIENT-Kubelet")
    cloud.node("n0")
    for name in names:
        cloud.identity(name)
    for name in names:
        cloud.pod(name, "n0", label=name)
    mic = await cloud.mic("--immutable-user-msis=other,Client-BACKUP")
    statuses = {f"{name}-default-{name}": "Assigned" for name in names[1:]}
    await cloud.until(lambda: cloud.assigned() == {**statuses, "kubelet-default-kubelet": "Created"})
    assert cloud.on(vm_id("n0")) == {"backup", "plain", "demo"}
    cloud.change_config(userAssignedIdentityID=identity_id("demo").upper())
    await cloud.until(lambda: "using the new credentials" in mic.read_log())
    for name in names:
        cloud.remove_pod(name)
    await cloud.until(lambda: not cloud.assigned())
    assert cloud.on(vm_id("n0")) == {"backup", "demo"}
