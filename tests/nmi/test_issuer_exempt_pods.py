"""Exempt pods get IMDS's response unchanged, and no other pod does. Excluded: which pods are exempt."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from nmi.identity.decide import DecisionPolicy
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pods import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.issuer import Issued, Issuer
from nmi.refusal import Reason, Refusal
from nmi.tokens.governor import CongestedError
from podidentity.azure.errors import Throttled, Unreachable
from podidentity.azure.imds import RawAnswer
from podidentity.resources import OwnerReference
from tests.nmi.identity.cluster import DEADLINE
from tests.nmi.identity.shapes import (
    ADDRESS,
    CLIENT_ID,
    OBJECT_ID,
    REQUEST,
    RESOURCE,
    assigned_identity,
    by,
    exception,
    pod,
    resource_id,
)
from tests.nmi.imds import HANG
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.waiting import until
from tests.virtual_time import now

APP = {"app": "web"}
MIC = {
    "labels": {"component": "mic"},
    "owner": OwnerReference(kind="ReplicaSet", name="mic-1", controller=True),
    "label": None,
}


async def exempt(bench: IssuerBench, **changes: Any) -> PodEntry:
    """Put a pod with an assigned identity under an exception."""
    bench.cluster.put_exception(exception(labels=APP))
    entry = await bench.with_pod(**({"labels": APP} | changes))
    await until(lambda: bool(entry.facts.exempt))
    return entry


async def raw(bench: IssuerBench, request: TokenRequest = REQUEST) -> RawAnswer:
    answer = await bench.issue(request)
    assert isinstance(answer, RawAnswer), answer
    return answer


async def test_an_exempt_pods_request_is_sent_to_imds_for_the_nodes_own_identity() -> None:
    async with running_issuer() as bench:
        await exempt(bench)
        answer = await raw(bench)
        [call] = bench.imds.calls
        assert (call.query["resource"], "client_id" in call.query) == (RESOURCE, False)
        assert (answer.status, b"access_token" in answer.body) == (200, True)


async def test_mics_own_pod_requires_no_exception() -> None:
    async with running_issuer(mic_namespace="ns") as bench:
        await bench.with_pod(assigned=False, **MIC)
        assert (await raw(bench)).status == 200
    async with running_issuer(mic_namespace="elsewhere") as bench:
        await bench.with_pod(assigned=False, **MIC)
        assert (await bench.refused()).reason is Reason.NOTHING_ASSIGNED


@pytest.mark.parametrize(
    ("selector", "value", "parameter"),
    [
        (SelectorKind.CLIENT_ID, CLIENT_ID, "client_id"),
        (SelectorKind.OBJECT_ID, OBJECT_ID, "object_id"),
        (SelectorKind.RESOURCE_ID, resource_id("any"), "msi_res_id"),
    ],
)
async def test_the_requested_identity_is_sent_to_imds_whether_assigned_or_not(
    selector: SelectorKind, value: str, parameter: str
) -> None:
    async with running_issuer() as bench:
        await exempt(bench)
        await raw(bench, by(selector, value))
        assert bench.imds.calls[0].query[parameter] == value


async def test_an_exempt_pods_answer_is_not_cached() -> None:
    async with running_issuer() as bench:
        entry = await exempt(bench)
        await raw(bench)
        await raw(bench)
        assert len(bench.imds.calls) == 2
        assert entry.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None


async def test_an_imds_that_does_not_respond_is_a_refusal_within_the_budget() -> None:
    async with running_issuer(policy=DecisionPolicy(max_hold_seconds=5.0)) as bench:
        await exempt(bench)
        bench.imds.script = [HANG]
        began = now()
        assert (await bench.refused()).reason is Reason.UPSTREAM_UNAVAILABLE
        assert now() - began == pytest.approx(5.0)


class Failing:
    """A source of the node's identities that raises. It records the charged pod and the remaining time."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[tuple[str, float]] = []

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawAnswer:
        self.asked.append((starter, within))
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unreachable("connection refused"), Reason.UPSTREAM_UNAVAILABLE),
        (Throttled("too many", retry_after=7.0), Reason.UPSTREAM_THROTTLED),
        (CongestedError(3.0), Reason.OVERLOADED),
    ],
    ids=["no-connection", "throttled", "queue-full"],
)
async def test_a_failed_call_is_a_refusal_charged_to_the_pod(error: Exception, reason: Reason) -> None:
    async with running_issuer() as bench:
        await exempt(bench)
        source = Failing(error)
        issuer = Issuer(
            bench.cluster.cluster_cache,
            bench.broker,
            DecisionPolicy(max_hold_seconds=20.0),
            IdentityMetrics(CollectorRegistry()),
            node_identities=source,
            clock=bench.cluster.clock,
        )
        refusal = await issuer.issue(ADDRESS, TokenRequest(RESOURCE))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is reason
        [(starter, within)] = source.asked
        assert starter == "ns/web"
        assert 15.0 < within <= 20.0


