"""AzureIdentities that MIC assigns to no pod, with an Event and a log line that state why.

One has a client id that differs from the one that Azure reports for its resource id. It causes no further calls or
writes while it does not change. Another names the cluster's own identity, which the cloud config names: it is attached
to every VM, so that no right on Azure is needed to name it. A flag permits it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from mic.azure.errors import Unreachable
from mic.azure.identities import Attached, HostIdentities
from mic.decisions.client_ids import SHOWN_MAX, mismatch
from mic.decisions.documents import MESSAGE_MAX
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.reconciliation.events import FAULTY
from mic.reconciliation.host_reconciler import DOUBT_SECONDS
from mic.reconciliation.work_queue import PassResult
from mic.startup.policy import policy_of
from mic.startup.settings import parse
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, Pod
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, identity_id, node, pod
from tests.support.virtual_time import now

OWN, KUBELETS = "0a000000-0000-0000-0000-000000000001", "0b000000-0000-0000-0000-000000000002"
DISHONEST = identity("own", client_id=KUBELETS)
HONEST = identity("own", client_id=f" {OWN.upper()} ")


@pytest.fixture
async def world() -> AsyncIterator[MicWorld]:
    """A VM with the identity `own` on it, and the kubelet's."""
    async with MicWorld() as made:
        attached = {
            identity_id(name).lower(): Attached(identity_id(name), client_id)
            for name, client_id in (("own", OWN), ("kubelet", KUBELETS))
        }
        made.hosts.state = HostIdentities(type="UserAssigned", attached=attached, etag='"1"')
        yield made


def bind(world: MicWorld, given: AzureIdentity, *pods: Pod) -> None:
    world.add(given)
    world.add(binding(identity=given.metadata.name))
    for pod_ in pods or (pod(),):
        world.add(pod_)


async def event_messages(world: MicWorld) -> set[tuple[str, str]]:
    """The kinds of the objects that were warned about, and the reasons."""
    warnings = await world.warnings()
    for warning in warnings:
        assert OWN in warning["message"]
        is_of_binding = warning["message"].startswith("Binding default/demo-binding not applied on node ")
        assert is_of_binding is (warning["reason"] == "binding apply error")
        assert KUBELETS in warning["message"]
    return {(warning["involvedObject"]["kind"], warning["reason"]) for warning in warnings}


async def test_a_wrong_client_id_stays_created_and_the_object_and_events_name_both_ids(
    world: MicWorld, caplog: pytest.LogCaptureFixture
) -> None:
    bind(world, DISHONEST)
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Created"}
    message = world.message("web-default-own")
    assert OWN in message
    assert KUBELETS in message
    assert "default/own" in message
    assert await event_messages(world) == {
        ("AzureIdentity", "invalid identity"),
        ("AzureIdentityBinding", "binding apply error"),
        ("Pod", "binding apply error"),
        ("AzureAssignedIdentity", "binding apply error"),
    }
    (line,) = [record for record in caplog.records if record.message == FAULTY]
    assert line.__dict__["identity"] == "default/own"


@pytest.mark.parametrize("given", [HONEST, identity("own", client_id=" ")], ids=["in-any-case", "none-named"])
async def test_the_other_identity_is_assigned(world: MicWorld, given: AzureIdentity) -> None:
    bind(world, given)
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Assigned"}
    assert await event_messages(world) == set()


async def test_a_client_id_that_azure_reports_later_withdraws_it_at_the_next_read(world: MicWorld) -> None:
    """As after an upgrade: an earlier version without the comparison assigned the object."""
    state = world.hosts.state
    world.hosts.reports_clients = False
    world.hosts.state = HostIdentities()
    bind(world, DISHONEST)
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Assigned"}
    world.hosts.state = state
    assert await world.look() == PassResult()
    assert world.statuses() == {"web-default-own": "Created"}
    assert KUBELETS in world.message("web-default-own")
    assert ("AzureIdentity", "invalid identity") in await event_messages(world)


async def test_a_wrong_client_id_costs_no_further_call_or_write(world: MicWorld) -> None:
    bind(world, DISHONEST, pod(), pod("second"))
    assert await world.reconcile() == PassResult(), (
        "nothing but an event, or the ordinary read, makes another round worth while"
    )
    calls = list(world.hosts.calls)
    await world.recorder.flushed()
    world.api.requests.clear()
    for _ in range(10):
        await asyncio.sleep(DOUBT_SECONDS + 1)
        assert await world.reconcile() == PassResult()
    assert world.hosts.calls == calls
    for _ in range(3):
        await world.look()
    assert world.hosts.calls == [*calls, "get", "get", "get"]
    await world.recorder.flushed()
    assert world.api.written("") == []
    assert world.host_reconciler.oldest_pending_seconds() == 0.0, (
        "no alert for what only the identity's owner can correct"
    )


