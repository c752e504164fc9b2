"""Refusals that the fast lane sends: which requests get them, how they are counted, and when they end.

Excluded: the equality of both lanes' answers (tests/native/test_lanes_agree.py).
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
from nmi.server.call import Call
from nmi.server.decisions import LINES_PER_SUBJECT, Decisions, Subject
from nmi.server.parameters import NO_RESOURCE, token_request
from nmi.server.policy import ServerPolicy
from nmi.server.ready_refusals import FRESH_SECONDS, Kind, kinds_of
from nmi.server.target import CanonicalPath, ProxiedPaths
from tests.nmi.server.fakes import TARGET, TOKEN_PATH, grant, pod_entry, request_bytes
from tests.nmi.server.test_server_over_sockets import Running, serving
from tests.support.waiting import until

REFUSED = {
    "no header": (request_bytes(headers=()), 400, Reason.METADATA_HEADER_MISSING),
    "no resource": (request_bytes(f"{TOKEN_PATH}?api-version=2018-02-01"), 400, Reason.BAD_PARAMETERS),
    "no query": (request_bytes(TOKEN_PATH), 400, Reason.BAD_PARAMETERS),
    "another method": (request_bytes(method="POST"), 405, Reason.METHOD_NOT_ALLOWED),
    "an identity path": (request_bytes("/metadata/identity/info"), 404, Reason.UNKNOWN_PATH),
    "a metadata path": (request_bytes("/metadata/versions"), 404, Reason.UNKNOWN_PATH),
    "another path": (request_bytes("/latest/meta-data/"), 404, Reason.UNKNOWN_PATH),
    "instance metadata": (request_bytes("/metadata/instance", method="PUT"), 405, Reason.METHOD_NOT_ALLOWED),
}
BLOCKED = request_bytes("/metadata/instance?api-version=2021-02-01")
by_name = pytest.mark.parametrize("name", REFUSED)


def fast(running: Running) -> int:
    return running.server.counters()["fast_answers"]


@by_name
async def test_a_repeated_refusal_is_sent_by_the_fast_lane_with_a_new_request_id(name: str) -> None:
    data, status, _ = REFUSED[name]
    async with serving() as running, running.client() as client:
        replies = [await client.ask(data) for _ in range(3)]
        assert fast(running) == 2
    assert {reply.status for reply in replies} == {status}
    assert len({reply.body for reply in replies}) == len({tuple(reply.headers) for reply in replies}) == 1
    ids = [reply.headers["x-ms-request-id"] for reply in replies]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids)


@by_name
async def test_both_lanes_count_a_refusal_in_the_same_metrics(name: str) -> None:
    data, status, reason = REFUSED[name]
    async with serving() as running, running.client() as client:
        for _ in range(5):
            await client.ask(data)
        (series,) = running.measures.histogram.all_series()
        assert series.labels[1:] == (str(status), "shop", "")
        assert sum(series.counts()) == 5
        assert running.measures.refusals(reason) == 5
        assert running.measures.state()["refusals"] == {reason.value: 5}
        assert fast(running) == 4


def decisions_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the lines of the decision log. asyncio logs slow callbacks of a busy machine, too."""
    return [record for record in caplog.records if record.name == "nmi.server.decisions"]


async def test_repeats_in_the_fast_lane_are_summed_up_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nmi.server.decisions")
    async with serving() as running, running.client() as client:
        for _ in range(4):
            await client.ask(REFUSED["another method"][0])
            await client.ask(REFUSED["no header"][0])
        running.server._decisions.summarize()
    lines = decisions_in(caplog)
    assert [record.getMessage().partition(";")[0] for record in lines[:2]] == ["request refused"] * 2
    summed = {record.__dict__["reason"]: record.__dict__["count"] for record in lines[2:]}
    assert summed == {"method_not_allowed": 3, "metadata_header_missing": 3}


async def test_a_new_generation_of_the_pod_record_ends_ready_refusals(running: Running, client: Client) -> None:
    for expected in (0, 1):
        await client.ask(REFUSED["no header"][0])
        assert fast(running) == expected
    running.entry.bump()
    await client.ask(REFUSED["no header"][0])
    assert fast(running) == 1


