"""An AzureIdentity that names the cluster's own identity, which the cloud config names: MIC assigns it to no pod.

It is attached to every VM, so that no right on Azure is needed to name it. A flag permits it.
"""

import logging
from collections.abc import AsyncIterator

import pytest

from mic.azure.identities import Attached, HostIdentities
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.reconciliation.events import FAULTY
from mic.reconciliation.host_reconciler import DOUBT_SECONDS
from mic.reconciliation.work_queue import PassResult
from mic.startup.policy import policy_of
from mic.startup.settings import parse
from podidentity.resources import AzureIdentity
from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, vm_id
from tests.mic.reconcile_bench import VM, ReconcileBench, reconcile_bench

KUBELETS, DEMOS = "0b000000-0000-0000-0000-000000000002", "0d000000-0000-0000-0000-000000000003"
BY_CLIENT_ID, BY_RESOURCE_ID = KUBELETS.upper(), identity_id("kubelet").upper()
REASON = "names the cluster's own identity"
ALL_KINDS = {
    ("AzureIdentity", "invalid identity"),
    ("AzureIdentityBinding", "binding apply error"),
    ("Pod", "binding apply error"),
    ("AzureAssignedIdentity", "binding apply error"),
}


def policy(own: str, *flags: str) -> Policy:
    return policy_of(parse(flags, {"MIC_POD_NAMESPACE": "default"}), own)


POLICIES = {own: policy(own) for own in (BY_CLIENT_ID, BY_RESOURCE_ID)}
PERMITTING = [policy(own, "--assign-cluster-identity") for own in (BY_CLIENT_ID, BY_RESOURCE_ID)]


def on_the_vm(*names: str) -> HostIdentities:
    """The VM with these identities on it."""
    clients = {"kubelet": KUBELETS, "demo": DEMOS}
    attached = {identity_id(name).lower(): Attached(identity_id(name), clients[name]) for name in names}
    return HostIdentities(type="UserAssigned", attached=attached, etag='"1"')


def bind(stage: ReconcileBench, given: AzureIdentity) -> None:
    stage.view.identities.upserted(None, given)
    stage.view.bindings.upserted(None, binding(identity=given.metadata.name))
    stage.view.pods.upserted(None, pod())


async def warnings(stage: ReconcileBench) -> set[tuple[str, str]]:
    """The kinds of the objects that were warned about, and the reasons."""
    await stage.recorder.flushed()
    events = [each for each in stage.api.store.list("events") if each["type"] == "Warning"]
    assert all(REASON in each["message"] for each in events)
    return {(each["involvedObject"]["kind"], each["reason"]) for each in events}


