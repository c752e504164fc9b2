"""The requests of azure-mgmt-compute, and how MIC reads their responses, with the sandbox's Resource Manager."""

import asyncio
import time

import pytest

from mic.azure import compute
from mic.azure.compute import poll_pause
from mic.azure.errors import (
    AzureError,
    BadIdentities,
    Missing,
    Refused,
    SignInFailed,
    Throttled,
    Unreachable,
    UpdateConflict,
)
from mic.azure.identities import GONE, HostIdentities, change
from podidentity_sandbox.machines import Machine, no_such_identity
from podidentity_sandbox.serving import ResponseFault
from tests.mic.arm_client import AUDIENCE, ArmUnderTest, host
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import until


@pytest.mark.parametrize("text", [vm_id(), set_id()], ids=["vm", "scale-set"])
async def test_adding_sends_only_the_identity_part_and_reads_the_result(azure: ArmUnderTest, text: str) -> None:
    after = await azure.put(host(text), "one")
    assert azure.bodies() == [
        {"identity": {"type": "UserAssigned", "userAssignedIdentities": {identity_id("one"): {}}}}
    ]
    assert after.type == "UserAssigned"
    (attached,) = after.attached.values()
    assert attached.client_id == "client-one"
    assert after.provisioning_state == "Succeeded"
    kind = "vmss" if text == set_id() else "vm"
    polls = [("operation_get", "ok")] * 2  # the operation, and the host as it left it
    assert azure.observed == [(f"{kind}_get", "ok"), *polls, (f"{kind}_update", "ok")]
    assert set(azure.credential.scopes) == {f"{AUDIENCE}/.default"}


@pytest.mark.parametrize("group", ["K\N{LATIN SMALL LETTER O WITH DIAERESIS}k_(a).1", "..a", "-"])
async def test_every_permitted_group_name_reaches_resource_manager_unchanged(azure: ArmUnderTest, group: str) -> None:
    on = host(vm_id().replace("/rg/", f"/{group}/"))
    azure.arm.add_vm(on.text, operation_seconds=0.0)
    after = await azure.put(on, "one")
    assert identity_id("one").lower() in after.attached
    requests = [call for call in azure.arm.calls if "/virtualMachines/" in call.path]
    assert {call.method for call in requests} == {"GET", "PATCH"}
    assert {call.path for call in requests} == {on.text}


async def test_removal_is_sent_as_null(azure: ArmUnderTest) -> None:
    on = host(vm_id())
    before = await azure.put(on, "one", "two")
    planned = change(before, [identity_id("three")], [identity_id("one")])
    assert planned is not None
    after = await azure.compute.update(on, planned)
    sent = azure.bodies()[-1]["identity"]["userAssignedIdentities"]
    assert sorted(sent.values(), key=str) == [None, {}] or sorted(sent.values(), key=str) == [{}, None]
    assert {key.rpartition("/")[2] for key in after.attached} == {"two", "three"}


async def test_a_type_change_of_a_stale_version_is_a_conflict(azure: ArmUnderTest) -> None:
    on = host(vm_id())
    stale = await azure.compute.get(on)
    await azure.put(on, "one")
    planned = change(stale, [identity_id("two")], [])
    assert planned is not None
    with pytest.raises(UpdateConflict):
        await azure.compute.update(on, planned)
    assert azure.arm.vm(vm_id()).identities == {identity_id("one").lower()}


def end_operation(machine: Machine) -> None:
    """End the operation that runs on *machine*."""
    assert machine.operation is not None
    machine.operation.ends = time.monotonic()