async def test_a_pod_gets_no_ready_refusal_of_the_pod_that_had_its_address(running: Running, client: Client) -> None:
    for _ in range(2):
        await client.ask(REFUSED["no header"][0])
    running.index.put("127.0.0.1", pod_entry("other", "till").record)
    await client.ask(REFUSED["no header"][0])
    assert fast(running) == 1
    assert {series.labels[2] for series in running.measures.histogram.all_series()} == {"shop", "other"}


@pytest.mark.parametrize("suspended", ["pod", "node"])
async def test_while_suspended_the_general_lane_refuses(running: Running, client: Client, suspended: str) -> None:
    await client.ask(REFUSED["no header"][0])
    (running.entry.record if suspended == "pod" else running.index).suspended = True
    assert (await client.ask(REFUSED["no header"][0])).status == 400
    assert fast(running) == 0


async def test_the_general_lane_refuses_again_after_a_minute() -> None:
    running = Running(ServerPolicy())
    running.server.handlers._outcomes._ready._now_ns = lambda: time.monotonic_ns() - FRESH_SECONDS * 10**9
    await running.server.start(running.listener)
    try:
        async with running.client() as client:
            for _ in range(3):
                await client.ask(REFUSED["no header"][0])
            assert fast(running) == 0
    finally:
        await running.server.aclose()
        running.listener.close()


@pytest.mark.parametrize(
    "data",
    [
        request_bytes(method="HEAD"),
        request_bytes(headers=("X-Forwarded-For: 10.0.0.1",)),
        request_bytes(headers=("Metadata: false",)),
        request_bytes(f"{TARGET}&resource=b"),
        request_bytes("/metadata//versions"),
        request_bytes("/metadata/identity/oauth2/tokens"),
        request_bytes("/host/token"),
    ],
    ids=["HEAD", "forwarded", "other value", "parameter twice", "disguised", "near the token path", "host token"],
)
async def test_other_refusals_are_left_to_the_general_lane(running: Running, client: Client, data: bytes) -> None:
    for _ in range(2):
        client.send(data)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 4")
        await until(lambda: running.server.counters()["handed_over"] > 0)
        running.server.counters()
        if b"HEAD" not in data[:5]:
            await client.reader.readuntil(b"}")
    assert fast(running) == 0


async def test_blocked_instance_metadata_is_refused_by_the_fast_lane() -> None:
    async with serving(ServerPolicy(block_instance_metadata=True)) as running, running.client() as client:
        assert [(await client.ask(BLOCKED)).status for _ in range(3)] == [403, 403, 403]
        assert fast(running) == 2
        assert running.measures.refusals(Reason.BLOCKED_PATH) == 3
        assert (await client.ask(BLOCKED.replace(b"GET", b"PUT", 1))).status == 403


async def test_instance_metadata_that_is_not_blocked_is_forwarded(running: Running, client: Client) -> None:
    await client.ask(REFUSED["instance metadata"][0])
    assert [(await client.ask(BLOCKED)).status for _ in range(2)] == [200, 200]
    assert len(running.proxy.forwarded) == 2


async def test_an_allowed_path_is_forwarded_after_a_refusal_of_another_one() -> None:
    policy = ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/versions",)))
    async with serving(policy) as running, running.client() as client:
        for _ in range(2):
            assert (await client.ask(request_bytes("/metadata/attested"))).status == 404
        assert (await client.ask(request_bytes("/metadata/versions"))).status == 200
        assert fast(running) == 0


async def test_with_all_paths_proxied_only_identity_paths_are_refused_by_the_fast_lane() -> None:
    async with (
        serving(ServerPolicy(proxied_paths=ProxiedPaths(everything=True))) as running,
        running.client() as client,
    ):
        for _ in range(2):
            assert (await client.ask(request_bytes("/host/other"))).status == 404
            assert (await client.ask(request_bytes("/metadata/instance", method="TRACE"))).status == 405
        assert fast(running) == 0
        assert (await client.ask(request_bytes("/other"))).status == 200
        assert (await client.ask(request_bytes("/metadata/instance", method="PUT"))).status == 200
        assert [(await client.ask(REFUSED["an identity path"][0])).status for _ in range(2)] == [404, 404]
        assert fast(running) == 1


async def test_a_token_request_is_served_after_a_refusal_of_each_kind(running: Running, client: Client) -> None:
    for data, *_ in REFUSED.values():
        await client.ask(data)
    assert [(await client.ask(request_bytes())).status for _ in range(2)] == [200, 200]


