"""Pods that get other tokens than those of assigned identities, or on another path; and managed mode.

Exempt pods get IMDS's response unchanged, and no other pod does. A mirror pod gets no token on any path: the kubelet of
its node chose its namespace, its name and its labels. A process of the node requests tokens for a pod that it names.
Excluded: which pods are exempt, the process's permission, and finding the pod.
"""

import asyncio
from typing import Any

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import SelectorKind, TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.tokens.governor import CongestedError
from nmi.tokens.source import Issued
from podidentity.azure.errors import Throttled, Unreachable
from podidentity.azure.imds import RawResponse
from podidentity.resources import CREATED, OwnerReference
from tests.support.nmi.identity.cluster import DEADLINE
from tests.support.nmi.imds import HANG
from tests.support.nmi.token_service_bench import ServiceBench, refused_after, running_token_service
from tests.support.nmi.tokens.fakes import FakeSource
from tests.support.nmi_objects import (
    ADDRESS,
    CLIENT_ID,
    OTHER_ID,
    REQUEST,
    RESOURCE,
    assigned_identity,
    binding,
    by,
    exception,
    identity,
    pod,
    resource_id,
)
from tests.support.virtual_time import now
from tests.support.waiting import until

APP = {"app": "web"}


async def exempt(bench: ServiceBench, **changes: Any) -> PodEntry:
    """Put a pod with an assigned identity under an exception."""
    bench.cluster.put(exception(labels=APP))
    entry = await bench.with_pod(**({"labels": APP} | changes))
    await until(lambda: bool(entry.facts.exempt))
    return entry


async def raw(bench: ServiceBench, request: TokenRequest = REQUEST) -> RawResponse:
    response = await bench.issue(request)
    assert isinstance(response, RawResponse), response
    return response


@pytest.mark.parametrize(
    ("request_", "named"),
    [(REQUEST, {}), (by(SelectorKind.RESOURCE_ID, resource_id("any")), {"msi_res_id": resource_id("any")})],
    ids=["the node's own identity", "an identity that is not assigned"],
)
async def test_each_request_of_an_exempt_pod_is_sent_to_imds_as_it_is(
    bench: ServiceBench, request_: TokenRequest, named: dict[str, str]
) -> None:
    entry = await exempt(bench)
    for number in (1, 2):
        response = await raw(bench, request_)
        assert (response.status, b"access_token" in response.body) == (200, True)
        assert len(bench.imds.calls) == number
        query = bench.imds.calls[-1].query
        assert query == {"api-version": query["api-version"], "resource": RESOURCE, **named}
    assert entry.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None


async def test_an_imds_that_does_not_respond_is_a_refusal_within_the_budget() -> None:
    async with running_token_service(policy=DecisionPolicy(max_hold_seconds=5.0)) as bench:
        await exempt(bench)
        bench.imds.script = [HANG]
        began = now()
        assert (await bench.refused()).reason is Reason.UPSTREAM_UNAVAILABLE
        assert now() - began == pytest.approx(5.0)


