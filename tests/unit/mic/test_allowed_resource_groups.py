"""Nodes whose VM or scale set is in a resource group that --allowed-resource-groups does not name.

The author of a Node chooses its providerID. MIC neither reads nor changes such a host; the objects of its pods stay
Created and state why.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from mic.azure.identities import HostIdentities
from mic.decisions import host_change
from mic.decisions.policy import Policy
from mic.preview.dry_run import DryRun, Snapshot
from mic.preview.outcome import AzureReads, preview
from mic.reconciliation.host_reconciler import OMISSION
from mic.reconciliation.work_queue import PassResult
from mic.startup.policy import policy_of
from mic.startup.settings import parse
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.flags import UsageError
from podidentity.kube.object_reports import LINES
from podidentity.resources import IdentityType
from tests.support.mic.world import VM, MicWorld
from tests.support.objects import binding, identity, node, pod, set_id, vm_id

LOGGED = "MIC does not change the host of a node"
REASON = "--allowed-resource-groups does not name the resource group of"
ENVIRON = {"MIC_POD_NAMESPACE": "default"}


def policy(groups: str) -> Policy:
    return policy_of(parse([f"--allowed-resource-groups={groups}"], ENVIRON), "")


OTHER, OTHERS = policy("other"), policy("other,another/rg")


@pytest.fixture
async def outside() -> AsyncIterator[MicWorld]:
    """The node's VM is in group `rg` of subscription `sub`, and MIC may change those of another group."""
    async with MicWorld(policy=OTHERS) as made:
        yield made


@pytest.mark.parametrize(
    ("groups", "allowed"),
    [
        *((group, True) for group in ("", "rg", "RG", "sub/rg", "SUB/Rg", "other, sub/rg")),
        *((group, False) for group in ("r", "rgg", "other/rg", "sub", "sub/r", "rg.x")),
    ],
)
@pytest.mark.parametrize("host_id", [vm_id(), set_id()], ids=["vm", "scale-set"])
def test_only_a_host_of_a_named_group_is_allowed_in_any_case(groups: str, allowed: bool, host_id: str) -> None:
    host = parse_provider_id(host_id)
    assert host is not None
    assert policy(groups).allows(host) is allowed


@pytest.mark.parametrize("groups", [",", " ", "a/b/c", "/rg", "sub/", "..", "r*", "rg,a b"])
def test_a_value_that_names_no_group_is_an_error_and_does_not_mean_all(groups: str) -> None:
    with pytest.raises(UsageError, match=r"--allowed-resource-groups"):
        parse([f"--allowed-resource-groups={groups}"], ENVIRON)


async def test_azure_is_not_called_and_objects_events_and_the_log_state_why(
    outside: MicWorld, caplog: pytest.LogCaptureFixture
) -> None:
    outside.bind()
    assert await outside.reconcile() == PassResult()
    outside.host_reconciler.request_read(VM)
    assert await outside.reconcile() == PassResult()
    assert outside.hosts.calls == []
    assert outside.statuses() == {"demo-default-demo": "Created"}
    assert REASON in outside.message("demo-default-demo")
    assert "add sub/rg, or delete the node" in outside.message("demo-default-demo")
    assert await outside.warned() == [
        "AzureAssignedIdentity demo-default-demo",
        "AzureIdentityBinding demo",
        "Pod demo",
    ]
    (line,) = [record for record in caplog.records if record.message == LOGGED]
    assert REASON in line.__dict__["reason"]
    await asyncio.sleep(600.0)
    assert outside.host_reconciler.oldest_pending_seconds() == 0.0
    await outside.settle_without(pod("demo", label="demo"))
    assert outside.statuses() == {}
    assert outside.hosts.calls == []


async def test_hosts_are_logged_up_to_an_hourly_limit(outside: MicWorld, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [record.message for record in caplog.records if "host" in record.message]

    outside.add(identity("demo"))
    outside.add(binding(identity="demo"))
    for number in range(int(LINES.burst) + 20):
        outside.add(node(f"x{number}", vm_id(f"x{number}")))
        outside.add(pod(f"web{number}", node=f"x{number}"))
        await outside.host_reconciler.reconcile(vm_id(f"x{number}").lower())
    assert lines()[-2:] == [LOGGED, OMISSION]
    assert len(lines()) == LINES.burst + 1
    await asyncio.sleep(1 / LINES.per_second)
    outside.bind()
    await outside.reconcile()
    assert lines()[-1] == LOGGED
    assert len(lines()) == LINES.burst + 2


@pytest.mark.parametrize("restarted", [False, True])
async def test_existing_assignments_there_stay_and_new_ones_are_not_made(world: MicWorld, restarted: bool) -> None:
    """As after an upgrade with a list that lacks a group of the cluster; also by a MIC that knows the host."""
    await world.assign("old")
    assert world.statuses() == {"old-default-old": "Assigned"}
    attached = list(world.changes)
    assert len(attached) == 1
    world.policy = OTHER
    if restarted:
        world.restart()
    world.bind("new")
    for _ in range(2):
        await world.reconcile()
    assert world.statuses() == {"old-default-old": "Assigned", "new-default-new": "Created"}
    world.unbind("old")
    world.unbind("new")
    for _ in range(2):
        await world.reconcile()
    assert world.statuses() == {}
    assert world.changes == attached, "the identity stays on the VM"


async def test_no_change_is_planned_there_even_if_the_host_is_known(world: MicWorld) -> None:
    await world.assign()
    attaches = partial(host_change.azure_change, world.view.host_state(VM), HostIdentities())
    assert attaches(Policy()) is not None
    assert attaches(OTHER) is None
    world.unbind()
    await world.host_reconciler.revoke(VM)
    detaches = partial(host_change.azure_change, world.view.host_state(VM), world.hosts.state)
    assert detaches(Policy()) is not None
    assert detaches(OTHER) is None


async def test_identities_that_need_no_host_are_assigned_there(outside: MicWorld) -> None:
    outside.add(identity("demo", type_=IdentityType.SECRET))
    outside.add(binding(identity="demo"))
    outside.add(pod())
    await outside.host_reconciler.assign(VM)
    assert outside.statuses() == {"web-default-demo": "Assigned"}


def test_the_plan_names_the_node_and_does_not_read_its_host() -> None:
    snapshot = Snapshot(
        pods=(pod(),), nodes=(node("n0"),), identities=(identity("demo"),), bindings=(binding(identity="demo"),)
    )
    dry_run = DryRun(snapshot, OTHER)
    assert dry_run.hosts() == []
    report = preview(snapshot, dry_run, AzureReads(responses={}), {})
    (left_out,) = report.left_out
    assert (left_out.kind, left_out.name, left_out.pods) == ("Node", "n0", 1)
    assert REASON in left_out.why
    (host,) = report.hosts
    assert [(object_.becomes, REASON in object_.detail) for object_ in host.objects] == [("Created", True)]
    assert [REASON in waiting.why for waiting in host.waiting] == [True]
    allowed = DryRun(snapshot, policy("rg"))
    assert [host.key for host in allowed.hosts()] == [VM]
    assert preview(snapshot, allowed, AzureReads(responses={}), {}).left_out == []
