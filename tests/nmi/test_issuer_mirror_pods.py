"""A mirror pod gets no token on any path: its node's kubelet chose its namespace, its name and its labels."""

from typing import Any

import pytest

from nmi.identity.decide import DecisionPolicy
from nmi.issuer import Issued
from nmi.refusal import Reason, Refusal
from podidentity.resources import OwnerReference
from tests.nmi.issuer_bench import IssuerBench, running_issuer
from tests.support.nmi_objects import ADDRESS, binding, exception, identity, pod
from tests.support.waiting import until
from tests.virtual_time import now

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
async def test_an_assigned_identity_is_not_served_to_a_mirror_pod(mark: dict[str, Any]) -> None:
    async with running_issuer() as bench:
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
async def test_no_exception_gives_a_mirror_pod_the_nodes_own_identities(mark: dict[str, Any]) -> None:
    async with running_issuer() as bench:
        bench.cluster.put(exception(labels={"app": "web"}))
        await bench.with_pod(assigned=False, labels={"app": "web"}, **mark)
        await until(lambda: bool(bench.cluster.cluster_cache.state()["exceptions"]))
        await refused_at_once(bench)


async def test_a_mirror_pod_does_not_count_as_mics_own_pod() -> None:
    async with running_issuer(mic_namespace="ns") as bench:
        owner = OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="mic-1", controller=True)
        await bench.with_pod(assigned=False, label=None, labels={"component": "mic"}, owner=owner, mirror=True)
        await refused_at_once(bench)


async def test_a_pod_of_a_daemonset_gets_its_token() -> None:
    async with running_issuer() as bench:
        owner = OwnerReference(api_version="apps/v1", kind="DaemonSet", name="agent", controller=True)
        await bench.with_pod(owner=owner)
        assert isinstance(await bench.issue(), Issued)
        assert isinstance(await bench.issue_for(), Issued)
