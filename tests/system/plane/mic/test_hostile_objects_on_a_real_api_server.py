"""A tenant fills a real API server with objects of the maximum size.

MIC and NMI become Active, continue to work, and need little memory. `make test-measures` runs the test with a tenth of
the objects, `make hostile-objects` with all. The memory is printed (`-s`).
"""

import asyncio
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL, BINDINGS, EXCEPTIONS, IDENTITIES, PODS, Kind
from podidentity_sandbox.serving import free_ports
from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.support.mic.emulated_cloud import EmulatedCloud, Mic
from tests.support.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

EVERYTHING = os.environ.get("HOSTILE_OBJECTS") == "all"
EXCEPTION_COUNT, POD_COUNT = (300, 250) if EVERYTHING else (30, 25)
MIB = 1 << 20
TENANT = "hostile"
NMI_MIB, MIC_MIB = 200, 300

pytestmark = [pytest.mark.plane, pytest.mark.measures, pytest.mark.timeout(900 if EVERYTHING else 300)]


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
    document = {"apiVersion": IDENTITIES.api_version, "kind": IDENTITIES.name, "metadata": {"name": name}}
    brackets = ",".join(["[" * 2000 + "]" * 2000] * 100)
    body = json.dumps({**document, "spec": {"x": 0}}).replace('"x": 0', f'"x": [{brackets}]')
    Commands(plane.kubeconfig).kubectl("create", "--raw", IDENTITIES.path(TENANT), "-f", "-", stdin=body)


def fill(plane: Plane) -> None:
    """All of a tenant's objects, several of each kind of trouble."""
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": TENANT}})
    until_sync(lambda: bool(plane.api("GET", f"/api/v1/namespaces/{TENANT}/serviceaccounts")["items"]))

    def exception(number: int) -> None:
        # Most are one long text, which the API server takes fast; some are as many short ones as it takes.
        many = {f"key-{number:05}": "x" * 95 for number in range(10_000)}
        write(plane, EXCEPTIONS, f"e{number:03}", {"podLabels": many if number < 3 else {"x": "x" * MIB}})

    def pod(number: int) -> None:
        write(plane, PODS, f"p{number:03}", pod_spec("x" * 1_200_000), {BINDING_LABEL: "demo"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(exception, range(EXCEPTION_COUNT)))
        list(pool.map(pod, range(POD_COUNT)))
    # On the node itself, so that both programs read it: it fits etcd, and JSON makes it larger than any response.
    write(plane, PODS, "expanding", pod_spec("\x01" * 490_000, node="n0"), {BINDING_LABEL: TENANT})
    write(plane, PODS, "large-on-the-node", pod_spec("x" * 1_200_000, node="n0"), {BINDING_LABEL: TENANT})
    write(plane, IDENTITIES, "long", {"type": 0, "clientID": "x" * MIB, "resourceID": "x" * 1000})
    write_nested(plane, "deep")
    write(plane, BINDINGS, "long", {"azureIdentity": "x" * MIB, "selector": "demo"})


def peak_mib(program: Mic) -> float:
    """Most memory that the process has ever had."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{program.process.pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


async def skipped_objects(program: Mic, name: str) -> float:
    lines = (await program.page("/metrics")).splitlines()
    counter = f"aadpodidentity_{name}_objects_skipped_total"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counter))


async def active_nmi(cloud: EmulatedCloud) -> Mic:
    """Start NMI of the node n0, which ends with *cloud*, and wait until it is Active."""
    ports, log = free_ports(3), cloud.folder / "nmi.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nmi", "--node=n0", "--redirect=none", f"--kubeconfig={cloud.folder}/kubeconfig"),
            *(f"--nmi-port={ports[0]}", f"--http-probe-port={ports[1]}", f"--prometheus-port={ports[2]}"),
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    nmi = Mic(process, ports[1], ports[2], log)
    cloud.running.append(nmi)
    await cloud.active(nmi)
    return nmi


async def test_hostile_objects_of_a_tenant_stop_neither_program(cloud: EmulatedCloud, new_plane: NewPlane) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")
        fill(plane)

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    mic = await cloud.mic()
    nmi = await active_nmi(cloud)
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Assigned")
    await asyncio.to_thread(until_sync, lambda: "AzureIdentity" in skipped_kinds(real))
    assert await skipped_objects(nmi, "nmi") >= EXCEPTION_COUNT
    assert await skipped_objects(mic, "mic") >= 3
    peaks = (peak_mib(nmi), peak_mib(mic))
    print(f"\n{EXCEPTION_COUNT} exceptions, {POD_COUNT} pods; peak: NMI {peaks[0]:.0f}, MIC {peaks[1]:.0f} MiB")  # noqa: T201
    assert peaks[0] < NMI_MIB
    assert peaks[1] < MIC_MIB
    assert [await process.stop() for process in (nmi, mic)] == [0, 0]


def skipped_kinds(plane: Plane) -> set[str]:
    """Return the kinds of the objects with an Event about their omission."""
    events = plane.api("GET", f"/api/v1/namespaces/{TENANT}/events")["items"]
    return {
        event["involvedObject"]["kind"]
        for event in events
        if event["reason"] == "ObjectSkipped" and event["type"] == "Warning"
    }
