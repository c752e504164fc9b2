"""The requests of azure-mgmt-compute, and how MIC reads their responses, with the sandbox's Resource Manager."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import pytest
from azure.core.credentials import AccessToken

from mic.azure import compute
from mic.azure.compute import Compute, poll_pause
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
from podidentity.azure.clouds import Cloud
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.machines import Machine, no_such_identity
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import TokenMint
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import until


class Token:
    """A credential that has its token already."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes.extend(scopes)
        return AccessToken(self.token, 2**40)

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@dataclass
class ArmUnderTest:
    arm: Arm
    directory: Directory
    compute: Compute
    observed: list[tuple[str, str]]

    def bodies(self) -> list[Any]:
        return [call.body for call in self.arm.writes()]


@pytest.fixture
async def arm_under_test() -> AsyncIterator[ArmUnderTest]:
    directory, mint, authority = Directory(), await asyncio.to_thread(TokenMint), await asyncio.to_thread(Authority)
    arm = Arm(directory, mint)
    await arm.start(ssl_context=await asyncio.to_thread(authority.server_context))
    principal = directory.add_principal()
    directory.grant(principal.object_id, "Contributor")
    for name in ("one", "two", "three"):
        directory.add_identity(identity_id(name), client_id=f"client-{name}")
    arm.add_vm(vm_id(), operation_seconds=0.0)
    arm.add_vmss(set_id(), operation_seconds=0.0)
    token = mint.mint(
        audience="https://management.azure.com",
        client_id=principal.client_id,
        object_id=principal.object_id,
        tenant_id=directory.tenant_id,
    )
    observed: list[tuple[str, str]] = []
    cloud = Cloud("sandbox", arm.url, arm.url, "https://management.azure.com/", frozenset())
    compute = Compute(
        Token(token),
        cloud,
        user_agent="test",
        ssl_context=authority.client_context(),
        observe=lambda kind, _seconds, outcome: observed.append((kind, outcome)),
    )
    try:
        yield ArmUnderTest(arm, directory, compute, observed)
    finally:
        await compute.aclose()
        await arm.stop()


def host(text: str) -> Host:
    parsed = parse_provider_id(text)
    assert parsed is not None
    return parsed


async def put(arm_under_test: ArmUnderTest, on: Host, *names: str) -> HostIdentities:
    planned = change(await arm_under_test.compute.get(on), [identity_id(name) for name in names], [])
    assert planned is not None
    return await arm_under_test.compute.update(on, planned)


@pytest.mark.parametrize("text", [vm_id(), set_id()], ids=["vm", "scale-set"])
async def test_adding_sends_only_the_identity_part_and_reads_the_result(
    arm_under_test: ArmUnderTest, text: str
) -> None:
    after = await put(arm_under_test, host(text), "one")
    assert arm_under_test.bodies() == [
        {"identity": {"type": "UserAssigned", "userAssignedIdentities": {identity_id("one"): {}}}}
    ]
    assert after.type == "UserAssigned"
    (attached,) = after.attached.values()
    assert attached.client_id == "client-one"
    assert after.provisioning_state == "Succeeded"
    kind = "vmss" if text == set_id() else "vm"
    polls = [("operation_get", "ok")] * 2  # the operation, and the host as it left it
    assert arm_under_test.observed == [(f"{kind}_get", "ok"), *polls, (f"{kind}_update", "ok")]


@pytest.mark.parametrize("group", ["K\N{LATIN SMALL LETTER O WITH DIAERESIS}k_(a).1", "..a", "-"])
async def test_every_permitted_group_name_reaches_resource_manager_unchanged(
    arm_under_test: ArmUnderTest, group: str
) -> None:
    on = host(vm_id().replace("/rg/", f"/{group}/"))
    arm_under_test.arm.add_vm(on.text, operation_seconds=0.0)
    after = await put(arm_under_test, on, "one")
    assert identity_id("one").lower() in after.attached
    requests = [call for call in arm_under_test.arm.calls if "/virtualMachines/" in call.path]
    assert {call.method for call in requests} == {"GET", "PATCH"}
    assert {call.path for call in requests} == {on.text}


