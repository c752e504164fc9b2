"""A tenant fills a real API server with objects of the maximum size.

MIC and NMI become Active, continue to work, and need little memory. `make test-measures` runs the test with a tenth of
the objects, `make hostile-objects` with all. The figures are printed (`-s`).
"""

import asyncio
import http.client
import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL, BINDINGS, EXCEPTIONS, IDENTITIES, PODS, Kind
from podidentity_sandbox.serving import free_ports
from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.machine_pauses import recorded_pauses
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until, until_sync

EVERYTHING = os.environ.get("HOSTILE_OBJECTS") == "all"
EXCEPTION_COUNT, POD_COUNT = (300, 250) if EVERYTHING else (30, 25)
MIB = 1 << 20
TENANT = "hostile"
NMI_SECONDS, NMI_MIB = 30.0, 200
MIC_SECONDS, MIC_MIB = 60.0, 300
STALL_SECONDS = 0.2
LEAST_SECONDS = 0.05
"""Shorter pauses of the machine do not matter for the limit above."""

pytestmark = [pytest.mark.plane, pytest.mark.measures, pytest.mark.timeout(900 if EVERYTHING else 240)]


def write(
    plane: Plane, kind: Kind[Any], name: str, spec: Any, labels: dict[str, str] | None = None, **meta: Any
) -> None:
    metadata = {"name": name, "labels": labels or {}, **meta}
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}
    plane.api("POST", kind.path(TENANT), document)


def pod_spec(padding: str, *, node: str = "") -> dict[str, Any]:
    container = {"name": "c", "image": "i", "env": [{"name": "PADDING", "value": padding}]}
    placed = {"nodeName": node} if node else {}
    return {"containers": [container], "automountServiceAccountToken": False, **placed}


def write_nested(plane: Plane, name: str) -> None:
    """An identity with a field of 400 kB of brackets, 2,000 deep, which Python's writer of JSON cannot write."""
    metadata = {"name": name, "namespace": TENANT}
    document = {"apiVersion": IDENTITIES.api_version, "kind": IDENTITIES.name, "metadata": metadata, "spec": {"x": 0}}
    brackets = ",".join(["[" * 2000 + "]" * 2000] * 100)
    connection = http.client.HTTPSConnection(plane.api.host, context=plane.api.context, timeout=60)
    headers = {"Authorization": f"Bearer {plane.token}", "Content-Type": "application/json"}
    body = json.dumps(document).replace('"x": 0', f'"x": [{brackets}]')
    connection.request("POST", IDENTITIES.path(TENANT), body, headers)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


