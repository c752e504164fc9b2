"""Changes of a host's identities, the requests of azure-mgmt-compute for them, and the polls of Azure's operations."""

import asyncio
import json
import time

import pytest

from mic.azure import compute
from mic.azure.compute import POLL_LAST_SECONDS, poll_pause
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
from mic.azure.identities import (
    BOTH,
    GONE,
    MOST_IN_ONE_UPDATE,
    SYSTEM,
    Attached,
    HostIdentities,
    change,
    decode_identities,
)
from podidentity_sandbox.machines import Machine, no_such_identity
from podidentity_sandbox.serving import ResponseFault
from tests.support.mic.arm_client import AUDIENCE, ArmUnderTest, host
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import LIMIT_SECONDS, until


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
    machines = [azure.arm.vm(host_id) for host_id in (vm_id(), set_id())]

    def pause(_waited: float, running: int) -> float:
        seen.append(running)
        if running == len(machines):
            for machine in machines:
                end_operation(machine)
        return 0.05

    monkeypatch.setattr(compute, "poll_pause", pause)
    for machine in machines:
        machine.operation_seconds = 600.0
    async with asyncio.timeout(LIMIT_SECONDS):
        await asyncio.gather(azure.put(host(vm_id()), "one"), azure.put(host(set_id()), "one"))
    assert max(seen) == 2
    for machine in machines:
        machine.operation_seconds = 0.5
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


def having(*names: str, type_: str = "UserAssigned", etag: str = '"7"') -> HostIdentities:
    ids = [identity_id(name) for name in names]
    return HostIdentities(
        type=type_, attached={resource_id.lower(): Attached(resource_id) for resource_id in ids}, etag=etag
    )


def attaching(type_: str, **ids: object) -> dict[str, object]:
    return {"type": type_, "userAssignedIdentities": {identity_id(name): value for name, value in ids.items()}}


@pytest.mark.parametrize(
    ("before", "adds", "removes", "sent", "etag"),
    [
        (having("old", "stays"), ["new", "stays"], ["old"], attaching("UserAssigned", new={}, old=None), ""),
        (having("last"), [], ["last"], {"type": "None"}, '"7"'),
        (having("last", type_=BOTH), [], ["last"], {"type": SYSTEM}, '"7"'),
        (having("last", type_="systemassigned,userassigned"), [], ["last"], {"type": SYSTEM}, '"7"'),
        (having(type_="None"), ["first"], [], attaching("UserAssigned", first={}), '"7"'),
        (having(type_=SYSTEM), ["first"], [], attaching(BOTH, first={}), '"7"'),
        (having(type_=""), ["first"], [], attaching("UserAssigned", first={}), '"7"'),
        (having("here", type_="SystemAssigned,UserAssigned"), ["new"], [], attaching(BOTH, new={}), ""),
    ],
    ids=[
        "only the difference in Azure's spelling",
        "the last",
        "the last next to the system's",
        "the last with another spelling of the type",
        "the first",
        "the first next to the system's",
        "the first without a type",
        "no change of the type",
    ],
)
def test_a_change_sends_the_difference_and_a_new_type_only_for_the_version_that_was_read(
    before: HostIdentities, adds: list[str], removes: list[str], sent: dict[str, object], etag: str
) -> None:
    planned = change(before, [identity_id(name) for name in adds], [identity_id(name).upper() for name in removes])
    assert planned is not None
    assert json.loads(planned.body()) == {"identity": sent}
    assert planned.etag == etag


def test_an_identity_that_is_already_attached_or_detached_requires_no_change() -> None:
    assert change(having("here"), [identity_id("HERE")], [identity_id("elsewhere")]) is None


def test_one_update_contains_at_most_the_number_that_azure_accepts() -> None:
    many = [identity_id(f"id{number}") for number in range(MOST_IN_ONE_UPDATE + 10)]
    planned = change(having("old"), many, [identity_id("old")])
    assert planned is not None
    assert (len(planned.adds), len(planned.removes)) == (MOST_IN_ONE_UPDATE, 0)


def test_a_host_without_an_identity_part_has_no_identities() -> None:
    assert decode_identities({"properties": {"provisioningState": "Updating"}}).updating
    assert decode_identities({}) == HostIdentities()


REFILLED_PER_SECOND = 25
"""Reads that Azure Resource Manager refills for a subscription and a client."""


def growing(waited: float) -> float:
    return min(max(0.2, 0.08 * waited), POLL_LAST_SECONDS)


def polls(seconds: float, running: int) -> tuple[int, float]:
    """Return the number of polls of an operation that takes *seconds*, and the last pause."""
    waited, count, pause = 0.0, 0, 0.0
    while waited < seconds:
        pause = poll_pause(waited, running)
        waited += pause
        count += 1
    return count, pause


@pytest.mark.parametrize(
    ("seconds", "running", "late", "most"),
    [
        (0.2, 1, 0.2, 1),
        (5.0, 1, 0.4, 22),
        (5.0, 3, 0.4, 22),
        (40.0, 1, 0.5, 92),
        (40.0, 2, 0.5, 92),
        (40.0, 6, 0.5, 92),
        (40.0, 10, 0.84, 67),
        (40.0, 400, 3.2, 49),
        (1800.0, 1, POLL_LAST_SECONDS, 558),
    ],
)
def test_the_end_of_an_operation_is_noticed_soon(seconds: float, running: int, late: float, most: int) -> None:
    count, pause = polls(seconds, running)
    assert pause <= late
    assert count <= most


@pytest.mark.parametrize("running", [1, 2, 3, 6, 8, 16, 29, 59])
def test_pauses_are_shortened_only_to_a_fraction_of_azures_limit(running: int) -> None:
    for waited in range(1800):
        pause = poll_pause(waited, running)
        if pause < growing(waited):
            assert running / pause <= REFILLED_PER_SECOND / 2


@pytest.mark.parametrize("running", [60, 100, 400])
def test_many_operations_are_polled_as_rarely_as_a_growing_pause_allows(running: int) -> None:
    for waited in range(1800):
        assert poll_pause(waited, running) == growing(waited)


def test_pauses_do_not_shrink_while_an_operation_runs() -> None:
    pauses = [poll_pause(waited / 10, 1) for waited in range(20_000)]
    assert pauses == sorted(pauses)