async def test_removal_is_sent_as_null(arm_under_test: ArmUnderTest) -> None:
    on = host(vm_id())
    before = await put(arm_under_test, on, "one", "two")
    planned = change(before, [identity_id("three")], [identity_id("one")])
    assert planned is not None
    after = await arm_under_test.compute.update(on, planned)
    sent = arm_under_test.bodies()[-1]["identity"]["userAssignedIdentities"]
    assert sorted(sent.values(), key=str) == [None, {}] or sorted(sent.values(), key=str) == [{}, None]
    assert {key.rpartition("/")[2] for key in after.attached} == {"two", "three"}


async def test_a_type_change_of_a_stale_version_is_a_conflict(arm_under_test: ArmUnderTest) -> None:
    on = host(vm_id())
    stale = await arm_under_test.compute.get(on)
    await put(arm_under_test, on, "one")
    planned = change(stale, [identity_id("two")], [])
    assert planned is not None
    with pytest.raises(UpdateConflict):
        await arm_under_test.compute.update(on, planned)
    assert arm_under_test.arm.vm(vm_id()).identities == {identity_id("one").lower()}


def end_operation(machine: Machine) -> None:
    """End the operation that runs on *machine*."""
    assert machine.operation is not None
    machine.operation.ends = time.monotonic()