async def test_the_corrected_object_is_assigned_immediately_and_its_message_is_removed(world: MicWorld) -> None:
    bind(world, DISHONEST)
    await world.reconcile()
    world.add(HONEST)
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Assigned"}
    assert world.message("web-default-own") == ""


async def test_an_identity_recreated_on_azure_is_read_before_its_object_is_blamed(world: MicWorld) -> None:
    bind(world, HONEST)
    await world.reconcile()
    key = identity_id("own").lower()
    recreated_client_id = "0c000000-0000-0000-0000-000000000003"
    world.hosts.state = replace(
        world.hosts.state,
        attached={**world.hosts.state.attached, key: Attached(identity_id("own"), recreated_client_id)},
    )
    await asyncio.sleep(DOUBT_SECONDS + 1)
    world.add(identity("own", client_id=recreated_client_id))
    await world.reconcile()
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Assigned"}


async def test_an_endlessly_changing_object_causes_at_most_two_azure_reads_per_minute(world: MicWorld) -> None:
    bind(world, DISHONEST)
    began = now()
    await world.reconcile()
    calls = len(world.hosts.calls)
    for number in range(200):
        await asyncio.sleep(1.0)
        after = identity("own", client_id=f"{KUBELETS[:-3]}{number:03}")
        world.add(after)
        await world.reconcile()
    assert len(world.hosts.calls) - calls <= (now() - began) / DOUBT_SECONDS


async def test_a_client_id_changed_while_azure_is_unreachable_does_not_stay_assigned(world: MicWorld) -> None:
    world.host(VM, "own", client_id=OWN)
    await world.settle_with(pod(), HONEST, binding(identity="own"))
    assert world.statuses() == {"web-default-own": "Assigned"}
    world.add(DISHONEST)
    world.host_reconciler.request_read(VM)
    world.fail("get", Unreachable("no answer"))
    await world.reconcile()
    assert world.statuses() == {"web-default-own": "Created"}


async def test_a_correct_object_with_the_same_resource_id_is_not_affected(world: MicWorld) -> None:
    world.host(VM, "own", client_id=OWN)
    honest = identity("honest", resource_id=identity_id("own"), client_id=OWN)
    world.add(honest, binding("b1", identity="honest", selector="honest"), pod("good", label="honest"))
    await world.settle_with(
        DISHONEST, binding("b2", identity="own", selector="dishonest"), pod("bad", label="dishonest")
    )
    assert world.statuses() == {"good-default-honest": "Assigned", "bad-default-own": "Created"}


async def test_the_plan_lists_it_among_the_assigned_and_among_the_waiting(world: MicWorld) -> None:
    world.host(VM, "own", client_id=OWN)
    await world.settle_with(pod(), HONEST, binding(identity="own"))
    (written,) = world.objects.values()
    document = msgspec.to_builtins(written)
    document["spec"]["azureIdentityRef"]["spec"]["clientID"] = KUBELETS
    snapshot = Snapshot(
        pods=(pod(), pod("waits")),
        nodes=(node(),),
        identities=(DISHONEST,),
        bindings=(binding(identity="own"),),
        assigned=(msgspec.convert(document, AzureAssignedIdentity),),
    )
    plan = preview(snapshot, DryRun(snapshot, world.policy), AzureReads(responses=dict(world.hosts.table)), {})
    (host,) = plan.hosts
    changes = {object_.pod: (object_.was, object_.becomes, object_.detail) for object_ in host.objects}
    assert changes["default/web"][:2] == ("Assigned", "Created")
    assert changes["default/waits"][:2] == ("", "Created")
    assert all(OWN in detail and KUBELETS in detail for _, _, detail in changes.values())
    assert {waiting.pod for waiting in host.waiting} == {"default/web", "default/waits"}
    assert all(OWN in waiting.why and KUBELETS in waiting.why for waiting in host.waiting)


def test_a_client_id_of_a_megabyte_results_in_a_short_one_line_message() -> None:
    long = mismatch(identity("own", client_id="x\n" * 500_000), Attached("id", OWN))
    assert len(long) < MESSAGE_MAX
    assert "\n" not in long
    assert "x" * (SHOWN_MAX + 1) not in long


DEMOS = "0d000000-0000-0000-0000-000000000003"
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


async def warnings(protected: MicWorld) -> set[tuple[str, str]]:
    """The kinds of the objects that were warned about, and the reasons."""
    events = await protected.warnings()
    assert all(REASON in event["message"] for event in events)
    return {(event["involvedObject"]["kind"], event["reason"]) for event in events}


@pytest.fixture(params=[BY_CLIENT_ID, BY_RESOURCE_ID], ids=["by-client-id", "by-resource-id"])
async def protected(request: pytest.FixtureRequest) -> AsyncIterator[MicWorld]:
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
    protected: MicWorld, given: AzureIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    bind(protected, given)
    assert await protected.reconcile() == PassResult()
    (name,) = protected.statuses()
    assert protected.statuses() == {name: "Created"}
    assert REASON in protected.message(name)
    assert "--assign-cluster-identity" in protected.message(name)
    assert await warnings(protected) == ALL_KINDS
    (line,) = [record for record in caplog.records if record.message == FAULTY]
    assert line.__dict__["identity"] == "/".join(given.key)
    assert protected.changes == []


