"""MIC at the design point on the real API server: 10,000 pods, their identities assigned, 1,000 nodes, 500 bindings.

Half of the nodes are VMs, the others belong to scale sets of 25 nodes; each pod has one identity. kwok is not used:
for 1,000 nodes it would need both cores.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.controller import stream
from benchmarks.controller.cases import Row
from benchmarks.controller.cloud import NAMESPACE, POD_SPEC, CaseServers, usage
from benchmarks.controller.stream import Size
from podidentity.azure.resource_ids import Host, parse_provider_id
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    NODES,
    POD_UID_ANNOTATION,
    PODS,
)
from tests.support.mic.emulated_cloud import Mic

DESIGN: Final = Size(10_000, 1_000, 500)
LOOK_SECONDS: Final = 30
"""Instead of 180, so that the run includes a whole interval."""
EVENTS: Final = 1000
OPERATION_SECONDS: Final = 5.0
QUIET_SHARE: Final = 0.05
"""The share of one core during a second, without the reads of hosts, below which MIC is idle."""
READ_CPU_SECONDS: Final = 0.004
"""CPU time that is subtracted for each read of a host: as much as MIC used on an idle VM, mostly for wake-ups, before
its reads became cheaper."""
LIMIT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Quiet:
    """The end of the wait."""

    since: float
    """The start of the first idle second, or of the last second; by the clock."""
    share: float
    """The share of one core during that second, with the reads."""
    reached: bool
    """Whether MIC became idle within the limit."""


async def until_quiet(
    cpu_seconds: Callable[[], float],
    reads: Callable[[], int],
    *,
    limit_seconds: float = LIMIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Quiet:
    """Wait for an idle second, at most *limit_seconds*. *cpu_seconds* and *reads* return MIC's CPU time and the number
    of its reads of hosts until now."""
    began = clock()
    while True:
        since, cpu, read = clock(), cpu_seconds(), reads()
        await sleep(1.0)
        took = clock() - since
        used = cpu_seconds() - cpu
        reached = used - READ_CPU_SECONDS * (reads() - read) < QUIET_SHARE * took
        if reached or clock() - began >= limit_seconds:
            return Quiet(since, used / took, reached)


async def at_the_design_point(case_servers: CaseServers, size: Size = DESIGN) -> AsyncIterator[Row]:
    """Create all objects in the cluster and in Azure, then start MIC."""
    yield Row("start, nothing in the cluster", 0.0, await _started(case_servers))
    hosts = await _fill(case_servers, size)
    yield Row("start, all assigned", 0.0, await _started(case_servers))
    assert case_servers.cloud.arm.writes() == [], "a start with everything assigned has changed Azure"
    async with case_servers.mic(f"--identity-assignment-reconcile-interval={LOOK_SECONDS}s") as mic:
        await _quiet(case_servers, mic)
        yield Row("one unrelated pod event", 0.0, await _event_cost(case_servers, mic, size))
        yield Row("one pod at that size", OPERATION_SECONDS, await _one_more(case_servers, size))
        idle = await _idle(case_servers, mic) | {"hosts": len(hosts)}
        assert idle["gets"] > 0
        yield Row("idle, one interval", 0.0, idle)


async def _started(case_servers: CaseServers) -> dict[str, float]:
    """Start MIC and wait until it is idle, or until the limit of that wait."""
    reads, began = len(case_servers.cloud.arm.reads()), time.monotonic()
    async with case_servers.mic() as mic:
        active = time.monotonic() - began
        at_active = usage(mic)
        quiet = await _quiet(case_servers, mic)
        now = usage(mic)
        return {
            "active_s": active,
            "cpu_until_active_s": at_active.cpu_seconds,
            "quiet_s": quiet.since - began,
            "quiet": quiet.reached,
            "idle_share": quiet.share,
            "cpu_s": now.cpu_seconds,
            "rss_mib": now.rss_mib,
            "peak_mib": now.peak_mib,
            "gets": len(case_servers.cloud.arm.reads()) - reads,
        }


async def _quiet(case_servers: CaseServers, mic: Mic) -> Quiet:
    return await until_quiet(lambda: usage(mic).cpu_seconds, lambda: len(case_servers.cloud.arm.reads()))


async def _fill(case_servers: CaseServers, size: Size) -> list[Host]:
    """Assign all identities in the cluster and in Azure. Return the hosts."""
    hosts = _azure(case_servers, size)
    await case_servers.make_objects(NODES, (_stripped(stream.node(number)) for number in range(size.nodes)))
    await case_servers.make_objects(IDENTITIES, (_stripped(stream.identity(number)) for number in range(size.bindings)))
    await case_servers.make_objects(BINDINGS, (_stripped(stream.binding(number)) for number in range(size.bindings)))
    await case_servers.make_objects(PODS, (_pod(number, size) for number in range(size.pods)))
    uids = {pod.metadata.name: pod.metadata.uid for pod in await case_servers.client.list(PODS, NAMESPACE)}
    await case_servers.make_objects(ASSIGNED_IDENTITIES, (_assigned(number, size, uids) for number in range(size.pods)))
    return hosts


def _azure(case_servers: CaseServers, size: Size) -> list[Host]:
    hosts: dict[str, Host] = {}
    for number in range(size.bindings):
        case_servers.cloud.directory.add_identity(stream.identity_id(number), client_id=_client_id(number))
    for number in range(size.nodes):
        host = parse_provider_id(f"azure://{stream.host_id(number)}")
        assert host is not None
        if host.key not in hosts:
            hosts[host.key] = host
            add = case_servers.cloud.arm.add_vm if number % 2 == 0 else case_servers.cloud.arm.add_vmss
            add(host.text, operation_seconds=OPERATION_SECONDS)
        identity = case_servers.cloud.directory.identity(stream.identity_id(number % size.bindings))
        assert identity is not None
        case_servers.cloud.arm.vm(host.text).attach(identity)
    return list(hosts.values())


def _client_id(number: int) -> str:
    return str(stream.identity(number)["spec"]["clientID"])


def _stripped(document: dict[str, Any]) -> dict[str, Any]:
    """Return a pod without the fields that the API server sets."""
    meta = {key: document["metadata"][key] for key in ("name", "labels") if key in document["metadata"]}
    return {"metadata": meta, "spec": document["spec"]}


def _pod(number: int, size: Size) -> dict[str, Any]:
    made = stream.pod(number, size)
    node = made["spec"]["nodeName"]
    return {"metadata": _stripped(made)["metadata"], "spec": POD_SPEC | {"nodeName": node}}


def _assigned(number: int, size: Size, uids: dict[str, str]) -> dict[str, Any]:
    """Return the object that MIC would write for a pod with this uid."""
    made = stream.assigned(number, size)
    pod = made["spec"]["pod"]
    for embedded in ("azureIdentityRef", "azureBindingRef"):
        del made["spec"][embedded]["metadata"]["uid"]
    made["spec"]["podNamespace"] = NAMESPACE
    kept = {key: made["metadata"][key] for key in ("annotations", "labels", "finalizers")}
    kept["annotations"][POD_UID_ANNOTATION] = uids[pod]
    name = made["metadata"]["name"].replace("-workloads-", f"-{NAMESPACE}-")
    return made | {"metadata": {"name": name, **kept}}


async def _event_cost(case_servers: CaseServers, mic: Mic, size: Size) -> dict[str, float]:
    """Measure CPU time per irrelevant change of a pod."""
    before = usage(mic).cpu_seconds
    step = size.pods // EVENTS

    async def touch(number: int) -> None:
        name = stream.pod(number * step, size)["metadata"]["name"]
        await case_servers.client.patch_merge(PODS, NAMESPACE, name, {"metadata": {"annotations": {"touched": "now"}}})

    began = time.monotonic()
    await case_servers.together(touch(number) for number in range(EVENTS))
    await asyncio.sleep(0.5)
    took, cpu = time.monotonic() - began, usage(mic).cpu_seconds - before
    return {"events": EVENTS, "cpu_ms_each": cpu / EVENTS * 1000, "events_per_s": EVENTS / took}


async def _one_more(case_servers: CaseServers, size: Size, times: int = 3) -> dict[str, float]:
    """Measure pods with an identity that is not attached to their VM."""
    waits = []
    for again in range(times):
        name, label = f"one-more-{again}", stream.pod(3, size)["metadata"]["labels"][BINDING_LABEL]
        await case_servers.pods([(name, f"node-{2 * again:06d}", label)])
        await case_servers.all_assigned([name])
        waits += case_servers.timeline.waits([name])
    return {"median_s": statistics.median(waits), "longest_s": max(waits)}


async def _idle(case_servers: CaseServers, mic: Mic) -> dict[str, float]:
    reads, began = len(case_servers.cloud.arm.reads()), time.monotonic()
    writes, before = len(case_servers.cloud.arm.writes()), usage(mic)
    await asyncio.sleep(LOOK_SECONDS)
    after, took = usage(mic), time.monotonic() - began
    calls = [call.at - began for call in case_servers.cloud.arm.reads()[reads:]]
    assert len(case_servers.cloud.arm.writes()) == writes, "an idle MIC has changed Azure"
    seconds = [sum(int(at) == second for at in calls) for second in range(LOOK_SECONDS)]
    return {
        "gets": len(calls),
        "most_gets_in_a_second": max(seconds),
        "interval_s": LOOK_SECONDS,
        "cpu_s": after.cpu_seconds - before.cpu_seconds,
        "idle_share": (after.cpu_seconds - before.cpu_seconds) / took,
        "wake_ups_a_second": (after.wake_ups - before.wake_ups) / took,
        "rss_mib": after.rss_mib,
    }
