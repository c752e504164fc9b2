"""From a peer's address to a token: lookup, decision, wait, fetch. Excluded: races (`test_token_service_races.py`)."""

import asyncio
import uuid
from collections.abc import Callable
from hashlib import sha256
from unittest.mock import patch

import pytest

from nmi.identity.decide import NONE_ASSIGNED, DecisionPolicy
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason
from nmi.server.request import Call
from nmi.tokens.source import Issued, PolicyError, Token
from podidentity.resources import CREATED
from tests.support.nmi.identity.cluster import DEADLINE, Cluster
from tests.support.nmi.imds import HANG, Reply, error_body
from tests.support.nmi.token_service_bench import ServiceBench, running_token_service
from tests.support.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import ADDRESS, CLIENT_ID, OTHER_ID, REQUEST, RESOURCE, assigned_identity, by, pod
from tests.support.virtual_time import now
from tests.support.waiting import until


async def test_a_pod_gets_the_token_of_its_identity(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    issued = await bench.issued()
    assert [call.query["client_id"] for call in bench.imds.calls] == [CLIENT_ID]
    assert issued.token.resource == REQUEST.resource
    assert (issued.record, issued.generation) == (entry.record, entry.record.generation)
    assert issued.cacheable
    now_ns = bench.cluster.clock() * 1e9
    assert 10.5 * 3600 < (issued.fresh_until_ns - now_ns) / 1e9 < 14 * 3600
    assert (issued.expires_ns - issued.fresh_until_ns) / 1e9 >= 300.0
    assert (issued.expires_ns - now_ns) / 1e9 == pytest.approx(86400, abs=5)
    assert (issued.pod, issued.identity) == ("ns/web", "ns/id")


async def test_an_unknown_address_is_refused() -> None:
    async with running_token_service(park_seconds=0.1) as bench:
        await bench.with_pod()
        refusal = await bench.refused(peer="10.9.9.9")
        assert refusal.reason is Reason.UNKNOWN_ADDRESS
        assert 0.0 < refusal.unknown_seconds <= 1.0, "the lookup has just failed"
        assert bench.imds.calls == []


async def test_only_a_refusal_that_the_pod_record_determines_names_its_generation(bench: ServiceBench) -> None:
    entry = await bench.with_pod(assigned=False, label=None)
    refusal = await bench.refused()
    assert (refusal.reason, refusal.generation) == (Reason.NOTHING_ASSIGNED, entry.record.generation)
    entry.add_unconfirmed("10.0.0.99")  # each decision needs a read now
    assert (await bench.refused()).generation is None


@pytest.mark.parametrize("first", [None, CREATED], ids=["nothing-yet", "created"])
async def test_a_held_request_is_answered_at_the_assignments_event(bench: ServiceBench, first: str | None) -> None:
    entry = await bench.with_pod(assigned=False)
    if first is not None:
        bench.cluster.put(assigned_identity(status=first))
        await until(lambda: bool(entry.assigned))
    pending = asyncio.create_task(bench.issued())
    await until(lambda: bench.service._measures.held == 1)
    bench.cluster.put(assigned_identity())
    issued = await asyncio.wait_for(pending, DEADLINE)
    assert issued.identity == "ns/id"
    assert bench.service._measures.held == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda cluster: cluster.delete_pod(), Reason.UNKNOWN_ADDRESS, id="deleted"),
        pytest.param(lambda cluster: cluster.put_pod(pod(label=None)), Reason.NOTHING_ASSIGNED, id="without its label"),
    ],
)
async def test_a_held_pod_that_changes_is_refused(
    bench: ServiceBench, change: Callable[[Cluster], object], reason: Reason
) -> None:
    await bench.with_pod(assigned=False)
    pending = asyncio.create_task(bench.refused())
    await until(lambda: bench.held_requests == 1)
    change(bench.cluster)
    assert (await asyncio.wait_for(pending, DEADLINE)).reason is reason