async def test_with_a_line_for_each_request_no_refusal_is_sent_by_the_fast_lane() -> None:
    async with serving(ServerPolicy(log_each_request=True)) as running, running.client() as client:
        for _ in range(2):
            await client.ask(REFUSED["no header"][0])
        assert fast(running) == 0


async def test_the_memory_of_a_pod_is_bounded(running: Running, client: Client) -> None:
    """Requests that differ in everything that the pod may choose have the same ready refusals."""
    for number in range(50):
        await client.ask(request_bytes(f"/path-{number}?a={number}", headers=(f"X-{number}: 1",)))
        await client.ask(request_bytes(f"{TARGET}&client_id={number}", headers=()))
    assert fast(running) == 98
    now = time.monotonic_ns()
    ready = {kind for kind in Kind if running.entry.record.refusal(kind, now) is not None}
    assert ready == {Kind.NO_HEADER, Kind.UNKNOWN_OTHER}


def test_repeats_of_a_refusal_without_a_line_are_counted_as_omitted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nmi.server.decisions")
    decisions, subject = Decisions(), Subject(Call("10.0.0.7", "id"), pod_entry())
    refusal = Refusal(Reason.UNKNOWN_PATH, "No.")
    for number in range(LINES_PER_SUBJECT):
        decisions.refused(subject, f"/{number}", 404, refusal, None)
    usage = decisions.refused(subject, "/late", 404, refusal, None)
    usage.touch()
    usage.touch()
    decisions.summarize()
    assert decisions_in(caplog)[-1].getMessage().startswith("decisions omitted")
    assert decisions_in(caplog)[-1].__dict__["count"] == 3
    usage.touch()
    assert decisions.refused(subject, "/late", 404, refusal, None) is not usage
    assert decisions_in(caplog)[-1].getMessage().startswith("request refused")
    decisions.summarize()
    assert decisions_in(caplog)[-1].__dict__["count"] == 1


NOTHING = Refusal(Reason.NOTHING_ASSIGNED, "Identity not found")


def refusing(running: Running, refusal: Refusal = NOTHING) -> Callable[[TokenRequest], Refusal]:
    return lambda _: replace(refusal, generation=running.entry.record.generation)


async def test_a_pod_without_an_identity_is_refused_by_the_fast_lane_until_its_record_changes(
    running: Running, client: Client
) -> None:
    running.issuer.answer = refusing(running)
    replies = [await client.ask(request_bytes()) for _ in range(3)]
    assert [reply.status for reply in replies] == [400] * 3
    assert len({reply.headers["x-ms-request-id"] for reply in replies}) == 3
    assert b"Identity not found" in replies[2].body
    assert (fast(running), len(running.issuer.asked)) == (2, 1)
    assert running.measures.refusals(Reason.NOTHING_ASSIGNED) == 3
    (series,) = running.measures.histogram.all_series()
    assert (series.labels[1:], sum(series.counts())) == (("400", "shop", "https://management.azure.com/"), 3)
    running.entry.bump()
    running.issuer.answer = lambda _: grant(running.entry.record)
    assert [(await client.ask(request_bytes())).status for _ in range(2)] == [200, 200]


async def test_a_refusal_of_an_older_generation_is_not_made_ready(running: Running, client: Client) -> None:
    running.issuer.answer = lambda _: replace(NOTHING, generation=running.entry.record.generation - 1)
    for _ in range(2):
        assert (await client.ask(request_bytes())).status == 400
    assert fast(running) == 0


async def test_a_refusal_that_the_record_does_not_determine_is_not_made_ready(running: Running, client: Client) -> None:
    running.issuer.answer = lambda _: Refusal(Reason.UPSTREAM_REFUSED, "No.")
    for _ in range(2):
        assert (await client.ask(request_bytes())).status == 403
    assert (fast(running), len(running.issuer.asked)) == (0, 2)


async def test_a_ready_refusal_does_not_stop_a_request_with_other_parameters(running: Running, client: Client) -> None:
    running.issuer.answer = refusing(running)
    await client.ask(request_bytes())
    await client.ask(request_bytes(f"{TARGET}&client_id=a"))
    await client.ask(request_bytes(f"{TARGET}&bypass_cache=true"))
    assert (fast(running), len(running.issuer.asked)) == (0, 3)


