"""`podidctl preflight` on the real API server: Pod Security admission decides about the dry run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.mic.preview.run_programs import run
from tests.support.testplane.up import Plane
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane


def namespace(plane: Plane, level: str) -> str:
    labels = {"pod-security.kubernetes.io/enforce": level}
    made = plane.api("POST", "/api/v1/namespaces", {"metadata": {"generateName": "preflight-", "labels": labels}})
    name = str(made["metadata"]["name"])
    until_sync(lambda: plane.api("GET", f"/api/v1/namespaces/{name}/serviceaccounts")["items"])
    return name


@pytest.mark.parametrize(
    ("security_level", "level", "text"),
    [("privileged", "ok", "accepts a pod like NMI's"), ("baseline", "problem", 'violates PodSecurity "baseline')],
)
async def test_pod_security_admission_decides_about_nmis_pod(
    plane: Plane, tmp_path: Path, security_level: str, level: str, text: str
) -> None:
    there = namespace(plane, security_level)
    (tmp_path / "kubeconfig").symlink_to(plane.kubeconfig)
    try:
        result = await run(tmp_path, "podidctl", "preflight", "-n", there, "-o", "json", cloudconfig=False)
        (finding,) = [one for one in json.loads(result.out)["findings"] if one["check"] == "admission"]
        pods: list[Any] = plane.api("GET", f"/api/v1/namespaces/{there}/pods")["items"]
    finally:
        plane.api("DELETE", f"/api/v1/namespaces/{there}")
    assert (finding["level"], text in finding["says"]) == (level, True)
    assert not pods
