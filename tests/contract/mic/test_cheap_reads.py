"""Cost and proxy of MIC's reads of hosts, of which a large cluster causes several a second."""

import asyncio
import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from mic.azure.errors import HostNotFound, SignInFailed
from mic.azure.identities import HostIdentities, decode_identities, read_identities
from podidentity_sandbox.serving import ResponseFault
from tests.support.mic.arm_client import ArmUnderTest, host
from tests.support.objects import identity_id, vm_id
from tests.support.tunnel_proxy import tunnel_proxy

CALLS_PER_READ = 800
"""Calls of Python functions in MIC's process and the emulator's, which share it: 670 when this bound was set, 1,450
before."""


async def test_a_read_uses_no_thread(azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    await azure.compute.get(host(vm_id()))
    jobs: list[object] = []
    submit = ThreadPoolExecutor.submit

    def note(pool: ThreadPoolExecutor, job: Any, /, *given: Any, **named: Any) -> Any:
        jobs.append(job)
        return submit(pool, job, *given, **named)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", note)
    for _ in range(5):
        await azure.compute.get(host(vm_id()))
    assert jobs == []
    await asyncio.to_thread(int)
    assert len(jobs) == 1


async def test_calls_for_each_read(azure: ArmUnderTest) -> None:
    await azure.put(host(vm_id()), "one")
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        for _ in range(20):
            await azure.compute.get(host(vm_id()))
    finally:
        sys.setprofile(None)
    assert 100 < count / 20 < CALLS_PER_READ


async def test_a_read_shows_what_the_sdk_would_show(azure: ArmUnderTest) -> None:
    after = await azure.put(host(vm_id()), "one", "two")
    assert await azure.compute.get(host(vm_id())) == after
    assert set(after.attached) == {identity_id(name).lower() for name in ("one", "two")}


async def test_a_read_is_sent_as_by_the_sdk(azure: ArmUnderTest) -> None:
    await azure.compute.get(host(vm_id()))
    (call,) = azure.arm.reads()
    assert call.path == vm_id()
    reads: Any = azure.compute._reads
    assert reads._headers["User-Agent"].startswith("test azsdk-python-mgmt-compute/")


async def test_any_resource_is_read_by_its_path_and_query(azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[dict[str, str]] = []

    async def note(request: Any) -> None:
        queries.append(dict(request.query))

    monkeypatch.setattr(azure.arm.faults, "apply", note)
    query = {"api-version": "2024-07-01", "$filter": "assignedTo('a b&+')"}
    assert json.loads(await azure.compute.read(vm_id(), query))["id"] == vm_id()
    assert queries == [query]
    with pytest.raises(HostNotFound):
        await azure.compute.read(identity_id("one"), query)
    assert azure.observed == [("resource_get", "ok"), ("resource_get", "not_found")]


async def test_a_challenge_is_answered_with_a_token_for_its_claims(azure: ArmUnderTest) -> None:
    credential = azure.credential
    claims_of_requests: list[object] = []
    plain = credential.get_token

    async def get_token(*scopes: str, **about: Any) -> AccessToken:
        claims_of_requests.append(about.get("claims"))
        token: AccessToken = await plain(*scopes)
        return token

    credential.get_token = get_token
    claims = base64.b64encode(b'{"access_token":{}}').decode()
    demand = {"WWW-Authenticate": f'Bearer error="insufficient_claims", claims="{claims}"'}
    azure.arm.faults.add(ResponseFault(status=401, headers=demand))
    assert not (await azure.compute.get(host(vm_id()))).gone
    assert claims_of_requests == [None, '{"access_token":{}}']
    azure.arm.faults.add(ResponseFault(status=401))
    with pytest.raises(SignInFailed):
        await azure.compute.get(host(vm_id()))
    assert not (await azure.compute.get(host(vm_id()))).gone
    assert len(claims_of_requests) == 3, "a token that Resource Manager rejected is not used again"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
async def test_requests_use_the_proxy_of_the_environment(
    azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async with tunnel_proxy() as proxy:
        monkeypatch.setenv(variable, f"http://user:word@127.0.0.1:{proxy.port}")
        assert (await azure.put(host(vm_id()), "one")).attached
        await azure.compute.aclose()
    assert proxy.heads
    assert all(head.startswith("CONNECT 127.0.0.1:") for head in proxy.heads)
    assert all("Basic " + base64.b64encode(b"user:word").decode() in head for head in proxy.heads)


async def test_a_host_in_no_proxy_is_reached_directly(azure: ArmUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnel_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
        assert not (await azure.compute.get(host(vm_id()))).gone
    assert proxy.heads == []


@pytest.mark.parametrize("body", [b"{}", b"", b'{"identity":null,"properties":null,"etag":null,"other":[1]}'])
def test_absent_parts_are_empty(body: bytes) -> None:
    if body:
        assert read_identities(body) == HostIdentities()
    else:
        with pytest.raises(ValueError, match="not a VM or a scale set"):
            read_identities(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b"<html>", b'{"identity":{', b'{"identity":"\xff"}'])
def test_a_response_that_is_no_resource_does_not_mean_a_host_without_identities(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a VM or a scale set"):
        read_identities(body)


def test_the_header_is_used_where_the_body_has_no_etag() -> None:
    assert read_identities(b"{}", '"1"') == decode_identities({}, '"1"')
    assert read_identities(b'{"etag":"2"}', '"1"').etag == "2"