def fill(plane: Plane) -> None:
    """All of a tenant's objects, several of each kind of trouble."""
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": TENANT}})
    until_sync(lambda: bool(plane.api("GET", f"/api/v1/namespaces/{TENANT}/serviceaccounts")["items"]))

    def exception(number: int) -> None:
        # Most are one long text, which the API server takes fast; some are as many short ones as it takes.
        many = {f"key-{each:05}": "x" * 95 for each in range(10_000)}
        write(plane, EXCEPTIONS, f"e{number:03}", {"podLabels": many if number < 3 else {"x": "x" * MIB}})

    def pod(number: int) -> None:
        write(plane, PODS, f"p{number:03}", pod_spec("x" * 1_200_000), {BINDING_LABEL: "demo"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(exception, range(EXCEPTION_COUNT)))
        list(pool.map(pod, range(POD_COUNT)))
    # On the node itself, so that both programs read it: it fits etcd, and JSON makes it larger than any answer.
    write(plane, PODS, "expanding", pod_spec("\x01" * 490_000, node="n0"), {BINDING_LABEL: TENANT})
    write(plane, PODS, "large-on-the-node", pod_spec("x" * 1_200_000, node="n0"), {BINDING_LABEL: TENANT})
    write(plane, IDENTITIES, "long", {"type": 0, "clientID": "x" * MIB, "resourceID": "x" * 1000})
    write_nested(plane, "deep")
    write(plane, BINDINGS, "long", {"azureIdentity": "x" * MIB, "selector": "demo"})


def peak_mib(pid: int) -> float:
    """Most memory that the process has ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def value(metrics: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(name))


async def active(port: int, seconds: float, read_log: Callable[[], str]) -> float:
    """Seconds until the program on this probe port is Active."""
    began = time.monotonic()

    await until(
        lambda: asyncio.to_thread(page, port, "/healthz"),
        lambda: read_log()[-3000:],
        holds="Active".__eq__,
        ignoring=OSError,
    )
    return time.monotonic() - began


@asynccontextmanager
async def running_nmi(kubeconfig: Path, log: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    ports = free_ports(3)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nmi", "--node=n0", "--redirect=none", f"--kubeconfig={kubeconfig}"),
            *(f"--nmi-port={ports[0]}", f"--http-probe-port={ports[1]}", f"--prometheus-port={ports[2]}"),
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        yield process, ports[1], ports[2]
    finally:
        process.terminate()
        await process.wait()


async def seconds_to_assign(real: Plane, name: str, others: Iterable[str]) -> float:
    began = time.monotonic()
    await asyncio.to_thread(run_pod, real, name, "n0")
    await assigned(real, **dict.fromkeys((*others, name), "Assigned"))
    return time.monotonic() - began


async def test_hostile_objects_of_a_tenant_stop_neither_program(cloud: EmulatedCloud, new_plane: NewPlane) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    mic = await cloud.mic()
    usual = [await seconds_to_assign(real, "a", ()), await seconds_to_assign(real, "b", ("a",))]
    assert await mic.stop() == 0
    began = time.monotonic()
    await asyncio.to_thread(fill, real)
    filled = time.monotonic() - began

    log = cloud.folder / "nmi.log"
    with recorded_pauses(LEAST_SECONDS) as recorder:
        mic = await cloud.mic(active=False)
        mic_seconds = await active(mic.probe_port, MIC_SECONDS, mic.read_log)
        async with running_nmi(cloud.folder / "kubeconfig", log) as (nmi, probe_port, metrics_port):
            nmi_seconds = await active(probe_port, NMI_SECONDS, log.read_text)
            others = [
                await seconds_to_assign(real, "c", ("a", "b")),
                await seconds_to_assign(real, "d", ("a", "b", "c")),
            ]
            scraped = {
                "mic": await mic.page("/metrics"),
                "nmi": await asyncio.to_thread(page, metrics_port, "/metrics"),
            }
            peaks = {"mic": peak_mib(mic.process.pid), "nmi": peak_mib(nmi.pid)}
            await asyncio.to_thread(until_sync, lambda: "AzureIdentity" in skipped_kinds(real))
            assert nmi.returncode is None
        paused = max((each.seconds for each in recorder.pauses()), default=0.0)
    lags = {
        name: value(text, f"aadpodidentity_{name}_event_loop_lag_longest_seconds") for name, text in scraped.items()
    }
    print(  # noqa: T201 - the figures of the report
        f"\n{EXCEPTION_COUNT} exceptions, {POD_COUNT} pods, made in {filled:.0f} s; "
        f"active: MIC {mic_seconds:.1f} s, NMI {nmi_seconds:.1f} s; "
        f"peak: MIC {peaks['mic']:.0f} MiB, NMI {peaks['nmi']:.0f} MiB; "
        f"longest lag: MIC {lags['mic'] * 1000:.0f} ms, NMI {lags['nmi'] * 1000:.0f} ms, "
        f"the machine paused for {paused * 1000:.0f} ms; "
        f"assigned in {usual[0]:.2f}, {usual[1]:.2f} s before, {others[0]:.2f}, {others[1]:.2f} s after; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    assert peaks["nmi"] < NMI_MIB
    assert peaks["mic"] < MIC_MIB
    assert min(others) < min(usual) + 1.0
    # Other load on this machine slows down both programs.
    crowded = max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1)
    assert max(lags.values()) < STALL_SECONDS + 0.05 * crowded + paused
    assert value(scraped["nmi"], "aadpodidentity_nmi_objects_skipped_total") >= EXCEPTION_COUNT
    assert value(scraped["mic"], "aadpodidentity_mic_objects_skipped_total") >= 3
    assert await mic.stop() == 0


def skipped_kinds(plane: Plane) -> set[str]:
    """Return the kinds of the objects with an Event about their omission."""
    found = plane.api("GET", f"/api/v1/namespaces/{TENANT}/events")["items"]
    return {
        each["involvedObject"]["kind"]
        for each in found
        if each["reason"] == "ObjectSkipped" and each["type"] == "Warning"
    }
