"""IMDS of the sandbox: rules for tokens as Azure documents them, instance data, limits, lag behind ARM, and faults."""

import asyncio
import ipaddress
import itertools
import math
from typing import Any

import aiohttp
import pytest

from podidentity_sandbox.directory import Directory
from podidentity_sandbox.imds import TOKEN_PATH, HostIdentities, Imds, ImdsVm
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import TOKEN_SECONDS, TokenMint
from tests.contract.sandbox.azure.conftest import MINT, Azure, Clock

ARM = "resource=https%3A%2F%2Fmanagement.azure.com%2F"
ASK = f"api-version=2018-02-01&{ARM}"


async def test_the_only_identity_on_the_vm_gets_a_token_that_names_it(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    status, body, response = await azure.ask_imds()
    assert (status, body["client_id"], body["token_type"]) == (200, azure.one.client_id, "Bearer")
    claims = MINT.verify(body["access_token"])
    assert claims["appid"] == azure.one.client_id
    assert claims["oid"] == azure.one.object_id
    assert claims["xms_mirid"] == azure.one.resource_id
    assert claims["aud"] == "https://management.azure.com/"
    assert claims["tid"] == azure.directory.tenant_id
    assert str(claims["exp"]) == body["expires_on"]
    assert all(isinstance(value, str) for value in body.values())
    assert response.headers["Server"].startswith("IMDS/")


async def test_each_selector_finds_its_identity_in_any_case_and_is_echoed(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    for parameter, value in (
        ("client_id", azure.two.client_id.upper()),
        ("object_id", azure.two.object_id),
        ("msi_res_id", azure.two.resource_id.lower()),
        ("mi_res_id", azure.two.resource_id),
    ):
        status, body, _ = await azure.ask_imds(f"{ASK}&{parameter}={value}")
        assert (status, MINT.verify(body["access_token"])["appid"]) == (200, azure.two.client_id), parameter
        assert body[parameter] == value


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (f"{ASK}&client_id=00000000-0000-0000-0000-000000000000", "Identity not found"),
        ("api-version=2018-02-01", "'resource' is missing"),
        (f"{ASK}&client_id=a&object_id=b", "mutually exclusive"),
        (f"{ASK}&resource=https://vault.azure.net", "more than once"),
    ],
    ids=["unknown-client", "no-resource", "two-selectors", "doubled-parameter"],
)
async def test_a_wrong_query_is_an_invalid_request(azure: Azure, query: str, text: str) -> None:
    azure.vm.attach(azure.one)
    status, body, _ = await azure.ask_imds(query)
    assert (status, body["error"]) == (400, "invalid_request")
    assert text in body["error_description"]