async def test_an_operation_is_polled_until_it_ends(
    arm_under_test: ArmUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = arm_under_test.arm.vm(vm_id())
    machine.operation_seconds = 600.0
    pauses: list[float] = []

    def pause(waited: float, running: int) -> float:
        pauses.append(poll_pause(waited, running))
        if len(pauses) == 3:
            end_operation(machine)
        return pauses[-1]

    monkeypatch.setattr(compute, "poll_pause", pause)
    after = await put(arm_under_test, host(vm_id()), "one")
    assert after.provisioning_state == "Succeeded"
    polls = [call for call in arm_under_test.arm.calls if "/operations/" in call.path]
    assert len(polls) == len(pauses) == 3
    assert polls[0].at - arm_under_test.arm.writes()[0].at >= 0.15


async def test_every_running_operation_counts_for_the_pause_between_polls(
    arm_under_test: ArmUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    machines = [arm_under_test.arm.vm(each) for each in (vm_id(), set_id())]

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
        await asyncio.gather(put(arm_under_test, host(vm_id()), "one"), put(arm_under_test, host(set_id()), "one"))
    assert max(seen) == 2
    for each in machines:
        each.operation_seconds = 0.5
    arm_under_test.arm.faults.add(ResponseFault(status=404, path="operations"))
    with pytest.raises(AzureError):
        await put(arm_under_test, host(vm_id()), "two")
    seen.clear()
    await put(arm_under_test, host(set_id()), "two")
    assert set(seen) == {1}


async def test_a_host_unknown_to_azure_is_reported_as_gone(arm_under_test: ArmUnderTest) -> None:
    on = host(vm_id("nowhere"))
    assert await arm_under_test.compute.get(on) == GONE
    planned = change(HostIdentities(), [identity_id("one")], [])
    assert planned is not None
    assert await arm_under_test.compute.update(on, planned) == GONE


@pytest.mark.parametrize(("path", "kind"), [("virtualMachines", Missing), ("operations", AzureError)])
async def test_a_404_that_does_not_concern_the_host_does_not_report_it_as_gone(
    arm_under_test: ArmUnderTest, path: str, kind: type[AzureError]
) -> None:
    on = host(vm_id())
    planned = change(await arm_under_test.compute.get(on), [identity_id("one")], [])
    assert planned is not None
    arm_under_test.arm.faults.add(ResponseFault(status=404, path=path))
    with pytest.raises(AzureError) as failed:
        await arm_under_test.compute.update(on, planned)
    assert type(failed.value) is kind


async def test_refused_identities_are_named(arm_under_test: ArmUnderTest) -> None:
    arm_under_test.arm.marked.unauthorized.add(identity_id("two").lower())
    with pytest.raises(BadIdentities) as refused:
        await put(arm_under_test, host(vm_id()), "one", "two")
    assert refused.value.ids == {identity_id("two").lower()}
    with pytest.raises(BadIdentities) as refused:
        await put(arm_under_test, host(vm_id()), "one", "unheard-of")
    assert refused.value.ids == {identity_id("unheard-of").lower()}


async def test_a_failed_operation_names_the_identity_too(arm_under_test: ArmUnderTest) -> None:
    machine = arm_under_test.arm.vm(vm_id())
    machine.failing_next = [no_such_identity(machine, identity_id("two"))]
    with pytest.raises(BadIdentities) as refused:
        await put(arm_under_test, host(vm_id()), "one", "two")
    assert refused.value.ids == {identity_id("two").lower()}
    assert machine.identities == set()
    assert arm_under_test.observed[-1] == ("vm_update", "refused")


async def test_a_caller_whose_token_is_rejected_reports_a_problem_until_it_is_accepted(
    arm_under_test: ArmUnderTest,
) -> None:
    credential: Any = arm_under_test.compute._credential
    good, credential.token = credential.token, "nonsense"
    with pytest.raises(SignInFailed):
        await arm_under_test.compute.get(host(vm_id()))
    assert "check the credentials" in str(arm_under_test.compute.sign_in_problem)
    credential.token = good
    arm_under_test.compute._clients.clear()  # the SDK keeps the token that it got
    arm_under_test.arm.faults.add(ResponseFault(status=403))
    with pytest.raises(Refused):
        await arm_under_test.compute.get(host(vm_id()))
    assert arm_under_test.compute.sign_in_problem is None, "that is about a role"


async def test_an_interrupted_call_is_no_success(arm_under_test: ArmUnderTest) -> None:
    arm_under_test.compute.sign_in_problem = "still"
    arm_under_test.arm.faults.add(ResponseFault(hold=True))
    calling = asyncio.create_task(arm_under_test.compute.get(host(vm_id())))
    await until(lambda: arm_under_test.arm.calls)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    arm_under_test.arm.faults.clear()
    assert arm_under_test.observed == [("vm_get", "unreachable")]
    assert arm_under_test.compute.sign_in_problem == "still", "no call has succeeded since"


async def test_throttling_is_reported_and_not_retried(arm_under_test: ArmUnderTest) -> None:
    arm_under_test.arm.faults.add(ResponseFault(status=429, headers={"Retry-After": "7"}))
    with pytest.raises(Throttled) as throttled:
        await arm_under_test.compute.get(host(vm_id()))
    assert throttled.value.retry_after == 7.0
    assert len(arm_under_test.arm.reads()) == 1
    assert arm_under_test.observed == [("vm_get", "throttled")]


async def test_a_caller_without_a_role_is_refused(arm_under_test: ArmUnderTest) -> None:
    arm_under_test.directory._roles.clear()
    with pytest.raises(Refused):
        await arm_under_test.compute.get(host(vm_id()))


async def test_an_unreachable_resource_manager_is_unreachable(arm_under_test: ArmUnderTest) -> None:
    await arm_under_test.arm.stop()
    with pytest.raises(Unreachable):
        await arm_under_test.compute.get(host(vm_id()))


async def test_the_token_is_for_resource_manager_of_the_cloud(arm_under_test: ArmUnderTest) -> None:
    await arm_under_test.compute.get(host(vm_id()))
    credential: Any = arm_under_test.compute._credential
    assert credential.scopes == ["https://management.azure.com/.default"]