async def test_it_costs_no_read_of_the_host(protected: MicWorld) -> None:
    bind(protected, identity("demo", client_id=DEMOS))
    await protected.reconcile()
    await asyncio.sleep(DOUBT_SECONDS + 1)
    calls = list(protected.hosts.calls)
    protected.add(identity("kubelet", client_id=DEMOS))
    protected.add(binding("kubelet", identity="kubelet"))
    assert await protected.reconcile() == PassResult()
    assert protected.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
    assert protected.hosts.calls == calls


@pytest.mark.parametrize("permitting", PERMITTING, ids=["by-client-id", "by-resource-id"])
async def test_a_flag_permits_it(permitting: Policy) -> None:
    async with MicWorld(policy=permitting) as protected:
        protected.hosts.state = on_the_vm("kubelet")
        bind(protected, identity("kubelet", client_id=KUBELETS))
        await protected.reconcile()
        assert protected.statuses() == {"web-default-kubelet": "Assigned"}
        assert await warnings(protected) == set()
        await protected.settle_without(pod())
        assert protected.attached(VM) == {"kubelet"}, "it is never detached"


async def test_an_assignment_of_an_earlier_version_is_withdrawn_at_the_next_read() -> None:
    async with MicWorld() as protected:
        protected.hosts.state = on_the_vm("kubelet")
        bind(protected, identity("kubelet", client_id=KUBELETS))
        await protected.reconcile()
        assert protected.statuses() == {"web-default-kubelet": "Assigned"}
        protected.host_reconciler.protect(KUBELETS)
        assert await protected.look() == PassResult()
        assert protected.statuses() == {"web-default-kubelet": "Created"}
        assert await warnings(protected) == ALL_KINDS
        assert protected.changes == []


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
async def test_it_is_not_attached_to_a_vm_that_lacks_it(client_id: str) -> None:
    """Another host has shown the resource id of the identity, of which the cloud config has the client id."""
    async with MicWorld(policy=POLICIES[BY_CLIENT_ID]) as protected:
        protected.hosts.state = on_the_vm("kubelet", "demo")
        bind(protected, identity("demo", client_id=DEMOS))
        await protected.reconcile()
        protected.hosts.state = on_the_vm("demo")
        protected.host_reconciler.request_read(VM)
        protected.add(identity("kubelet", client_id=client_id))
        protected.add(binding("kubelet", identity="kubelet"))
        assert await protected.reconcile() == PassResult(), "no further read has a reason"
        assert protected.statuses() == {"web-default-demo": "Assigned", "web-default-kubelet": "Created"}
        assert protected.changes == []


async def test_a_vm_gets_no_identity_for_objects_that_name_only_the_clusters_client_id() -> None:
    async with MicWorld(policy=NAMED) as protected:
        await protected.settle_with(identity("demo", client_id=KUBELETS), binding(identity="demo"), pod())
        assert protected.statuses() == {"web-default-demo": "Created"}
        assert protected.changes == []


@pytest.mark.parametrize("client_id", ["client-demo", " "])
async def test_an_author_cannot_refuse_another_identity_by_the_clusters_client_id(client_id: str) -> None:
    async with MicWorld(policy=NAMED) as protected:
        evil = identity("demo", namespace="evil", client_id=KUBELETS)
        protected.add(identity("demo", client_id=client_id), binding(identity="demo"), pod())
        protected.add(evil, binding("evil", namespace="evil", identity="demo", selector="evil"))
        await protected.settle_with(pod("evil", namespace="evil", label="evil"))
        assert protected.statuses() == {"web-default-demo": "Assigned", "evil-evil-demo": "Created"}


@pytest.mark.parametrize("client_id", [KUBELETS, " "])
def test_the_plan_states_it(client_id: str) -> None:
    snapshot = Snapshot(
        pods=(pod(),),
        nodes=(node("n0"),),
        identities=(identity("kubelet", client_id=client_id),),
        bindings=(binding(identity="kubelet"),),
    )
    reads = AzureReads(responses={VM: on_the_vm("kubelet")}, own_identity=KUBELETS)
    (host,) = preview(snapshot, DryRun(snapshot, NAMED), reads, {}).hosts
    (change,) = host.objects
    assert change.becomes == "Created"
    assert REASON in change.detail
    (waiting,) = host.waiting
    assert REASON in waiting.why
    (host,) = preview(snapshot, DryRun(snapshot, Policy()), reads, {}).hosts
    assert [object_.becomes for object_ in host.objects] == ["Assigned"]