async def test_the_guest_proxy_agent_refuses_without_a_body(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.set_condition("guest-proxy")
    async with aiohttp.ClientSession() as session, session.get(f"{azure.imds.url}/metadata/instance") as response:
        assert (response.status, await response.read()) == (403, b"")
    azure.imds.set_condition("")
    assert (await azure.ask_imds(ASK))[0] == 200


async def test_an_unknown_api_version_lists_the_newest(azure: Azure) -> None:
    for query in (ARM, f"api-version=2001-01-01&{ARM}"):
        status, body, _ = await azure.ask_imds(query)
        assert (status, len(body["newest-versions"])) == (400, 3)
        assert "error_description" not in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": {}}, 400),
        ({"headers": {"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}}, 400),
        ({"headers": {"metadata": "True"}}, 200),
        ({"method": "POST"}, 405),
        ({"path": "/metadata/identity/nothing"}, 404),
    ],
    ids=["no header", "forwarded", "any case", "post", "another path"],
)
async def test_header_method_and_path_are_checked(azure: Azure, request_: dict[str, Any], status: int) -> None:
    azure.vm.attach(azure.one)
    code, body, response = await azure.ask_imds(**request_)
    assert code == status
    assert response.headers.get("Allow") == ("GET" if status == 405 else None)
    if request_ == {"headers": {}}:
        assert body["error_description"] == "Required metadata header not specified"


async def test_a_vm_without_identities_returns_identity_not_found(azure: Azure) -> None:
    status, body, _ = await azure.ask_imds()
    assert (status, body["error_description"]) == (400, "Identity not found")


async def test_with_several_identities_a_selector_is_required(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    status, body, _ = await azure.ask_imds()
    assert status == 400
    assert body["error_description"].startswith("Multiple user assigned identities exist")


async def test_the_system_assigned_identity_is_the_default(azure: Azure) -> None:
    system = azure.directory.add_identity("/vm-itself")
    azure.vm.system_assigned, azure.vm.types = system, frozenset({"SystemAssigned"})
    azure.vm.attach(azure.one)
    azure.vm.attach(azure.two)
    status, body, _ = await azure.ask_imds()
    assert (status, body["client_id"]) == (200, system.client_id)


async def test_a_cached_token_is_returned_unless_the_cache_is_bypassed(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    _, first, _ = await azure.ask_imds()
    _, again, _ = await azure.ask_imds()
    _, refreshed, _ = await azure.ask_imds(f"{ASK}&bypass_cache=true")
    assert first["access_token"] == again["access_token"] != refreshed["access_token"]


async def test_an_address_that_is_no_vm_is_an_unknown_source(azure: Azure) -> None:
    azure.imds.hosts.clear()
    status, body, _ = await azure.ask_imds()
    assert (status, body["error"]) == (401, "unknown_source")


async def test_more_than_twenty_requests_in_a_second_are_throttled(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    statuses = [(await azure.ask_imds())[0] for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    azure.clock.now += 1.0
    assert (await azure.ask_imds())[0] == 200


async def test_more_than_five_concurrent_requests_are_throttled(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.faults.add(ResponseFault(hold=True, times=math.inf))
    requests = [asyncio.create_task(azure.ask_imds()) for _ in range(7)]
    first = [(await response)[0] for response in itertools.islice(asyncio.as_completed(requests), 2)]
    azure.imds.faults.clear()  # the other five wait until now
    responses = await asyncio.gather(*requests)
    assert first == [429] * 2
    assert sorted(status for status, _, _ in responses) == [200] * 5 + [429] * 2
    assert (await azure.ask_imds())[0] == 200


async def test_an_identity_is_visible_only_after_the_lag(azure: Azure) -> None:
    azure.arm.lag_seconds = 5.0
    azure.vm.attach(azure.one)
    assert (await azure.ask_imds())[0] == 400
    azure.clock.now += 5.0
    assert (await azure.ask_imds())[0] == 200


async def test_a_fault_occurs_the_requested_number_of_times_and_calls_are_counted(azure: Azure) -> None:
    azure.vm.attach(azure.one)
    azure.imds.faults.add(ResponseFault(status=503, document={"error": "x"}, headers={"Retry-After": "7"}, times=2))
    status, _, response = await azure.ask_imds()
    assert (status, response.headers["Retry-After"]) == (503, "7")
    await azure.ask_imds()
    assert (await azure.ask_imds())[0] == 200
    assert [call.status for call in azure.imds.token_calls] == [503, 503, 200]


async def test_a_new_token_is_returned_after_the_former_one_expired_in_a_suspension() -> None:
    """The wall clock jumps, and the monotonic clock does not."""
    clock = Clock(1_800_000_000.0)
    mint = TokenMint(clock=clock)
    imds, identity = Imds(mint, clock=clock), Directory().add_identity("/one")
    await imds.start_on_loopback(lambda: HostIdentities((identity,)))

    async def token() -> str:
        url = f"{imds.url}{TOKEN_PATH}?{ASK}"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Metadata": "true"}) as response:
            return str((await response.json())["access_token"])

    try:
        first = await token()
        assert await token() == first
        clock.now += TOKEN_SECONDS + 1
        second = await token()
        assert second != first
        assert mint.verify(second)["exp"] > clock.now
    finally:
        await imds.stop()


INSTANCE = "/metadata/instance"


async def ask(azure: Azure, path: str, query: str = "&format=text") -> tuple[int, str, str]:
    """Return status, content type and body of the instance data at *path*."""
    azure.imds.hosts[:] = [
        ImdsVm(
            "vm",
            (ipaddress.IPv4Network("127.0.0.0/8"),),
            HostIdentities,
            compute={"name": "node-0", "location": "westeurope"},
        )
    ]
    url = f"{azure.imds.url}{path}?api-version=2021-02-01{query}"
    async with azure.session.get(url, headers={"Metadata": "true"}) as response:
        return response.status, response.content_type, await response.text()


@pytest.mark.parametrize(("leaf", "value"), [("name", "node-0"), ("location", "westeurope")])
async def test_a_value_is_served_as_text(azure: Azure, leaf: str, value: str) -> None:
    assert await ask(azure, f"{INSTANCE}/compute/{leaf}") == (200, "text/plain", value)


@pytest.mark.parametrize("query", ["", "&format=json"])
async def test_a_value_is_not_served_as_json(azure: Azure, query: str) -> None:
    status, _, body = await ask(azure, f"{INSTANCE}/compute/name", query)
    assert (status, "format=text" in body) == (400, True)


async def test_an_object_is_served_as_json_or_as_the_list_of_its_members(azure: Azure) -> None:
    assert await ask(azure, INSTANCE) == (200, "text/plain", "compute/\nnetwork/")
    assert await ask(azure, f"{INSTANCE}/compute/") == (200, "text/plain", "name\nlocation")
    status, kind, body = await ask(azure, f"{INSTANCE}/compute", "&format=json")
    assert (status, kind) == (200, "application/json")
    assert body == '{"name":"node-0","location":"westeurope"}'


@pytest.mark.parametrize(
    "path",
    ["/compute/absent", "/compute/name/first", "/network/interface/0", "/network/interface/x", "-data", "/network/x"],
)
async def test_an_unknown_part_is_not_found(azure: Azure, path: str) -> None:
    assert (await ask(azure, f"{INSTANCE}{path}"))[0] == 404
