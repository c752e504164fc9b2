"""The measurements on the real API server. Each case creates its objects under separate names and returns a Row.

A time is between two observations of the witness: the pod is bound to its node, and its object is Assigned. A case
asserts the outcome before it reports a time.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.controller.cloud import NAMESPACE, POD_SPEC, CaseServers, lease_holder, usage
from podidentity.kube.errors import ApiError
from podidentity.kube.lock_records import LEASES
from podidentity.kube.paths import object_path
from podidentity.resources import BINDING_LABEL, Kind, Resource
from tests.support.objects import identity_id, set_id, vm_id

DEPLOYMENTS: Final = Kind("Deployment", "deployments", Resource, "apps")
RAISED: Final = "--clientQps=500"
LEASE: Final = object_path(LEASES, "default", "aad-pod-identity-mic")
SETTLE_SECONDS: Final = 1.0
"""Before a case begins: nodes and identities have reached MIC."""


@dataclass(frozen=True, slots=True)
class Row:
    """One case with one duration of Azure's operation. It has measured values only."""

    case: str
    operation_seconds: float
    figures: dict[str, float] = field(default_factory=dict)


def spread(waits: Sequence[float]) -> dict[str, float]:
    """Return the median and the maximum of the sorted waits."""
    return {"median_s": statistics.median(waits), "longest_s": waits[-1]}


async def one_pod(case_servers: CaseServers, operation: float, times: int) -> Row:
    """Measure one pod on a new VM, several times."""
    waits = []
    case = f"one-{operation:g}".replace(".", "-")
    names = [f"{case}-{number}" for number in range(times)]
    nodes = await case_servers.nodes([case_servers.vm(name, operation) for name in names], case)
    await asyncio.sleep(SETTLE_SECONDS)
    for name, node in zip(names, nodes, strict=True):
        await case_servers.pods([(name, node, "id-0")])
        await case_servers.all_assigned([name])
        waits += case_servers.timeline.waits([name])
        assert case_servers.cloud.on(vm_id(name)) == {"id-0"}
    vms = [vm_id(name) for name in names]
    arm = {
        "patches": len(case_servers.calls("PATCH", *vms)) / times,
        "gets": len(case_servers.calls("GET", *vms)) / times,
    }
    await cleared(case_servers, names)
    return Row("one pod", operation, spread(sorted(waits)) | arm)


async def forty_pods(case_servers: CaseServers, operation: float, times: int) -> Row:
    """Measure 40 concurrent pods on three VMs, with three identities."""
    totals: list[float] = []
    patches = gets = 0
    for again in range(times):
        case = f"forty-{operation:g}-{again}".replace(".", "-")
        vms = [f"{case}-{number}" for number in range(3)]
        nodes = await case_servers.nodes([case_servers.vm(name, operation) for name in vms], case)
        await asyncio.sleep(SETTLE_SECONDS)
        names = [f"{case}-{number}" for number in range(40)]
        await case_servers.pods((name, nodes[n % 3], f"id-{n % 4}") for n, name in enumerate(names))
        await case_servers.all_assigned(names)
        totals.append(_total(case_servers, names))
        ids = [vm_id(name) for name in vms]
        assert all(case_servers.cloud.on(host_id) == {"id-0", "id-1", "id-2", "id-3"} for host_id in ids)
        patches += len(case_servers.calls("PATCH", *ids))
        gets += len(case_servers.calls("GET", *ids))
        await cleared(case_servers, names)
    return Row(
        "40 pods on 3 VMs",
        operation,
        {"all_s": statistics.median(totals), "patches": patches / times, "gets": gets / times},
    )


