"""`podidctl sandbox up --kubeconfig` on the real API server: MIC and NMI have pods there, and leave nothing behind."""

from pathlib import Path

import pytest

from tests.conftest import NewPlane
from tests.sandbox.cloud.terminal import Kubectl, podidctl, sandbox_up
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.plane, pytest.mark.timeout(300)]

OURS = ("pods", "nodes", "serviceaccounts", "roles", "rolebindings", "clusterroles", "clusterrolebindings")


def test_explain_and_doctor_are_right_on_a_real_api_server(
    new_plane: NewPlane, tmp_path: Path, kubectl: Kubectl
) -> None:
    plane = new_plane()
    with sandbox_up(tmp_path / "log", f"--kubeconfig={plane.kubeconfig}") as shell:
        code, output = kubectl(shell, "apply", "-f", "deploy/demo/")
        assert code == 0, output
        until_sync(lambda: "successfully acquired a token" in kubectl(shell, "logs", "demo")[1])
        pods = ("get", "pods", "-l", "app.kubernetes.io/name=aad-pod-identity")
        until_sync(lambda: kubectl(shell, *pods)[1].count(" 1/1 ") == 2)  # a probe may have been too slow
        assert "nmi starting version=" in kubectl(shell, "logs", "nmi-node-0")[1]

        code, output = podidctl(shell, "explain", "pod", "default/demo")
        assert code == 0, output
        assert "pod default/demo: granted" in output
        assert "NMI's log, UTC" in output

        code, output = podidctl(shell, "doctor")
        assert code == 0, output
        for program in ("NMI", "MIC"):
            assert f"{program}'s service account default/aad-pod-identity-{program.lower()} has all" in output
        assert kubectl(shell, "delete", "-f", "deploy/demo/")[0] == 0
    admin = {**shell, "KUBECONFIG": plane.kubeconfig}
    for kind in OURS:
        code, output = kubectl(admin, "get", kind, "-A", "-o", "name")
        assert code == 0, output
        left = [line for line in output.splitlines() if "aad-pod-identity" in line or kind in {"pods", "nodes"}]
        assert left == []