UNKNOWN = Refusal(Reason.UNKNOWN_ADDRESS, "No pod is known at this address.", unknown_seconds=60)


async def test_an_address_without_a_pod_is_refused_by_the_fast_lane_until_a_pod_has_it(
    running: Running, client: Client
) -> None:
    running.index.remove("127.0.0.1", running.entry.record)
    running.issuer.answer = lambda _: UNKNOWN
    assert [(await client.ask(request_bytes())).status for _ in range(3)] == [404] * 3
    assert [(await client.ask(REFUSED["no header"][0])).status for _ in range(3)] == [400] * 3
    assert (fast(running), len(running.issuer.asked)) == (4, 1)
    assert {series.labels[2] for series in running.measures.histogram.all_series()} == {""}
    running.index.put("127.0.0.1", running.entry.record)
    running.issuer.answer = lambda _: grant(running.entry.record)
    assert (await client.ask(request_bytes())).status == 200
    assert (await client.ask(REFUSED["no header"][0])).status == 400
    assert fast(running) == 4


async def test_a_lookup_that_has_not_just_failed_is_made_each_time(running: Running, client: Client) -> None:
    running.index.remove("127.0.0.1", running.entry.record)
    running.issuer.answer = lambda _: replace(UNKNOWN, unknown_seconds=0.0)
    for _ in range(3):
        assert (await client.ask(request_bytes())).status == 404
    assert (fast(running), len(running.issuer.asked)) == (0, 3)


async def test_the_refusal_of_an_unknown_address_lasts_as_long_as_its_failed_lookup(
    running: Running, client: Client
) -> None:
    running.index.remove("127.0.0.1", running.entry.record)
    running.issuer.answer = lambda _: replace(UNKNOWN, unknown_seconds=0.05)
    await client.ask(request_bytes())
    await asyncio.sleep(0.06)
    await client.ask(request_bytes())
    assert (fast(running), len(running.issuer.asked)) == (0, 2)


PROXY_VERSIONS, PROXY_ALL = ProxiedPaths(("/metadata/versions",)), ProxiedPaths(everything=True)


@pytest.mark.parametrize(
    ("reason", "path", "proxied_paths", "expected"),
    [
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, ProxiedPaths(), (Kind.UNKNOWN_METADATA,)),
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, PROXY_VERSIONS, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.METADATA, PROXY_ALL, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.OTHER, PROXY_VERSIONS, (Kind.UNKNOWN_OTHER,)),
        (Reason.UNKNOWN_PATH, CanonicalPath.OTHER, PROXY_ALL, ()),
        (Reason.UNKNOWN_PATH, CanonicalPath.IDENTITY, PROXY_ALL, (Kind.UNKNOWN_IDENTITY,)),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.INSTANCE, PROXY_ALL, ()),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.HOST_TOKEN, ProxiedPaths(), ()),
        (Reason.METHOD_NOT_ALLOWED, CanonicalPath.TOKEN, PROXY_ALL, (Kind.NOT_GET,)),
        (Reason.BLOCKED_PATH, CanonicalPath.INSTANCE, PROXY_ALL, (Kind.INSTANCE, Kind.INSTANCE_NOT_GET)),
        (Reason.DISGUISED_PATH, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.NOT_REDIRECTED, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.FORWARDED, CanonicalPath.TOKEN, ProxiedPaths(), ()),
        (Reason.BAD_PARAMETERS, CanonicalPath.TOKEN, ProxiedPaths(), ()),
    ],
)
def test_a_refusal_is_ready_only_for_requests_that_all_get_it(
    reason: Reason, path: CanonicalPath, proxied_paths: ProxiedPaths, expected: tuple[Kind, ...]
) -> None:
    assert kinds_of(Refusal(reason, "No."), path, proxied_paths) == expected


def test_only_the_missing_resource_is_a_kind_of_its_own() -> None:
    missing, twice = token_request("a=b"), token_request("resource=a&resource=b")
    assert missing is NO_RESOURCE
    assert isinstance(twice, Refusal)
    assert kinds_of(NO_RESOURCE, CanonicalPath.TOKEN, ProxiedPaths()) == (Kind.NO_RESOURCE,)
    assert kinds_of(NO_RESOURCE, CanonicalPath.HOST_TOKEN, ProxiedPaths()) == ()
    assert kinds_of(twice, CanonicalPath.TOKEN, ProxiedPaths()) == ()