async def test_an_operation_is_polled_until_it_ends(azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = azure.arm.vm(vm_id())
    machine.operation_seconds = 600.0
    pauses: list[float] = []

    def pause(waited: float, running: int) -> float:
        pauses.append(poll_pause(waited, running))
        if len(pauses) == 3:
            end_operation(machine)
        return pauses[-1]

    monkeypatch.setattr(compute, "poll_pause", pause)
    after = await azure.put(host(vm_id()), "one")
    assert after.provisioning_state == "Succeeded"
    polls = [call for call in azure.arm.calls if "/operations/" in call.path]
    assert len(polls) == len(pauses) == 3
    assert polls[0].at - azure.arm.writes()[0].at >= 0.15


async def test_every_running_operation_counts_for_the_pause_between_polls(
    azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    machines = [azure.arm.vm(each) for each in (vm_id(), set_id())]

    def pause(_waited: float, running: int) -> float:
        seen.append(running)
        if running == len(machines):
            for each in machines:
                end_operation(each)
        return 0.05

    monkeypatch.setattr(compute, "poll_pause", pause)
    for each in machines:
        each.operation_seconds = 600.0
    async with asyncio.timeout(30):
        await asyncio.gather(azure.put(host(vm_id()), "one"), azure.put(host(set_id()), "one"))
    assert max(seen) == 2
    for each in machines:
        each.operation_seconds = 0.5
    azure.arm.faults.add(ResponseFault(status=404, path="operations"))
    with pytest.raises(AzureError):
        await azure.put(host(vm_id()), "two")
    seen.clear()
    await azure.put(host(set_id()), "two")
    assert set(seen) == {1}


async def test_a_host_unknown_to_azure_is_reported_as_gone(azure: ArmUnderTest) -> None:
    on = host(vm_id("nowhere"))
    assert await azure.compute.get(on) == GONE
    planned = change(HostIdentities(), [identity_id("one")], [])
    assert planned is not None
    assert await azure.compute.update(on, planned) == GONE


@pytest.mark.parametrize(("path", "kind"), [("virtualMachines", Missing), ("operations", AzureError)])
async def test_a_404_that_does_not_concern_the_host_does_not_report_it_as_gone(
    azure: ArmUnderTest, path: str, kind: type[AzureError]
) -> None:
    on = host(vm_id())
    planned = change(await azure.compute.get(on), [identity_id("one")], [])
    assert planned is not None
    azure.arm.faults.add(ResponseFault(status=404, path=path))
    with pytest.raises(AzureError) as failed:
        await azure.compute.update(on, planned)
    assert type(failed.value) is kind


async def test_refused_identities_are_named(azure: ArmUnderTest) -> None:
    azure.arm.marked.unauthorized.add(identity_id("two").lower())
    with pytest.raises(BadIdentities) as refused:
        await azure.put(host(vm_id()), "one", "two")
    assert refused.value.ids == {identity_id("two").lower()}
    with pytest.raises(BadIdentities) as refused:
        await azure.put(host(vm_id()), "one", "unheard-of")
    assert refused.value.ids == {identity_id("unheard-of").lower()}
    machine = azure.arm.vm(vm_id())
    machine.failing_next = [no_such_identity(machine, identity_id("three"))]
    with pytest.raises(BadIdentities) as refused:
        await azure.put(host(vm_id()), "one", "three")
    assert refused.value.ids == {identity_id("three").lower()}
    assert machine.identities == set()
    assert azure.observed[-1] == ("vm_update", "refused")


async def test_a_caller_whose_token_is_rejected_reports_a_problem_until_it_is_accepted(
    azure: ArmUnderTest,
) -> None:
    credential = azure.credential
    good, credential.token = credential.token, "nonsense"
    with pytest.raises(SignInFailed):
        await azure.compute.get(host(vm_id()))
    assert "check the credentials" in str(azure.compute.sign_in_problem)
    credential.token = good
    azure.compute._clients.clear()  # the SDK keeps the token that it got
    azure.arm.faults.add(ResponseFault(status=403))
    with pytest.raises(Refused):
        await azure.compute.get(host(vm_id()))
    assert azure.compute.sign_in_problem is None, "that is about a role"


async def test_an_interrupted_call_is_no_success(azure: ArmUnderTest) -> None:
    azure.compute.sign_in_problem = "still"
    azure.arm.faults.add(ResponseFault(hold=True))
    calling = asyncio.create_task(azure.compute.get(host(vm_id())))
    await until(lambda: azure.arm.calls)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    azure.arm.faults.clear()
    assert azure.observed == [("vm_get", "unreachable")]
    assert azure.compute.sign_in_problem == "still", "no call has succeeded since"


async def test_throttling_is_reported_and_not_retried(azure: ArmUnderTest) -> None:
    azure.arm.faults.add(ResponseFault(status=429, headers={"Retry-After": "7"}))
    with pytest.raises(Throttled) as throttled:
        await azure.compute.get(host(vm_id()))
    assert throttled.value.retry_after == 7.0
    assert len(azure.arm.reads()) == 1
    assert azure.observed == [("vm_get", "throttled")]


async def test_an_unreachable_resource_manager_is_unreachable(azure: ArmUnderTest) -> None:
    await azure.arm.stop()
    with pytest.raises(Unreachable):
        await azure.compute.get(host(vm_id()))