class Failing:
    """A source of the node's identities that raises. It records the charged pod and the remaining time."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.requests: list[tuple[str, float]] = []

    async def token(self, request: TokenRequest, starter: str, within: float) -> RawResponse:
        self.requests.append((starter, within))
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(Unreachable("connection refused"), Reason.UPSTREAM_UNAVAILABLE, id="no-connection"),
        pytest.param(Throttled("too many", retry_after=7.0), Reason.UPSTREAM_THROTTLED, id="throttled"),
        pytest.param(CongestedError(3.0), Reason.OVERLOADED, id="queue-full"),
    ],
)
async def test_a_failed_call_is_a_refusal_charged_to_the_pod(
    bench: ServiceBench, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason
) -> None:
    await exempt(bench)
    source = Failing(error)
    monkeypatch.setattr(bench.service, "_node_identities", source)
    assert (await bench.refused()).reason is reason
    [(starter, within)] = source.requests
    assert starter == "ns/web"
    assert DecisionPolicy().max_hold_seconds - 5.0 < within <= DecisionPolicy().max_hold_seconds


async def test_a_held_request_is_sent_to_imds_when_its_pod_becomes_exempt(bench: ServiceBench) -> None:
    await bench.with_pod(assigned=False, labels=APP)
    pending = asyncio.create_task(bench.issue())
    await until(lambda: bench.service._measures.held == 1)
    bench.cluster.put(exception(labels=APP))
    assert isinstance(await asyncio.wait_for(pending, DEADLINE), RawResponse)


OWNED: dict[str, Any] = {"owner": OwnerReference(api_version="v1", kind="Node", name="node-1", controller=True)}


@pytest.mark.parametrize("mark", [OWNED, {"mirror": True}], ids=["owned-by-its-node", "annotated"])
@pytest.mark.parametrize("managed", [False, True], ids=["standard", "managed"])
async def test_a_mirror_pod_gets_nothing_in_spite_of_an_exception_and_of_identities(
    managed: bool, mark: dict[str, Any]
) -> None:
    """On both paths, as a pod without identities, and with the cause for the operator."""
    async with running_token_service(managed=managed) as bench:
        bench.cluster.put(exception(labels=APP), assigned_identity(), binding(), identity())
        bench.cluster.put_pod(pod(labels=APP, **mark))
        await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned and entry.facts.exempt))
        for ask in (bench.issue, bench.issue_for):
            refusal, seconds = await refused_after(ask())
            assert (refusal.reason, refusal.sentence, seconds) == (Reason.NOTHING_ASSIGNED, "Identity not found", 0.0)
            assert "mirror pod" in refusal.detail
        assert bench.imds.calls == []


async def issued(bench: ServiceBench, name: str = "web", request: TokenRequest = REQUEST) -> Issued:
    response = await bench.issue_for(name, request)
    assert isinstance(response, Issued), response
    return response


async def refused(bench: ServiceBench, name: str = "web", request: TokenRequest = REQUEST) -> Refusal:
    response = await bench.issue_for(name, request)
    assert isinstance(response, Refusal), response
    return response


@pytest.mark.parametrize("host_network", [True, False], ids=["host-network", "own-network"])
async def test_the_identity_of_the_named_pod_is_used(bench: ServiceBench, host_network: bool) -> None:
    uid = bench.cluster.put_pod(pod(host_network=host_network))
    bench.cluster.put(assigned_identity())
    response = await issued(bench)
    assert (response.pod, response.uid, response.identity) == ("ns/web", uid, "ns/id")
    assert response.token.client_id == CLIENT_ID
    assert not response.cacheable
    bench.cluster.put(assigned_identity("another", client_id=OTHER_ID))
    response = await issued(bench, request=by(SelectorKind.CLIENT_ID, OTHER_ID))
    assert response.identity == "ns/another"


async def test_a_request_is_held_like_any_other(bench: ServiceBench) -> None:
    bench.cluster.put_pod(pod(host_network=True))
    bench.cluster.put_pod(pod("ends", host_network=True))
    bench.cluster.put(assigned_identity(status=CREATED))
    pending, ends = asyncio.create_task(issued(bench)), asyncio.create_task(refused(bench, "ends"))
    await until(lambda: bench.held_requests == 2)
    bench.cluster.put(assigned_identity())
    bench.cluster.delete_pod("ends")
    assert (await asyncio.wait_for(pending, DEADLINE)).identity == "ns/id"
    assert (await asyncio.wait_for(ends, DEADLINE)).reason is Reason.UNKNOWN_ADDRESS


async def test_the_operator_learns_where_to_look_for_a_pod_that_is_not_known_here() -> None:
    async with running_token_service(park_seconds=0.1) as bench:
        refusal = await refused(bench, "absent")
        assert refusal.reason is Reason.UNKNOWN_ADDRESS
        assert "its pod does not run here, has finished, or is not known yet" in refusal.detail
        assert bench.imds.calls == []


async def test_only_types_that_the_policy_lists_are_served() -> None:
    policy = DecisionPolicy(host_token_types=frozenset((1,)))
    async with running_token_service(policy=policy, sources={1: FakeSource()}) as bench:
        bench.cluster.put_pod(pod(host_network=True))
        bench.cluster.put_pod(pod("other", host_network=True))
        bench.cluster.put(assigned_identity(type_=1))
        bench.cluster.put(assigned_identity(pod_name="other"))
        assert (await issued(bench)).identity == "ns/id"
        refusal = await refused(bench, "other")
        assert refusal.reason is Reason.POLICY
        assert "--host-token-types" in refusal.detail
        entry = bench.cluster.cluster_cache.pods.get("ns", "web")
        assert entry is not None
        bench.cluster.put(assigned_identity(type_=4))
        await until(lambda: [assigned.identity.spec.type for assigned in entry.assigned] == [4])
        assert (await refused(bench)).reason is Reason.POLICY
        assert bench.imds.calls == []


async def test_an_empty_list_of_types_disables_the_path_before_any_lookup() -> None:
    async with running_token_service(policy=DecisionPolicy(host_token_types=frozenset())) as bench:
        bench.cluster.put_pod(pod(host_network=True))
        assert (await refused(bench)).reason is Reason.POLICY
        assert (await refused(bench, "absent")).reason is Reason.POLICY
        assert bench.cluster.reads() == []


@pytest.mark.parametrize("selector", SelectorKind)
async def test_the_nodes_own_identities_are_never_returned_here(selector: SelectorKind) -> None:
    request = REQUEST if selector is SelectorKind.NONE else by(selector, CLIENT_ID)
    async with running_token_service() as bench:
        bench.cluster.put(exception(labels={"app": "web"}))
        bench.cluster.put_pod(pod(host_network=True, labels={"app": "web"}))
        bench.cluster.put(assigned_identity())
        cache = bench.cluster.cluster_cache
        await until(lambda: list(cache.entries()) and cache.state()["exceptions"])
        assert (await refused(bench, request=request)).reason is Reason.NO_MATCHING_IDENTITY
        assert bench.imds.calls == []


async def test_an_answer_of_this_path_never_becomes_a_ready_response_of_the_pod(bench: ServiceBench) -> None:
    entry = await bench.with_pod()
    await issued(bench)
    assert not entry.serves(bench.broker.key_of(assigned_identity().spec.azure_identity_ref, RESOURCE, "").lasting)
    assert (await bench.issued()).cacheable


POLICY = DecisionPolicy(force_namespaced=True)


async def bound(bench: ServiceBench, type_: int = 0) -> None:
    """A pod with an identity, as the cluster cache has seen it."""
    bench.cluster.put(binding())
    bench.cluster.put(identity(type_=type_))
    bench.cluster.put_pod(pod())
    await until(lambda: bool((entry := bench.cluster.at(ADDRESS)) and entry.assigned))


async def test_a_request_is_held_until_binding_and_identity_exist() -> None:
    async with running_token_service(managed=True, policy=POLICY) as bench:
        bench.cluster.put_pod(pod())
        pending = asyncio.create_task(bench.issue())
        await until(lambda: bench.service._measures.held == 1)
        bench.cluster.put(binding())
        bench.cluster.put(identity())
        issued = await asyncio.wait_for(pending, DEADLINE)
        assert isinstance(issued, Issued)
        assert (issued.identity, issued.token.client_id, issued.cacheable) == ("ns/id", CLIENT_ID, True)


@pytest.mark.parametrize("type_", [1, 3])
async def test_other_types_are_served_too(type_: int) -> None:
    source = FakeSource(per_pod=type_ == 3)
    async with running_token_service(managed=True, policy=POLICY, sources={type_: source}) as bench:
        await bound(bench, type_)
        assert (await bench.issued()).token.resource == RESOURCE
        assert len(source.requests) == 1
