"""Refusals that the fast lane sends: which requests get them, how they are counted, and when they end.

Excluded: the equality of both lanes' responses (tests/contract/native/test_lanes_agree.py).
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.parameters import NO_RESOURCE, token_request
from nmi.server.policy import ServerPolicy
from nmi.server.ready_refusals import FRESH_SECONDS, RequestKind, kinds_of
from nmi.server.target import CanonicalPath, ProxiedPaths
from tests.support.nmi.server.fakes import TARGET, TOKEN_PATH, grant, pod_entry, request_bytes
from tests.support.nmi.server.running import Client, Running, serving

NO_HEADER = request_bytes(headers=())
REFUSED = {
    "no header": (NO_HEADER, 400, Reason.METADATA_HEADER_MISSING),
    "no resource": (request_bytes(f"{TOKEN_PATH}?api-version=2018-02-01"), 400, Reason.BAD_PARAMETERS),
    "no query": (request_bytes(TOKEN_PATH), 400, Reason.BAD_PARAMETERS),
    "another method": (request_bytes(method="POST"), 405, Reason.METHOD_NOT_ALLOWED),
    "an identity path": (request_bytes("/metadata/identity/info"), 404, Reason.UNKNOWN_PATH),
    "a metadata path": (request_bytes("/metadata/versions"), 404, Reason.UNKNOWN_PATH),
    "another path": (request_bytes("/latest/meta-data/"), 404, Reason.UNKNOWN_PATH),
    "instance metadata": (request_bytes("/metadata/instance", method="PUT"), 405, Reason.METHOD_NOT_ALLOWED),
}
BLOCKED = request_bytes("/metadata/instance?api-version=2021-02-01")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}")


@pytest.mark.parametrize("name", REFUSED)
async def test_both_lanes_count_a_refusal_in_the_same_metrics(running: Running, client: Client, name: str) -> None:
    data, status, reason = REFUSED[name]
    replies = [await client.ask(data) for _ in range(5)]
    assert running.fast == 4
    assert {reply.status for reply in replies} == {status}
    ids = {reply.headers["x-ms-request-id"] for reply in replies}
    assert {reply.json.pop("correlationId", "") for reply in replies} == (ids if name != "no header" else {""})
    texts = {reply.body.replace(reply.headers["x-ms-request-id"].encode(), b"") for reply in replies}
    assert len(texts) == len({tuple(reply.headers) for reply in replies}) == 1
    assert len(ids) == 5
    assert all(UUID.fullmatch(request_id) for request_id in ids)
    (series,) = running.measures.histogram.all_series()
    assert series.labels[1:] == (str(status), "shop", "")
    assert sum(series.counts()) == 5
    assert running.measures.refusals(reason) == 5
    assert running.measures.state()["refusals"] == {reason.value: 5}


async def test_repeats_in_the_fast_lane_are_summed_up_in_the_log(
    running: Running, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nmi.server.decisions")
    for _ in range(4):
        await client.ask(REFUSED["another method"][0])
        await client.ask(NO_HEADER)
    running.server._decisions.summarize()
    # asyncio logs slow callbacks of a busy machine, too.
    lines = [record for record in caplog.records if record.name == "nmi.server.decisions"]
    assert [record.getMessage().partition(";")[0] for record in lines[:2]] == ["request refused"] * 2
    summed = {record.__dict__["reason"]: record.__dict__["count"] for record in lines[2:]}
    assert summed == {"method_not_allowed": 3, "metadata_header_missing": 3}


async def test_a_new_generation_of_the_pod_record_ends_ready_refusals(running: Running, client: Client) -> None:
    await client.statuses(NO_HEADER)
    running.entry.bump()
    await client.ask(NO_HEADER)
    assert running.fast == 1


async def test_a_pod_gets_no_ready_refusal_of_the_pod_that_had_its_address(running: Running, client: Client) -> None:
    await client.statuses(NO_HEADER)
    running.index.put("127.0.0.1", pod_entry("other", "till").record)
    await client.ask(NO_HEADER)
    assert running.fast == 1
    assert {labels[2] for labels in running.labels()} == {"shop", "other"}


@pytest.mark.parametrize("suspended", ["pod", "node"])
async def test_while_suspended_the_general_lane_refuses(running: Running, client: Client, suspended: str) -> None:
    await client.ask(NO_HEADER)
    (running.entry.record if suspended == "pod" else running.index).suspended = True
    assert (await client.ask(NO_HEADER)).status == 400
    assert running.fast == 0


async def test_the_general_lane_refuses_again_after_a_minute(running: Running, client: Client) -> None:
    running.server.handlers._outcomes._ready._now_ns = lambda: time.monotonic_ns() - FRESH_SECONDS * 10**9
    await client.statuses(NO_HEADER, 3)
    assert running.fast == 0


async def test_blocked_instance_metadata_is_refused_by_the_fast_lane() -> None:
    async with serving(ServerPolicy(block_instance_metadata=True)) as running, running.client() as client:
        assert await client.statuses(BLOCKED, 3) == [403] * 3
        assert running.fast == 2
        assert running.measures.refusals(Reason.BLOCKED_PATH) == 3
        assert (await client.ask(BLOCKED.replace(b"GET", b"PUT", 1))).status == 403


async def test_instance_metadata_that_is_not_blocked_is_forwarded(running: Running, client: Client) -> None:
    await client.ask(REFUSED["instance metadata"][0])
    assert await client.statuses(BLOCKED) == [200] * 2
    assert len(running.proxy.forwarded) == 2


async def test_an_allowed_path_is_forwarded_after_a_refusal_of_another_one() -> None:
    policy = ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/versions",)))
    async with serving(policy) as running, running.client() as client:
        assert await client.statuses(request_bytes("/metadata/attested")) == [404] * 2
        assert (await client.ask(request_bytes("/metadata/versions"))).status == 200
        assert running.fast == 0


async def test_with_all_paths_proxied_only_identity_paths_are_refused_by_the_fast_lane() -> None:
    policy = ServerPolicy(proxied_paths=ProxiedPaths(everything=True))
    async with serving(policy) as running, running.client() as client:
        assert await client.statuses(request_bytes("/host/other")) == [404] * 2
        assert await client.statuses(request_bytes("/metadata/instance", method="TRACE")) == [405] * 2
        assert running.fast == 0
        assert (await client.ask(request_bytes("/other"))).status == 200
        assert (await client.ask(request_bytes("/metadata/instance", method="PUT"))).status == 200
        assert await client.statuses(REFUSED["an identity path"][0]) == [404] * 2
        assert running.fast == 1


async def test_a_token_request_is_served_after_a_refusal_of_each_kind(client: Client) -> None:
    for data, *_ in REFUSED.values():
        await client.ask(data)
    assert await client.statuses(request_bytes()) == [200] * 2


async def test_the_memory_of_a_pod_is_bounded(running: Running, client: Client) -> None:
    """Requests that differ in everything that the pod may choose have the same ready refusals."""
    for number in range(50):
        await client.ask(request_bytes(f"/path-{number}?a={number}", headers=(f"X-{number}: 1",)))
        await client.ask(request_bytes(f"{TARGET}&client_id={number}", headers=()))
    assert running.fast == 98
    now = time.monotonic_ns()
    ready = {kind for kind in RequestKind if running.entry.record.refusal(kind, now) is not None}
    assert ready == {RequestKind.NO_HEADER, RequestKind.UNKNOWN_OTHER}


NOTHING = Refusal(Reason.NOTHING_ASSIGNED, "Identity not found")


def refusing(running: Running, age: int = 0) -> Callable[[TokenRequest], Refusal]:
    """Refuse by the generation of the pod record that is *age* older than the present one."""
    return lambda _: replace(NOTHING, generation=running.entry.record.generation - age)


async def test_a_pod_without_an_identity_is_refused_by_the_fast_lane_until_its_record_changes(
    running: Running, client: Client
) -> None:
    running.token_service.respond = refusing(running)
    replies = [await client.ask(request_bytes()) for _ in range(3)]
    assert [reply.status for reply in replies] == [400] * 3
    assert len({reply.headers["x-ms-request-id"] for reply in replies}) == 3
    assert b"Identity not found" in replies[2].body
    assert (running.fast, len(running.token_service.requests)) == (2, 1)
    assert running.measures.refusals(Reason.NOTHING_ASSIGNED) == 3
    (series,) = running.measures.histogram.all_series()
    assert (series.labels[1:], sum(series.counts())) == (("400", "shop", "https://management.azure.com/"), 3)
    running.entry.bump()
    running.token_service.respond = lambda _: grant(running.entry.record)
    assert await client.statuses(request_bytes()) == [200] * 2


async def test_a_refusal_of_an_older_generation_is_not_made_ready(running: Running, client: Client) -> None:
    running.token_service.respond = refusing(running, age=1)
    assert await client.statuses(request_bytes()) == [400] * 2
    assert running.fast == 0


async def test_a_refusal_that_the_record_does_not_determine_is_not_made_ready(running: Running, client: Client) -> None:
    running.token_service.respond = lambda _: Refusal(Reason.UPSTREAM_REFUSED, "No.")
    assert await client.statuses(request_bytes()) == [403] * 2
    assert (running.fast, len(running.token_service.requests)) == (0, 2)


async def test_a_ready_refusal_does_not_stop_a_request_with_other_parameters(running: Running, client: Client) -> None:
    running.token_service.respond = refusing(running)
    for more in ("", "&client_id=a", "&bypass_cache=true"):
        await client.ask(request_bytes(f"{TARGET}{more}"))
    assert (running.fast, len(running.token_service.requests)) == (0, 3)


UNKNOWN = Refusal(Reason.UNKNOWN_ADDRESS, "No pod is known at this address.", unknown_seconds=60)


async def test_an_address_without_a_pod_is_refused_by_the_fast_lane_until_a_pod_has_it(
    running: Running, client: Client
) -> None:
    running.index.remove("127.0.0.1", running.entry.record)
    running.token_service.respond = lambda _: UNKNOWN
    assert await client.statuses(request_bytes(), 3) == [404] * 3
    assert await client.statuses(NO_HEADER, 3) == [400] * 3
    assert (running.fast, len(running.token_service.requests)) == (4, 1)
    assert {labels[2] for labels in running.labels()} == {""}
    running.index.put("127.0.0.1", running.entry.record)
    running.token_service.respond = lambda _: grant(running.entry.record)
    assert (await client.ask(request_bytes())).status == 200
    assert (await client.ask(NO_HEADER)).status == 400
    assert running.fast == 4


@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["not just failed", "forgotten"])
async def test_a_lookup_that_has_not_just_failed_is_made_each_time(
    running: Running, client: Client, seconds: float
) -> None:
    running.index.remove("127.0.0.1", running.entry.record)
    running.token_service.respond = lambda _: replace(UNKNOWN, unknown_seconds=seconds)
    for _ in range(3):
        assert (await client.ask(request_bytes())).status == 404
        await asyncio.sleep(1.2 * seconds)
    assert (running.fast, len(running.token_service.requests)) == (0, 3)


PROXY_VERSIONS, PROXY_ALL = ProxiedPaths(("/metadata/versions",)), ProxiedPaths(everything=True)


@pytest.mark.parametrize(
    ("refusal", "path", "proxied_paths", "expected"),
    [
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, ProxiedPaths(), (RequestKind.UNKNOWN_METADATA,)),
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, PROXY_VERSIONS, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, PROXY_ALL, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.OTHER, PROXY_VERSIONS, (RequestKind.UNKNOWN_OTHER,)),
        (Reason.UNKNOWN_PATH, CanonicalPath.OTHER, PROXY_ALL, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.IDENTITY, PROXY_ALL, (RequestKind.UNKNOWN_IDENTITY,)),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.INSTANCE, PROXY_ALL, ()),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.HOST_TOKEN, ProxiedPaths(), ()),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.TOKEN, PROXY_ALL, (RequestKind.NOT_GET,)),
        (Reason.BLOCKED_PATH, CanonicalPath.INSTANCE, PROXY_ALL, (RequestKind.INSTANCE, RequestKind.INSTANCE_NOT_GET)),
        (Reason.DISGUISED_PATH, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.NOT_REDIRECTED, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.FORWARDED, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.BAD_PARAMETERS, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (token_request("a=b"), CanonicalPath.TOKEN, ProxiedPaths(), (RequestKind.NO_RESOURCE,)),
        (NO_RESOURCE, CanonicalPath.HOST_TOKEN, ProxiedPaths(), ()),
        (token_request("resource=a&resource=b"), CanonicalPath.TOKEN, ProxiedPaths(), ()),
    ],
)
def test_a_refusal_is_ready_only_for_requests_that_all_get_it(
    refusal: Reason | Refusal, path: CanonicalPath, proxied_paths: ProxiedPaths, expected: tuple[RequestKind, ...]
) -> None:
    assert isinstance(refusal, Reason | Refusal)
    refusal = Refusal(refusal, "No.") if isinstance(refusal, Reason) else refusal
    assert kinds_of(refusal, path, proxied_paths) == expected
