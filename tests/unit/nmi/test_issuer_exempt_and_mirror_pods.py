"""Exempt pods get IMDS's response unchanged, and no other pod does. A mirror pod gets no token on any path.

The kubelet of a mirror pod's node chose its namespace, its name and its labels. Excluded: which pods are exempt.
"""

import asyncio
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
from tests.support.nmi.identity.cluster import DEADLINE
from tests.support.nmi.imds import HANG
from tests.support.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi_objects import ADDRESS, REQUEST, RESOURCE, binding, by, exception, identity, pod, resource_id
from tests.support.virtual_time import now
from tests.support.waiting import until

APP = {"app": "web"}
MIC = {
    "labels": {"component": "mic"},
    "owner": OwnerReference(kind="ReplicaSet", name="mic-1", controller=True),
    "label": None,
}


async def exempt(bench: IssuerBench, **changes: Any) -> PodEntry:
    """Put a pod with an assigned identity under an exception."""
    bench.cluster.put(exception(labels=APP))
    entry = await bench.with_pod(**({"labels": APP} | changes))
    await until(lambda: bool(entry.facts.exempt))
    return entry


async def raw(bench: IssuerBench, request: TokenRequest = REQUEST) -> RawAnswer:
    answer = await bench.issue(request)
    assert isinstance(answer, RawAnswer), answer
    return answer


@pytest.mark.parametrize(
    ("request_", "named"),
    [(REQUEST, {}), (by(SelectorKind.RESOURCE_ID, resource_id("any")), {"msi_res_id": resource_id("any")})],
    ids=["the node's own identity", "an identity that is not assigned"],
)
async def test_each_request_of_an_exempt_pod_is_sent_to_imds_as_it_is(
    bench: IssuerBench, request_: TokenRequest, named: dict[str, str]
) -> None:
    entry = await exempt(bench)
    for number in (1, 2):
        answer = await raw(bench, request_)
        assert (answer.status, b"access_token" in answer.body) == (200, True)
        assert len(bench.imds.calls) == number
        query = bench.imds.calls[-1].query
        assert query == {"api-version": query["api-version"], "resource": RESOURCE, **named}
    assert entry.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None


async def test_mics_own_pod_requires_no_exception() -> None:
    async with running_issuer(mic_namespace="ns") as bench:
        await bench.with_pod(assigned=False, **MIC)
        assert (await raw(bench)).status == 200
    async with running_issuer(mic_namespace="elsewhere") as bench:
        await bench.with_pod(assigned=False, **MIC)
        assert (await bench.refused()).reason is Reason.NOTHING_ASSIGNED


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
async def test_a_failed_call_is_a_refusal_charged_to_the_pod(
    bench: IssuerBench, error: Exception, reason: Reason
) -> None:
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


async def test_a_held_request_is_sent_to_imds_when_its_pod_becomes_exempt(bench: IssuerBench) -> None:
    await bench.with_pod(assigned=False, labels=APP)
    pending = asyncio.create_task(bench.issue())
    await until(lambda: bench.issuer._measures.held == 1)
    bench.cluster.put(exception(labels=APP))
    assert isinstance(await asyncio.wait_for(pending, DEADLINE), RawAnswer)


OWNED: dict[str, Any] = {"owner": OwnerReference(api_version="v1", kind="Node", name="node-1", controller=True)}
ANNOTATED: dict[str, Any] = {"mirror": True}
MARKS = pytest.mark.parametrize("mark", [OWNED, ANNOTATED], ids=["owned-by-its-node", "annotated"])


async def refused_at_once(bench: IssuerBench) -> None:
    """On both paths, as a pod without identities is, and with the cause for the operator."""
    for ask in (bench.issue, bench.issue_for):
        began = now()
        answer = await ask()
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.sentence) == (Reason.NOTHING_ASSIGNED, "Identity not found")
        assert "mirror pod" in answer.detail
        assert now() - began == 0.0
    assert bench.imds.calls == []


@MARKS
async def test_an_assigned_identity_is_not_served_to_a_mirror_pod(bench: IssuerBench, mark: dict[str, Any]) -> None:
    await bench.with_pod(**mark)
    await refused_at_once(bench)


@MARKS
async def test_managed_mode_serves_a_mirror_pod_no_bound_identity(mark: dict[str, Any]) -> None:
    async with running_issuer(managed=True, policy=DecisionPolicy(force_namespaced=True, managed=True)) as bench:
        bench.cluster.put(binding())
        bench.cluster.put(identity())
        bench.cluster.put_pod(pod(**mark))
        await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))
        await refused_at_once(bench)


@MARKS
async def test_no_exception_gives_a_mirror_pod_the_nodes_own_identities(
    bench: IssuerBench, mark: dict[str, Any]
) -> None:
    bench.cluster.put(exception(labels={"app": "web"}))
    await bench.with_pod(assigned=False, labels={"app": "web"}, **mark)
    await until(lambda: bool(bench.cluster.cluster_cache.state()["exceptions"]))
    await refused_at_once(bench)


async def test_a_mirror_pod_does_not_count_as_mics_own_pod() -> None:
    async with running_issuer(mic_namespace="ns") as bench:
        owner = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="mic-1", controller=True)
        await bench.with_pod(assigned=False, label=None, labels={"component": "mic"}, owner=owner, mirror=True)
        await refused_at_once(bench)


async def test_a_pod_of_a_daemonset_gets_its_token(bench: IssuerBench) -> None:
    owner = OwnerReference(api_version="apps/v1", kind="DaemonSet", name="agent", controller=True)
    await bench.with_pod(owner=owner)
    assert isinstance(await bench.issue(), Issued)
    assert isinstance(await bench.issue_for(), Issued)
