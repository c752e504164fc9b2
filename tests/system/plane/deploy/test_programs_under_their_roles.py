"""The real MIC works with the permissions of the chart's service account only, with its startup taint and its upgrade,
and podidctl doctor asks for the permissions that the chart grants MIC.

tests/system/plane/e2e/test_helm_installation.py shows MIC and NMI without taint and upgrade."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from podidentity.resources import IDENTITIES, PODS
from tests.conftest import NewPlane, apply_definitions
from tests.support.chart_objects import arguments_of
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import run
from tests.support.mic.real_server import assigned, bind, create, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.up import Plane
from tests.support.waiting import until, until_sync
from tests.system.plane.deploy.helm_cluster import LIMIT, Cluster
from tools.chart.rendering import CHART, render

pytestmark = pytest.mark.plane
FORBIDDEN = re.compile(r"\b403\b|forbidden", re.IGNORECASE)
"""The status or its reason in a log line; the microseconds of a time may contain these digits."""


def nmi_pods(plane: Plane, count: int) -> dict[str, str]:
    """Return the pods of the chart's DaemonSet by node, after this number of them exists."""

    def pods() -> dict[str, str]:
        names_by_node = {}
        path = f"{PODS.path('podid')}?labelSelector=app.kubernetes.io%2Fcomponent%3Dnmi"
        for pod in plane.api("GET", path)["items"]:
            wanted = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            names_by_node[wanted["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]] = pod["metadata"]["name"]
        return names_by_node

    return until_sync(pods, "the pods of the DaemonSet", holds=lambda pod_names: len(pod_names) == count)


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
        return [taint["key"] for taint in node["spec"]["taints"]]

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


UPGRADE = ("upgrade", "pi", str(CHART), "--namespace=podid", LIMIT, "--set=crds.upgrade=false")
RECORD = ("configmap", "aad-pod-identity-config", "--namespace=podid")


async def until_found(folder: Path, level: str, text: str) -> None:
    """Wait for one finding about MIC's rights: the authorizer receives changed roles by a watch."""

    async def read() -> list[tuple[str, str]]:
        answer = await run(folder, "podidctl", "doctor", "-o", "json", cloudconfig=False)
        findings = [finding for finding in answer.document["findings"] if finding["check"] == "rights"]
        return [(finding["level"], f"{finding['says']}: {finding.get('next', '')}") for finding in findings]

    def is_that(pairs: list[tuple[str, str]]) -> bool:
        return [finding_level for finding_level, _ in pairs] == [level] and text in pairs[0][1]

    await until(read, f"{level}: {text}", holds=is_that)


async def test_mic_needs_update_on_tenants_objects_until_the_upgrade_is_recorded(
    new_plane: NewPlane, tmp_path: Path
) -> None:
    plane = await asyncio.to_thread(new_plane)
    await asyncio.to_thread(apply_definitions, plane)
    cluster = Cluster(plane)
    await asyncio.to_thread(cluster.install, "podid")
    shutil.copy(plane.kubeconfig, tmp_path / "kubeconfig")
    wait = ("wait", "--for=create", "--timeout=60s", "pods", "-lapp.kubernetes.io/component=mic", "-n=podid")
    await asyncio.to_thread(cluster.kubectl, *wait)

    await until_found(tmp_path, "ok", "has all permissions")
    await asyncio.to_thread(cluster.kubectl, "create", *RECORD, "--from-literal=type-upgrade-status=1")
    await until_found(tmp_path, "ok", "helm upgrade removes it")
    await asyncio.to_thread(cluster.helm, *UPGRADE)
    await until_found(tmp_path, "ok", "has all permissions")
    await asyncio.to_thread(cluster.kubectl, "delete", *RECORD)
    await until_found(tmp_path, "warning", "update azureidentities")