async def two_thousand(case_servers: CaseServers, operation: float, rate: str, *, deleted: bool = True) -> list[Row]:
    """Measure the creation and the deletion of 2,000 pods with 20 identities on 30 nodes of one set."""
    case = f"many-{rate}-{operation:g}".replace(".", "-")
    nodes = await case_servers.nodes(case_servers.scale_set(case, 30, operation), case)
    names = [f"{case}-{number:04d}" for number in range(2000)]
    host = set_id(case)
    async with case_servers.mic(*([RAISED] if rate == "raised" else [])) as mic:
        await asyncio.sleep(SETTLE_SECONDS)
        began, written = usage(mic).cpu_seconds, await _writes(case_servers)
        await case_servers.pods((name, nodes[n % 30], f"id-{n % 20}") for n, name in enumerate(names))
        await case_servers.all_assigned(names)
        assert len(case_servers.cloud.on(host)) == 20
        come = Row(
            f"2,000 pods on one set, {rate} rate",
            operation,
            {"all_s": _total(case_servers, names)}
            | {"pods_bound_s": max(case_servers.timeline.bound[name] for name in names) - _first(case_servers, names)}
            | spread(case_servers.timeline.waits(names))
            | {"patches": len(case_servers.calls("PATCH", host)), "gets": len(case_servers.calls("GET", host))}
            | {"writes_a_pod": (await _writes(case_servers) - written) / len(names)}
            | {"cpu_s": usage(mic).cpu_seconds - began, "rss_mib": usage(mic).rss_mib},
        )
        if not deleted:
            return [come]
        patched = len(case_servers.calls("PATCH", host))
        since = time.monotonic()
        await case_servers.remove_case(case)
        removed = time.monotonic() - since
        machine = case_servers.cloud.arm.vm(host)
        await case_servers.until(lambda: not (machine.identities or machine.updating), "the set clean")
        clean = time.monotonic() - since
        await case_servers.all_gone(names, 300.0)
        gone = time.monotonic() - since
        went = Row(
            f"2,000 pods deleted, {rate} rate",
            operation,
            {"pods_deleted_s": removed, "arm_clean_s": clean, "all_s": gone}
            | {"patches": len(case_servers.calls("PATCH", host)) - patched},
        )
    return [come, went]


async def rolling_restart(case_servers: CaseServers, operation: float) -> Row:
    """Measure the restart of a Deployment of 500 pods on 30 nodes of one set: real controller, scheduler and kwok."""
    case = f"rolling-{operation:g}"
    await case_servers.nodes(case_servers.scale_set(case, 30, operation), case)
    template = {
        "metadata": {"labels": {"app": case, BINDING_LABEL: "id-1"}},
        "spec": POD_SPEC | {"nodeSelector": {"bench": case}},
    }
    selector = {"matchLabels": {"app": case}}
    await case_servers.make_objects(
        DEPLOYMENTS,
        [{"metadata": {"name": case}, "spec": {"replicas": 500, "selector": selector, "template": template}}],
    )

    def living() -> set[str]:
        return {name for name in case_servers.timeline.living if name.startswith(case)}

    def all_assigned() -> bool:
        return len(living()) == 500 and living() <= case_servers.timeline.assigned.keys()

    await case_servers.until(all_assigned, "the Deployment's pods Assigned")
    before, host = living(), set_id(case)
    patches, gets = len(case_servers.calls("PATCH", host)), len(case_servers.calls("GET", host))
    began = time.monotonic()
    restart = {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}}
    await case_servers.client.patch_merge(DEPLOYMENTS, NAMESPACE, case, restart)
    await case_servers.until(lambda: all_assigned() and living().isdisjoint(before), "the restart over")
    took = time.monotonic() - began
    after = living()
    row = Row(
        "rolling restart of 500 pods",
        operation,
        {"all_s": took, "last_pod_bound_s": max(case_servers.timeline.bound[name] for name in after) - began}
        | spread(case_servers.timeline.waits(after))
        | {
            "patches": len(case_servers.calls("PATCH", host)) - patches,
            "gets": len(case_servers.calls("GET", host)) - gets,
        },
    )
    await case_servers.client.delete(DEPLOYMENTS, NAMESPACE, case)
    await case_servers.until(lambda: not living(), "the Deployment gone")
    return row


async def slow_next_to_fast(case_servers: CaseServers) -> Row:
    """Measure a pod on a VM with an operation of 5 s, while a set has an operation of 40 s."""
    slow = await case_servers.nodes(case_servers.scale_set("slow", 3, 40.0), "slow")
    fast = await case_servers.nodes([case_servers.vm("fast", 5.0)], "fast")
    await asyncio.sleep(SETTLE_SECONDS)
    on_slow = [f"slow-{number}" for number in range(9)]
    await case_servers.pods((name, slow[n % 3], "id-2") for n, name in enumerate(on_slow))
    await case_servers.until(lambda: len(case_servers.calls("PATCH", set_id("slow"))) == 1, "the set busy")
    await case_servers.pods([("fast-0", fast[0], "id-2")])
    await case_servers.all_assigned(["fast-0"])
    assert case_servers.timeline.assigned.keys().isdisjoint(on_slow), "the slow set was not slow"
    await case_servers.all_assigned(on_slow)
    row = Row(
        "a fast VM and a set that takes 40 s",
        5.0,
        {"fast_s": case_servers.timeline.waits(["fast-0"])[0], "slow_s": case_servers.timeline.waits(on_slow)[-1]},
    )
    await cleared(case_servers, [*on_slow, "fast-0"])
    return row


