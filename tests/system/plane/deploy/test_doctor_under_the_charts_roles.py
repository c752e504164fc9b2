"""podidctl doctor asks for the permissions that the chart grants MIC, on a real API server."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.conftest import NewPlane, apply_definitions
from tests.repository.deploy.helm_cluster import LIMIT, Cluster
from tests.support.mic.preview.run_programs import run
from tests.support.waiting import until
from tools.chart.rendering import CHART

pytestmark = [pytest.mark.plane, pytest.mark.timeout(120)]

UPGRADE = ("upgrade", "pi", str(CHART), "--namespace=podid", LIMIT, "--set=crds.upgrade=false")
RECORD = ("configmap", "aad-pod-identity-config", "--namespace=podid")


async def until_found(folder: Path, level: str, says: str) -> None:
    """Wait for one finding about MIC's rights: the authorizer receives changed roles by a watch."""

    async def read() -> list[tuple[str, str]]:
        answer = await run(folder, "podidctl", "doctor", "-o", "json", cloudconfig=False)
        findings = [each for each in answer.document["findings"] if each["check"] == "rights"]
        return [(each["level"], f"{each['says']}: {each.get('next', '')}") for each in findings]

    def is_that(found: list[tuple[str, str]]) -> bool:
        return [each for each, _ in found] == [level] and says in found[0][1]

    await until(read, f"{level}: {says}", holds=is_that)


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