@pytest.fixture(params=[BY_CLIENT_ID, BY_RESOURCE_ID], ids=["by-client-id", "by-resource-id"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[ReconcileBench]:
    """A MIC whose cloud config names the kubelet's identity, which is on the VM."""
    async with reconcile_bench(policy=POLICIES[request.param]) as made:
        made.hosts.state = on_the_vm("kubelet", "demo")
        yield made


@pytest.mark.parametrize(
    "given",
    [
        identity("kubelet", client_id=KUBELETS),
        identity("kubelet", client_id=" "),
        identity("kubelet", client_id=DEMOS),
        identity("demo", client_id=f" {KUBELETS.upper()} "),
    ],
    ids=["by-both-ids", "by-resource-id", "with-another-client-id", "by-client-id"],
)
async def test_it_is_assigned_to_no_pod_and_the_objects_events_and_the_log_state_why(
    stage: ReconcileBench, given: AzureIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bind(stage, given)
        assert await stage.reconcile() == PassResult()
    (name,) = stage.statuses()
    assert stage.statuses() == {name: "Created"}
    assert REASON in stage.message(name)
    assert "--assign-cluster-identity" in stage.message(name)
    assert await warnings(stage) == ALL_KINDS
    (line,) = [record for record in caplog.records if record.message == FAULTY]
    assert line.__dict__["identity"] == "/".join(given.key)
    assert stage.hosts.changes == []


async def test_another_identity_is_assigned(stage: ReconcileBench) -> None:
    bind(stage, identity("demo", client_id=DEMOS))
    await stage.reconcile()
    assert stage.statuses() == {"web-default-demo": "Assigned"}
    assert await warnings(stage) == set()


async def test_it_costs_no_read_of_the_host(stage: ReconcileBench) -> None:
    bind(stage, identity("demo", client_id=DEMOS))
    await stage.reconcile()
    stage.time.now += DOUBT_SECONDS + 1
    calls = list(stage.hosts.calls)
    stage.view.identities.upserted(None, identity("kubelet", client_id=DEMOS))
    stage.view.bindings.upserted(None, binding("kubelet", identity="kubelet"))
    assert await stage.reconcile() == PassResult()
    assert stage.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
    assert stage.hosts.calls == calls


@pytest.mark.parametrize("permitting", PERMITTING, ids=["by-client-id", "by-resource-id"])
async def test_a_flag_permits_it(permitting: Policy) -> None:
    async with reconcile_bench(policy=permitting) as stage:
        stage.hosts.state = on_the_vm("kubelet")
        bind(stage, identity("kubelet", client_id=KUBELETS))
        await stage.reconcile()
        assert stage.statuses() == {"web-default-kubelet": "Assigned"}
        assert await warnings(stage) == set()


async def test_an_assignment_of_an_earlier_version_is_withdrawn_at_the_next_read() -> None:
    async with reconcile_bench() as stage:
        stage.hosts.state = on_the_vm("kubelet")
        bind(stage, identity("kubelet", client_id=KUBELETS))
        await stage.reconcile()
        assert stage.statuses() == {"web-default-kubelet": "Assigned"}
        stage.host_reconciler.protect(KUBELETS)
        stage.host_reconciler.look_again(VM)
        assert await stage.reconcile() == PassResult()
        assert stage.statuses() == {"web-default-kubelet": "Created"}
        assert await warnings(stage) == ALL_KINDS
        assert stage.hosts.changes == []


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
async def test_it_is_not_attached_to_a_vm_that_lacks_it(client_id: str) -> None:
    """Another host has shown the resource id of the identity, of which the cloud config has the client id."""
    async with reconcile_bench(policy=POLICIES[BY_CLIENT_ID]) as stage:
        stage.hosts.state = on_the_vm("kubelet", "demo")
        bind(stage, identity("demo", client_id=DEMOS))
        await stage.reconcile()
        stage.hosts.state = on_the_vm("demo")
        stage.host_reconciler.look_again(VM)
        stage.view.identities.upserted(None, identity("kubelet", client_id=client_id))
        stage.view.bindings.upserted(None, binding("kubelet", identity="kubelet"))
        assert await stage.reconcile() == PassResult(), "no further read has a reason"
        assert stage.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
        assert stage.hosts.changes == []


def test_a_vm_gets_no_identity_for_objects_that_name_only_the_clusters_client_id() -> None:
    cluster = Cluster(policy=policy(KUBELETS))
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity("demo", client_id=KUBELETS), binding(identity="demo"), pod())
    for _ in range(3):
        cluster.reconcile(vm_id("n0"))
    assert cluster.statuses() == {"web-default-demo": "Created"}
    assert cluster.changes == []


@pytest.mark.parametrize("client_id", ["client-demo", " "])
def test_an_author_cannot_refuse_another_identity_by_the_clusters_client_id(client_id: str) -> None:
    cluster = Cluster(policy=policy(KUBELETS))
    cluster.host(vm_id("n0"))
    evil = identity("demo", namespace="evil", client_id=KUBELETS)
    cluster.add(node("n0"), identity("demo", client_id=client_id), binding(identity="demo"), pod())
    cluster.add(evil, binding("evil", namespace="evil", identity="demo", selector="evil"))
    cluster.add(pod("evil", namespace="evil", label="evil"))
    for _ in range(3):
        cluster.reconcile(vm_id("n0"))
    assert cluster.statuses() == {"web-default-demo": "Assigned", "evil-evil-demo": "Created"}


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
def test_the_plan_states_it(client_id: str) -> None:
    snapshot = Snapshot(
        pods=(pod(),),
        nodes=(node("n0"),),
        identities=(identity("kubelet", client_id=client_id),),
        bindings=(binding(identity="kubelet"),),
    )
    reads = AzureReads(answers={VM: on_the_vm("kubelet")}, own_identity=KUBELETS)
    (host,) = preview(snapshot, DryRun(snapshot, policy(KUBELETS)), reads, {}).hosts
    (change,) = host.objects
    assert change.becomes == "Created"
    assert REASON in change.detail
    (waiting,) = host.waiting
    assert REASON in waiting.why
    (host,) = preview(snapshot, DryRun(snapshot, Policy()), reads, {}).hosts
    assert [each.becomes for each in host.objects] == ["Assigned"]