async def test_without_a_source_for_node_identities_the_request_is_refused() -> None:
    async with running_issuer(for_exempt=False) as bench:
        await exempt(bench)
        assert (await bench.refused()).reason is Reason.POLICY


async def while_asking(
    bench: IssuerBench, entry: PodEntry, change: Callable[[], object]
) -> Issued | RawAnswer | Refusal:
    """Return the outcome of a request if *change* occurs, and is in the cluster cache, while IMDS processes it."""
    bench.imds.gate.clear()
    bench.imds.arrived.clear()
    request = asyncio.create_task(bench.issue())
    await asyncio.wait_for(bench.imds.arrived.wait(), DEADLINE)
    generation = entry.record.generation
    change()
    await until(lambda: entry.record.generation != generation)
    bench.imds.gate.set()
    return await asyncio.wait_for(request, DEADLINE)


async def test_a_pod_whose_exception_ends_during_the_request_keeps_its_own_identity() -> None:
    async with running_issuer() as bench:
        entry = await exempt(bench)
        answer = await while_asking(bench, entry, lambda: bench.cluster.delete_exception(exception()))
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"


async def test_a_label_lost_during_the_request_ends_the_exemption_too() -> None:
    async with running_issuer() as bench:
        entry = await exempt(bench)
        answer = await while_asking(bench, entry, lambda: bench.cluster.put_pod(pod()))
        assert isinstance(answer, Issued)
        assert answer.identity == "ns/id"


def succeed(bench: IssuerBench) -> None:
    bench.cluster.delete_pod()
    bench.cluster.put_pod(pod("other"))


@pytest.mark.parametrize("end", ["deleted", "successor", "rival"])
async def test_a_pod_that_loses_its_address_during_the_request_gets_nothing(end: str) -> None:
    async with running_issuer() as bench:
        entry = await exempt(bench)
        changes: dict[str, Callable[[], object]] = {
            "deleted": bench.cluster.delete_pod,
            "successor": lambda: succeed(bench),
            "rival": lambda: bench.cluster.deliver(pod("rival", uid="uid-2")),
        }
        answer = await while_asking(bench, entry, changes[end])
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.UNKNOWN_ADDRESS


async def test_a_grant_in_progress_is_not_given_to_a_pod_that_becomes_exempt() -> None:
    async with running_issuer() as bench:
        entry = await bench.with_pod(labels=APP)
        answer = await while_asking(bench, entry, lambda: bench.cluster.put_exception(exception(labels=APP)))
        assert isinstance(answer, RawAnswer)
        assert not entry.serves(bench.broker.key_of(assigned_identity().spec.azure_identity_ref, RESOURCE, ""))


async def test_a_held_request_is_sent_to_imds_when_its_pod_becomes_exempt() -> None:
    async with running_issuer() as bench:
        await bench.with_pod(assigned=False, labels=APP)
        pending = asyncio.create_task(bench.issue())
        await until(lambda: bench.issuer._measures.held == 1)
        bench.cluster.put_exception(exception(labels=APP))
        assert isinstance(await asyncio.wait_for(pending, DEADLINE), RawAnswer)


async def test_other_pods_are_not_affected() -> None:
    async with running_issuer() as bench:
        await exempt(bench)
        bench.cluster.put_pod(pod("other", addresses=("10.0.0.2",), label=None))
        await until(lambda: bench.cluster.at("10.0.0.2") is not None)
        assert (await bench.refused(peer="10.0.0.2")).reason is Reason.NOTHING_ASSIGNED
        assert (await raw(bench)).status == 200
        assert bench.cluster.at(ADDRESS) is not None
