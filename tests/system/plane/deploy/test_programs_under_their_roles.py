"""The real MIC, and NMI in managed mode, work with the permissions of the chart's service accounts only, on a real API
server. tests/system/plane/e2e/test_helm_installation.py shows NMI in standard mode."""

import asyncio
import contextlib
import re
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidentity.resources import IDENTITIES, PODS
from podidentity_sandbox.serving import free_ports
from tests.conftest import NewPlane
from tests.repository.deploy.helm_cluster import Cluster, arguments_of
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.support.mic.real_server import assigned, bind, create, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until, until_sync
from tools.chart.rendering import render

pytestmark = [pytest.mark.plane, pytest.mark.timeout(120)]
FORBIDDEN = re.compile(r"\b403\b|forbidden", re.IGNORECASE)
"""The status or its reason in a log line; the microseconds of a time may contain these digits."""


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


def nmi_pods(plane: Plane, count: int) -> dict[str, str]:
    """Return the pods of the chart's DaemonSet by node, after this number of them exists."""

    def pods() -> dict[str, str]:
        found = {}
        for each in plane.api("GET", f"{PODS.path('podid')}?labelSelector=app.kubernetes.io%2Fcomponent%3Dnmi")[
            "items"
        ]:
            wanted = each["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            found[wanted["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]] = each["metadata"]["name"]
        return found

    return until_sync(pods, "the pods of the DaemonSet", holds=lambda found: len(found) == count)


async def test_mic_assigns_revokes_rewrites_old_field_names_and_removes_the_startup_taint(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    option = "--set=mic.startupTaint=example.com/nmi-not-ready"
    taint = {"key": "example.com/nmi-not-ready", "effect": "NoSchedule"}
    stays = {"key": "example.com/other", "effect": "NoSchedule"}

    def prepare(plane: Plane) -> None:
        bind(plane, "demo")
        create(plane, IDENTITIES, "old", {"ClientID": "from before v1.6.0"})
        cluster = Cluster(plane)
        cluster.install("podid", option, release="pod-identity")
        for verb, resource in (("list", "pods"), ("patch", "nodes")):
            cluster.until_rights_hold(account="aad-pod-identity-mic", namespace="podid", verb=verb, resource=resource)
        for name in ("n0", "n1"):
            meta = {"name": name, "labels": {"kubernetes.io/os": "linux"}}
            spec = {"providerID": f"azure://{vm_id(name)}", "taints": [taint, stays]}
            plane.api("POST", "/api/v1/nodes", {"metadata": meta, "spec": spec})
        made = nmi_pods(plane, count=2)
        for node, pod in made.items():  # there is no scheduler
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            plane.api("POST", f"{PODS.path('podid', pod)}/binding", {"metadata": {"name": pod}, "target": target})
        status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        plane.api("PATCH", f"{PODS.path('podid', made['n0'])}/status", status, "application/merge-patch+json")

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    await asyncio.to_thread(Cluster(real).kubeconfig_of, "aad-pod-identity-mic", "podid", cloud.folder / "kubeconfig")
    flags = await asyncio.to_thread(lambda: arguments_of(render(options=[option]), "mic"))
    given = [flag for flag in flags if not flag.startswith("--cloudconfig=")]  # the sandbox has a separate file
    mic = await cloud.mic(*given, environ={"MIC_POD_NAMESPACE": "podid"})

    async def taints(name: str) -> list[str]:
        node = await asyncio.to_thread(real.api, "GET", f"/api/v1/nodes/{name}")
        return [each["key"] for each in node["spec"]["taints"]]

    await until(lambda: taints("n0"), mic.read_log, holds=lambda keys: taint["key"] not in keys)
    assert await taints("n0") == [stays["key"]]
    assert taint["key"] in await taints("n1"), "its NMI is not ready"
    await asyncio.to_thread(run_pod, real, "web", "n0")
    await assigned(real, web="Assigned")
    await asyncio.to_thread(real.api, "DELETE", PODS.path("default", "web"))
    await assigned(real)
    record = await asyncio.to_thread(real.api, "GET", "/api/v1/namespaces/podid/configmaps/aad-pod-identity-config")
    assert "type-upgrade-status" in record["data"]
    rewritten = await asyncio.to_thread(real.api, "GET", IDENTITIES.path("default", "old"))
    assert rewritten["spec"].get("clientID") == "from before v1.6.0"
    assert await mic.stop() == 0
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/aad-pod-identity-mic"
    assert (await asyncio.to_thread(real.api, "GET", lease))["spec"]["holderIdentity"] == ""
    assert not FORBIDDEN.search(mic.read_log()), mic.read_log()


async def test_nmi_is_ready_in_managed_mode(plane: Plane, tmp_path: Path) -> None:
    cluster, namespace, option = Cluster(plane), "nmi-managed", "--set=operationMode=managed"
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, cluster.installed(namespace, option))
        account = {"account": "aad-pod-identity-nmi", "namespace": namespace}
        await asyncio.to_thread(lambda: cluster.until_rights_hold(verb="list", resource="pods", **account))
        kubeconfig = await asyncio.to_thread(
            cluster.kubeconfig_of, "aad-pod-identity-nmi", namespace, tmp_path / "kubeconfig"
        )
        # This test creates no rule on this machine, and --fail-closed, the chart's default, would.
        options = [option, "--set=nmi.extraArgs={--redirect=none}"]
        flags = await asyncio.to_thread(lambda: arguments_of(render(options=options), "nmi"))
        ports = free_ports(3)
        log = tmp_path / "nmi.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nmi"),
                *(flag.replace("$(NODE_NAME)", "n0") for flag in flags),
                *(f"--kubeconfig={kubeconfig}", f"--nmi-port={ports[0]}"),
                *(f"--http-probe-port={ports[1]}", f"--prometheus-port={ports[2]}"),
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

        def is_ready() -> bool:
            """Return whether every watch has its first list, and NMI serves."""
            assert process.returncode is None, log.read_text()
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)

        try:
            await until(lambda: asyncio.to_thread(is_ready), log.read_text, ignoring=OSError)
        finally:
            process.terminate()
            await process.wait()
        assert not FORBIDDEN.search(log.read_text()), log.read_text()
