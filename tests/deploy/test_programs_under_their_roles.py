"""The real MIC and NMI work with the permissions of the chart's service accounts only, on a real API server."""

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
from tests.conftest import ROOT, NewPlane
from tests.deploy.helm_cluster import Cluster, arguments_of
from tests.mic.emulated_cloud import EmulatedCloud, emulated_cloud
from tests.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.waiting import until
from tests.testplane.up import Plane
from tools.chart.rendering import render

pytestmark = [pytest.mark.plane, pytest.mark.timeout(120)]
FORBIDDEN = re.compile(r"\b403\b")
"""The status in a log line; the microseconds of a time may contain these digits."""


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[EmulatedCloud]:
    async with emulated_cloud(tmp_path) as made:
        yield made


async def test_mic_assigns_and_revokes_and_rewrites_old_field_names(cloud: EmulatedCloud, new_plane: NewPlane) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")
        old = {
            "apiVersion": IDENTITIES.api_version,
            "kind": IDENTITIES.name,
            "metadata": {"name": "old"},
            "spec": {"ClientID": "from before v1.6.0"},
        }
        plane.api("POST", IDENTITIES.path("default"), old)
        cluster = Cluster(plane)
        cluster.install("podid")
        cluster.until_rights_hold(account="aad-pod-identity-mic", namespace="podid", verb="list", resource="pods")

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    cluster = Cluster(real)
    await asyncio.to_thread(cluster.kubeconfig_of, "aad-pod-identity-mic", "podid", cloud.folder / "kubeconfig")
    flags = await asyncio.to_thread(lambda: arguments_of(render(), "mic"))
    given = [flag for flag in flags if not flag.startswith("--cloudconfig=")]  # the sandbox has a separate file
    mic = await cloud.mic(*given, environ={"MIC_POD_NAMESPACE": "podid"})
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
    assert not FORBIDDEN.search(mic.read_log())
    assert "forbidden" not in mic.read_log().lower(), mic.read_log()


@pytest.mark.parametrize("mode", ["standard", "managed"])
async def test_nmi_is_ready(plane: Plane, mode: str, tmp_path: Path) -> None:
    cluster, namespace, option = Cluster(plane), f"nmi-{mode}", f"--set=operationMode={mode}"
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
        try:
            await ready(f"http://127.0.0.1:{ports[1]}/readyz", process, log)
        finally:
            process.terminate()
            await process.wait()
        text = log.read_text()
        assert not FORBIDDEN.search(text)
        assert "forbidden" not in text.lower(), text


async def ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until /readyz returns 200: every watch has its first list, and NMI serves."""

    def read_log() -> str:
        return log.read_text()

    def ask() -> bool:
        assert process.returncode is None, read_log()
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  a loopback address of ours
            return bool(answer.status == 200)

    await until(lambda: asyncio.to_thread(ask), read_log, ignoring=OSError)