async def one_bad(case_servers: CaseServers) -> Row:
    """Measure 20 identities for one VM, one of which Azure refuses, with a new pod elsewhere each second."""
    names = [f"some-{number}" for number in range(20)]
    await case_servers.identities(names)
    case_servers.cloud.arm.marked.failing.add(identity_id(names[7]).lower())
    (node,) = await case_servers.nodes([case_servers.vm("bad", 0.2)], "bad")
    (other,) = await case_servers.nodes([case_servers.vm("other", 0.2)], "other")
    await asyncio.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    await case_servers.pods((name, node, name) for name in names)
    good = [name for name in names if name != names[7]]
    await case_servers.all_assigned(good)
    healed = case_servers.timeline.waits(good)[-1]
    bystanders: list[str] = []
    while time.monotonic() < began + 40.0:
        bystanders.append(f"bystander-{len(bystanders)}")
        await case_servers.pods([(bystanders[-1], other, "id-3")])
        await asyncio.sleep(1.0)
    calls = [call.at - began for call in case_servers.calls("PATCH", vm_id("bad"))]
    assert names[7] not in case_servers.timeline.assigned
    row = Row(
        "one bad identity of 20",
        0.2,
        {
            "others_assigned_s": healed,
            "patches_in_8_s": sum(at < 8 for at in calls),
            "patches_from_8_to_40_s": sum(8 <= at < 40 for at in calls),
            "gets_from_8_to_40_s": sum(8 <= call.at - began < 40 for call in case_servers.calls("GET", vm_id("bad"))),
        },
    )
    await cleared(case_servers, [*names, *bystanders])
    return row


async def handing_over(case_servers: CaseServers) -> AsyncIterator[Row]:
    """Measure two replicas whose leader is stopped or killed."""
    for how, times in (("a clean stop", 3), ("kill -9", 1)):
        seconds = []
        for _ in range(times):
            async with case_servers.mic() as first:
                waiting = await case_servers.cloud.mic(active=False)
                held = await _holder(case_servers)
                await asyncio.sleep(SETTLE_SECONDS)
                began = time.monotonic()
                if how == "kill -9":
                    first.process.kill()
                else:
                    first.process.terminate()
                while (await _holder(case_servers)) in {"", held}:
                    await asyncio.sleep(0.02)
                seconds.append(time.monotonic() - began)
                await first.process.wait()
                await waiting.stop()
        yield Row(f"another leads after {how}", 0.0, {"seconds": statistics.median(seconds)})


async def cleared(case_servers: CaseServers, pods: Sequence[str]) -> None:
    """Delete the pods and wait until their objects are deleted."""
    await case_servers.remove_pods(pods)
    await case_servers.all_gone(pods)


async def _holder(case_servers: CaseServers) -> str:
    with contextlib.suppress(ApiError):
        return lease_holder(await case_servers.client.request("GET", LEASE))
    return ""


def _first(case_servers: CaseServers, names: Sequence[str]) -> float:
    return min(case_servers.timeline.bound[name] for name in names)


def _total(case_servers: CaseServers, names: Sequence[str]) -> float:
    """Return the time from the first bound pod to the last Assigned one."""
    return max(case_servers.timeline.assigned[name] for name in names) - _first(case_servers, names)


async def _writes(case_servers: CaseServers) -> float:
    """Return the number of writes of AzureAssignedIdentities that the API server has counted."""
    page = (await case_servers.client.request("GET", "/metrics")).decode()
    lines = [line for line in page.splitlines() if line.startswith("apiserver_request_total{")]
    ours = [line for line in lines if 'resource="azureassignedidentities"' in line]
    verbs = ('verb="POST"', 'verb="PATCH"', 'verb="DELETE"')
    return sum(float(line.rpartition(" ")[2]) for line in ours if any(verb in line for verb in verbs))


def rounded(row: Row) -> dict[str, Any]:
    """Return the values for the results file."""
    figures = {name: round(value, 3) for name, value in row.figures.items()}
    return {"case": row.case, "operation_seconds": row.operation_seconds, **figures}