async def test_a_client_that_disconnects_ends_its_wait_and_no_other(bench: ServiceBench) -> None:
    entry = await bench.with_pod(assigned=False)
    call = Call(ADDRESS, "id")
    gone = asyncio.create_task(bench.service.issue(ADDRESS, REQUEST, call))
    stays = asyncio.create_task(bench.issued())
    await until(lambda: bench.service._measures.held == 2)
    gone.cancel()
    await until(lambda: bench.service._measures.held == 1)
    assert (call.unanswered, call.entry) == (NONE_ASSIGNED, entry)
    bench.cluster.put(assigned_identity())
    assert (await asyncio.wait_for(stays, DEADLINE)).identity == "ns/id"


async def unanswered(bench: ServiceBench, waits: Callable[[], bool]) -> str:
    """Return what a request waits for whose client disconnects as soon as *waits*: the next action in the log."""
    call = Call(ADDRESS, "id")
    request = asyncio.create_task(bench.service.issue(ADDRESS, REQUEST, call))
    await until(waits)
    request.cancel()
    await asyncio.wait([request])
    assert call.unanswered is not None
    return call.unanswered.detail


async def test_a_client_that_disconnects_waited_for_imds_only_after_the_fetch_has_begun(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    bench.imds.script = [HANG]
    assert "IMDS" in await unanswered(bench, lambda: bool(bench.imds.calls))
    reads: list[str] = []

    async def silent(_: PodEntry, address: str) -> None:
        reads.append(address)
        await asyncio.Event().wait()

    entry.add_unconfirmed("10.0.0.99")  # each decision needs a read now
    with patch.object(bench.cluster.cluster_cache.ownership_reads, "verify", silent):
        detail = await unanswered(bench, lambda: bool(reads))
    assert "the API server" in detail
    assert "IMDS" not in detail


async def test_one_time_budget_covers_holding_and_fetching() -> None:
    async with running_token_service(policy=DecisionPolicy(max_hold_seconds=0.2)) as bench:
        await bench.with_pod()
        bench.imds.script = [HANG]
        began = now()
        refusal = await bench.refused()
        assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE
        assert now() - began <= 0.2


@pytest.mark.parametrize(
    ("reply", "reason", "retry_after"),
    [
        (Reply(400, error_body("invalid_resource", "no")), Reason.UPSTREAM_REFUSED, None),
        (Reply(403, error_body("access_denied", "no")), Reason.UPSTREAM_REFUSED, None),
        (Reply(429, b"{}", {"Retry-After": "7"}), Reason.UPSTREAM_THROTTLED, 7.0),
        (Reply(503, b"{}", {"Retry-After": "3"}), Reason.UPSTREAM_UNAVAILABLE, 3.0),
        (Reply(410, b"{}"), Reason.UPSTREAM_UNAVAILABLE, None),
        (Reply(200, b"not json"), Reason.UPSTREAM_UNAVAILABLE, None),
    ],
    ids=["invalid-resource", "denied", "throttled", "down", "gone-for-now", "garbage"],
)
async def test_upstream_failures_have_their_reasons(
    bench: ServiceBench, reply: Reply, reason: Reason, retry_after: float | None
) -> None:
    await bench.with_pod()
    bench.imds.script = [reply]
    refusal = await bench.refused()
    assert (refusal.reason, refusal.retry_after) == (reason, retry_after)


async def test_a_refusal_contains_azures_message_code_and_correlation_id(bench: ServiceBench) -> None:
    await bench.with_pod()
    tenant, trace, correlation = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
    description = (
        f"AADSTS500011: The resource principal named {RESOURCE} was not found in the tenant named Contoso Ltd "
        f"({tenant}), endpoint unreachable <b>eyJ0eXAiOiJKV1QiLCJhbGci</b>.\r\nTrace ID: {trace}\r\n"
        f"Correlation ID: {correlation}\r\nTimestamp: 2026-01-01 00:00:00Z"
    )
    reply = Reply(400, error_body("invalid_resource", description), {"x-ms-request-id": "11f5-ab"})
    bench.imds.script = [reply]
    refusal = await bench.refused()
    assert refusal.correlation == correlation
    assert refusal.sentence.startswith(
        f"Azure refused a token for this identity (invalid_resource, correlation id {correlation}). "
        f"Azure's answer: AADSTS500011: The resource principal named {RESOURCE} was not found in the tenant named "
        "<removed>"
    )
    for foreign in (tenant, trace, "Contoso", "eyJ0", "11f5-ab", "Timestamp", "\n"):
        assert foreign not in refusal.sentence
    assert "unreachable" not in refusal.sentence.lower()


async def test_the_correlation_id_header_is_used_if_the_message_has_none(bench: ServiceBench) -> None:
    await bench.with_pod()
    bench.imds.script = [Reply(400, error_body("invalid_resource", "no"), {"x-ms-request-id": "11f5-ab"})]
    refusal = await bench.refused()
    assert refusal.correlation == "11f5-ab"
    assert "correlation id 11f5-ab" in refusal.sentence
    bench.imds.script = [Reply(403, error_body("denied", "no"), {"x-ms-correlation-request-id": "22-cd"})]
    assert "correlation id 22-cd" in (await bench.refused(TokenRequest("https://other"))).sentence
    # SDKs stop retrying at this word.
    bench.imds.script = [Reply(403, error_body("host_unreachable", "A socket operation was unreachable"))]
    assert "unreachable" not in (await bench.refused(TokenRequest("https://third"))).sentence.lower()


async def test_imds_lag_after_the_assignment_is_waited_out(bench: ServiceBench) -> None:
    await bench.with_pod()
    bench.imds.script = [Reply(400, error_body("invalid_request", "Identity not found"))]
    assert (await bench.issued()).identity == "ns/id"
    assert len(bench.imds.calls) == 2


async def test_imds_lag_beyond_the_budget_is_a_retryable_refusal(bench: ServiceBench) -> None:
    await bench.with_pod()
    bench.cluster.clock.ahead += 61.0
    bench.imds.script = [Reply(400, error_body("invalid_request", "Identity not found"))] * 50
    # Assigned for almost the whole window: no further retries, and no final refusal yet.
    assert (await bench.refused()).reason is Reason.STILL_ASSIGNING
    bench.cluster.clock.ahead += 30.0
    assert (await bench.refused()).reason is Reason.UPSTREAM_REFUSED


@pytest.mark.parametrize("type_", [4, -1])
async def test_an_unknown_type_is_refused_and_the_log_names_the_known_ones(bench: ServiceBench, type_: int) -> None:
    entry = await bench.with_pod(assigned=False)
    bench.cluster.deliver(assigned_identity(type_=type_))
    assert entry.assigned
    refusal = await bench.refused()
    assert refusal.reason is Reason.POLICY
    assert all(f"{served} (" in refusal.detail for served in (0, 1, 2))
    assert bench.imds.calls == []


async def test_an_object_id_is_known_after_azure_has_returned_it(bench: ServiceBench) -> None:
    await bench.with_pod()
    request = by(SelectorKind.OBJECT_ID, "0B000000-0000-0000-0000-000000000001")
    refusal = await bench.refused(request)
    assert (refusal.reason, refusal.generation) == (Reason.UNKNOWN_OBJECT_ID, None)
    await bench.issued()
    assert (await bench.issued(request)).identity == "ns/id"


async def test_a_terminating_pod_gets_tokens_but_no_ready_responses(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    assert (await bench.issued()).cacheable
    bench.cluster.api.store.delete("pods", "web", "ns")
    await until(lambda: entry.ending)
    assert not (await bench.issued()).cacheable
    assert bench.cluster.reads() == ["/api/v1/namespaces/ns/pods/web"]


async def test_without_the_cache_no_answer_becomes_ready() -> None:
    async with running_token_service(caching=False) as bench:
        await bench.with_pod()
        assert not (await bench.issued()).cacheable
        await bench.issued()
        assert len(bench.imds.calls) == 2


async def test_only_the_peers_address_identifies_the_pod(bench: ServiceBench) -> None:
    await bench.with_pod()
    bench.cluster.put_pod(pod("other", addresses=("10.0.0.2",)))
    bench.cluster.put(assigned_identity("second", pod_name="other", client_id=OTHER_ID))
    await until(lambda: bool((entry := bench.cluster.at("10.0.0.2")) and entry.assigned))
    assert (await bench.issued(peer=ADDRESS)).identity == "ns/id"
    assert (await bench.issued(peer="10.0.0.2")).identity == "ns/second"
    assert [call.query["client_id"] for call in bench.imds.calls] == [CLIENT_ID, OTHER_ID]


async def test_a_request_that_a_token_source_forbids_is_refused_with_its_message() -> None:
    forbidding = FakeSource(forbidden=PolicyError("Not from there.", "--allow-it would allow it"))
    async with running_token_service(sources={1: forbidding}) as bench:
        await bench.with_pod(assigned=False)
        bench.cluster.put(assigned_identity(type_=1))
        refusal = await bench.refused()
        assert (refusal.reason, refusal.sentence, refusal.detail) == (
            Reason.POLICY,
            "Not from there.",
            "--allow-it would allow it",
        )
        assert forbidding.requests == []


async def test_tokens_of_auxiliary_tenants_are_included_and_never_in_a_ready_response() -> None:
    further = Token("further", 2_000_000_000, 0, RESOURCE, CLIENT_ID)
    async with running_token_service(sources={1: FakeSource(auxiliary=(further,))}) as bench:
        entry = await bench.with_pod(assigned=False)
        bench.cluster.put(assigned_identity(type_=1))
        issued = await bench.issued()
        assert (issued.auxiliary, issued.cacheable) == ((further,), False)
        assert not entry.serves(bench.broker.key_of(entry.assigned[0].identity, RESOURCE, "").lasting)


async def test_the_log_can_name_the_pods_uid_and_azures_own_id_of_the_call() -> None:
    async with running_token_service(sources={1: FakeSource()}) as bench:
        entry = await bench.with_pod(assigned=False)
        bench.cluster.put(assigned_identity(type_=1))
        issued = await bench.issued()
        assert (issued.uid, issued.correlation) == (entry.uid, "call-1")


async def test_a_reassigned_address_serves_its_new_pod_immediately_also_on_known_connections(
    bench: ServiceBench,
) -> None:
    # Each request of a kept-alive connection is decided by the peer's address, so the former pod has no effect on it.
    await bench.with_pod()
    before = await bench.issued()
    bench.cluster.delete_pod()
    bench.cluster.put_pod(pod("successor"))
    bench.cluster.put(assigned_identity("second", pod_name="successor", client_id=OTHER_ID))
    await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.name == "successor" and entry.assigned))
    after = await bench.issued()
    assert (after.pod, after.identity) == ("ns/successor", "ns/second")
    assert before.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None
    assert before.record.suspended


