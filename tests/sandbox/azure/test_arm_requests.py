"""Requests to ARM: authorization, operations and polling, etags, throttling, the list and the log."""

from podidentity_sandbox.machines import USER, ArmRefusalError
from podidentity_sandbox.serving import ResponseFault
from tests.sandbox.azure.conftest import COMPUTE, GROUP, MINT, SET, VM, Azure, identity_id

ADD = {"identity": {"type": USER, "userAssignedIdentities": {identity_id("1"): {}}}}


async def test_a_caller_without_a_valid_token_is_rejected(azure: Azure) -> None:
    vault = azure.token(azure.controller, "https://vault.azure.net")
    expired = MINT.mint(audience="https://management.azure.com", client_id="a", object_id="b", tenant_id="c", seconds=0)
    for token in ("", "nonsense", azure.token(azure.controller)[:-8] + "AAAAAAAA", vault, expired):
        status, _, response = await azure.call_arm("GET", VM, token=token)
        assert (status, "WWW-Authenticate" in response.headers) == (401, True)
    for audience in ("https://management.azure.com", "https://management.core.windows.net/"):
        assert (await azure.call_arm("GET", VM, token=azure.token(azure.controller, audience)))[0] == 200


async def test_roles_determine_what_a_caller_may_do(azure: Azure) -> None:
    mine = azure.token(azure.one)
    assert (await azure.call_arm("GET", VM, token=mine))[0] == 403
    azure.directory.grant(azure.one.object_id, "Reader")
    assert (await azure.call_arm("GET", VM, token=mine))[0] == 200
    status, document, _ = await azure.call_arm("PATCH", VM, ADD, token=mine)
    assert (status, azure.arm.calls[-1].code) == (403, "AuthorizationFailed")
    assert "error" in document


async def test_unknown_resources_and_missing_versions_have_different_errors(azure: Azure) -> None:
    assert (await azure.call_arm("GET", VM, query=""))[0] == 400
    assert (await azure.call_arm("GET", VM + "x"))[0] == 404
    assert (await azure.call_arm("GET", "/subscriptions/x/resourceGroups/y/providers/Other/things/z"))[0] == 404
    assert (await azure.call_arm("DELETE", VM))[0] == 405
    assert (await azure.call_arm("GET", VM.upper()))[0] == 200


async def test_an_operation_runs_for_its_time_and_imds_sees_only_its_outcome(azure: Azure) -> None:
    azure.vm.operation_seconds = 5
    status, document, response = await azure.call_arm("PATCH", VM, ADD)
    poll = response.headers["Azure-AsyncOperation"].removeprefix(azure.arm.url)
    assert (status, document["properties"]["provisioningState"]) == (200, "Updating")
    assert (await azure.call_arm("GET", poll, query=""))[1]["status"] == "InProgress"
    assert (await azure.call_arm("PATCH", VM, ADD))[0] == 409
    assert (await azure.ask_imds())[0] == 400
    azure.clock.now += 5
    assert (await azure.call_arm("GET", poll, query=""))[1]["status"] == "Succeeded"
    assert (await azure.call_arm("GET", VM))[1]["properties"]["provisioningState"] == "Succeeded"
    assert (await azure.ask_imds())[0] == 200


async def test_a_vm_has_the_disks_and_the_network_that_clients_read(azure: Azure) -> None:
    properties = (await azure.call_arm("GET", VM))[1]["properties"]
    assert properties["storageProfile"] == {"osDisk": {"osType": "Linux"}}
    assert properties["networkProfile"] == {"networkInterfaces": []}


async def test_a_failed_operation_restores_the_machine(azure: Azure) -> None:
    azure.vm.failing_next.append(ArmRefusalError(500, "InternalExecutionError", "An internal error occurred."))
    _, _, response = await azure.call_arm("PATCH", VM, ADD)
    azure.clock.now += 1
    poll = response.headers["Azure-AsyncOperation"].removeprefix(azure.arm.url)
    document = (await azure.call_arm("GET", poll, query=""))[1]
    assert (document["status"], document["error"]) == (
        "Failed",
        {"code": "InternalExecutionError", "message": "An internal error occurred."},
    )
    assert azure.vm.identities == frozenset()


async def test_a_stale_etag_is_a_failed_precondition(azure: Azure) -> None:
    _, document, response = await azure.call_arm("GET", VM)
    etag = str(document["etag"])
    assert response.headers["ETag"] == etag
    azure.vm.attach(azure.two)
    assert (await azure.call_arm("PATCH", VM, ADD, headers={"If-Match": etag}))[0] == 412
    assert (await azure.call_arm("PATCH", VM, ADD, headers={"If-Match": azure.vm.etag}))[0] == 200


async def test_a_cloud_without_etags_returns_none(azure: Azure) -> None:
    azure.arm.etags = False
    _, document, response = await azure.call_arm("GET", VM)
    assert "etag" not in document
    assert "ETag" not in response.headers


async def test_throttling_contains_retry_after_for_writes_only(azure: Azure) -> None:
    azure.arm.faults.add(ResponseFault(status=429, headers={"Retry-After": "30"}, method="PATCH", path=VM))
    status, _, response = await azure.call_arm("PATCH", VM, ADD)
    assert (status, response.headers["Retry-After"]) == (429, "30")
    assert (await azure.call_arm("GET", VM))[0] == 200
    assert (await azure.call_arm("PATCH", VM, ADD))[0] == 200


async def test_a_list_holds_the_machines_of_its_kind_and_group(azure: Azure) -> None:
    azure.arm.add_vm(VM.replace("MC_demo", "other"))
    for path, names in ((f"{COMPUTE}/virtualMachines", [VM]), (f"{COMPUTE}/virtualMachineScaleSets", [SET])):
        _, document, _ = await azure.call_arm("GET", path)
        assert [entry["id"] for entry in document["value"]] == names
    everywhere = COMPUTE.replace(f"/resourceGroups/{GROUP}", "")
    _, document, _ = await azure.call_arm("GET", f"{everywhere}/virtualMachines")
    assert len(document["value"]) == 2


async def test_the_log_distinguishes_reads_and_writes(azure: Azure) -> None:
    await azure.call_arm("GET", VM)
    await azure.call_arm("PATCH", VM, ADD)
    await azure.call_arm("GET", SET)
    assert [(call.body, call.status) for call in azure.arm.writes(VM)] == [(ADD, 200)]
    assert len(azure.arm.reads(VM)) == 1
    assert azure.arm.calls[0].caller == azure.controller.object_id
