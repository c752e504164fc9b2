"""An AzureIdentity that names the cluster's own identity, which the cloud config names: MIC assigns it to no pod.

It is attached to every VM, so that no right on Azure is needed to name it. A flag permits it.
"""

import asyncio
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
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod

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


NAMED = policy(KUBELETS)


def on_the_vm(*names: str) -> HostIdentities:
    """The VM with these identities on it."""
    clients = {"kubelet": KUBELETS, "demo": DEMOS}
    attached = {identity_id(name).lower(): Attached(identity_id(name), clients[name]) for name in names}
    return HostIdentities(type="UserAssigned", attached=attached, etag='"1"')


def bind(world: MicWorld, given: AzureIdentity) -> None:
    world.add(given)
    world.add(binding(identity=given.metadata.name))
    world.add(pod())


async def warnings(world: MicWorld) -> set[tuple[str, str]]:
    """The kinds of the objects that were warned about, and the reasons."""
    events = await world.warnings()
    assert all(REASON in each["message"] for each in events)
    return {(each["involvedObject"]["kind"], each["reason"]) for each in events}


@pytest.fixture(params=[BY_CLIENT_ID, BY_RESOURCE_ID], ids=["by-client-id", "by-resource-id"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[MicWorld]:
    """A MIC whose cloud config names the kubelet's identity, which is on the VM."""
    async with MicWorld(policy=POLICIES[request.param]) as made:
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
    world: MicWorld, given: AzureIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    bind(world, given)
    assert await world.reconcile() == PassResult()
    (name,) = world.statuses()
    assert world.statuses() == {name: "Created"}
    assert REASON in world.message(name)
    assert "--assign-cluster-identity" in world.message(name)
    assert await warnings(world) == ALL_KINDS
    (line,) = [record for record in caplog.records if record.message == FAULTY]
    assert line.__dict__["identity"] == "/".join(given.key)
    assert world.changes == []


async def test_another_identity_is_assigned(world: MicWorld) -> None:
    bind(world, identity("demo", client_id=DEMOS))
    await world.reconcile()
    assert world.statuses() == {"web-default-demo": "Assigned"}
    assert await warnings(world) == set()


async def test_it_costs_no_read_of_the_host(world: MicWorld) -> None:
    bind(world, identity("demo", client_id=DEMOS))
    await world.reconcile()
    await asyncio.sleep(DOUBT_SECONDS + 1)
    calls = list(world.hosts.calls)
    world.add(identity("kubelet", client_id=DEMOS))
    world.add(binding("kubelet", identity="kubelet"))
    assert await world.reconcile() == PassResult()
    assert world.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
    assert world.hosts.calls == calls


@pytest.mark.parametrize("permitting", PERMITTING, ids=["by-client-id", "by-resource-id"])
async def test_a_flag_permits_it(permitting: Policy) -> None:
    async with MicWorld(policy=permitting) as world:
        world.hosts.state = on_the_vm("kubelet")
        bind(world, identity("kubelet", client_id=KUBELETS))
        await world.reconcile()
        assert world.statuses() == {"web-default-kubelet": "Assigned"}
        assert await warnings(world) == set()
        await world.settle_without(pod())
        assert world.attached(VM) == {"kubelet"}, "it is never detached"


async def test_an_assignment_of_an_earlier_version_is_withdrawn_at_the_next_read() -> None:
    async with MicWorld() as world:
        world.hosts.state = on_the_vm("kubelet")
        bind(world, identity("kubelet", client_id=KUBELETS))
        await world.reconcile()
        assert world.statuses() == {"web-default-kubelet": "Assigned"}
        world.host_reconciler.protect(KUBELETS)
        assert await world.look() == PassResult()
        assert world.statuses() == {"web-default-kubelet": "Created"}
        assert await warnings(world) == ALL_KINDS
        assert world.changes == []


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
async def test_it_is_not_attached_to_a_vm_that_lacks_it(client_id: str) -> None:
    """Another host has shown the resource id of the identity, of which the cloud config has the client id."""
    async with MicWorld(policy=POLICIES[BY_CLIENT_ID]) as world:
        world.hosts.state = on_the_vm("kubelet", "demo")
        bind(world, identity("demo", client_id=DEMOS))
        await world.reconcile()
        world.hosts.state = on_the_vm("demo")
        world.host_reconciler.look_again(VM)
        world.add(identity("kubelet", client_id=client_id))
        world.add(binding("kubelet", identity="kubelet"))
        assert await world.reconcile() == PassResult(), "no further read has a reason"
        assert world.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
        assert world.changes == []


async def test_a_vm_gets_no_identity_for_objects_that_name_only_the_clusters_client_id() -> None:
    async with MicWorld(policy=NAMED) as world:
        await world.settle_with(identity("demo", client_id=KUBELETS), binding(identity="demo"), pod())
        assert world.statuses() == {"web-default-demo": "Created"}
        assert world.changes == []


@pytest.mark.parametrize("client_id", ["client-demo", " "])
async def test_an_author_cannot_refuse_another_identity_by_the_clusters_client_id(client_id: str) -> None:
    async with MicWorld(policy=NAMED) as world:
        evil = identity("demo", namespace="evil", client_id=KUBELETS)
        world.add(identity("demo", client_id=client_id), binding(identity="demo"), pod())
        world.add(evil, binding("evil", namespace="evil", identity="demo", selector="evil"))
        await world.settle_with(pod("evil", namespace="evil", label="evil"))
        assert world.statuses() == {"web-default-demo": "Assigned", "evil-evil-demo": "Created"}


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
def test_the_plan_states_it(client_id: str) -> None:
    snapshot = Snapshot(
        pods=(pod(),),
        nodes=(node("n0"),),
        identities=(identity("kubelet", client_id=client_id),),
        bindings=(binding(identity="kubelet"),),
    )
    reads = AzureReads(answers={VM: on_the_vm("kubelet")}, own_identity=KUBELETS)
    (host,) = preview(snapshot, DryRun(snapshot, NAMED), reads, {}).hosts
    (change,) = host.objects
    assert change.becomes == "Created"
    assert REASON in change.detail
    (waiting,) = host.waiting
    assert REASON in waiting.why
    (host,) = preview(snapshot, DryRun(snapshot, Policy()), reads, {}).hosts
    assert [each.becomes for each in host.objects] == ["Assigned"]