def rejecting(token: str) -> TokenRequest:
    return TokenRequest(RESOURCE, rejected_sha256=sha256(token.encode()).hexdigest())


async def test_the_held_token_is_replaced_and_the_report_is_then_out_of_date(bench: ServiceBench) -> None:
    await bench.with_pod()
    held = (await bench.issued(REQUEST)).token.access_token
    renewed = (await bench.issued(rejecting(held))).token.access_token
    assert renewed != held
    assert (await bench.issued(rejecting(held))).token.access_token == renewed
    assert (await bench.issued(REQUEST)).token.access_token == renewed
    assert len(bench.imds.calls) == 2


async def test_another_hash_causes_no_fetch(bench: ServiceBench) -> None:
    await bench.with_pod()
    held = await bench.issued(REQUEST)
    for rejected in ("ab", "0" * 64, sha256(b"older").hexdigest()):
        issued = await bench.issued(TokenRequest(RESOURCE, rejected_sha256=rejected))
        assert issued.token == held.token
    assert len(bench.imds.calls) == 1


async def test_concurrent_reports_share_one_fetch(bench: ServiceBench) -> None:
    await bench.with_pod()
    held = (await bench.issued(REQUEST)).token.access_token
    responses = await asyncio.gather(*(bench.issue(rejecting(held)) for _ in range(20)))
    assert all(isinstance(response, Issued) and response.token.access_token != held for response in responses)
    assert len(bench.imds.calls) == 2


async def test_without_a_held_token_the_first_fetch_is_an_ordinary_one(bench: ServiceBench) -> None:
    await bench.with_pod()
    assert isinstance(await bench.issue(rejecting("of another node")), Issued)
    assert len(bench.imds.calls) == 1
