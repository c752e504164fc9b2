"""`podidctl sandbox up --kubeconfig` on the real API server: MIC and NMI have pods there, and leave nothing behind."""

from pathlib import Path

import pytest

from tests.conftest import NewPlane
from tests.sandbox.cloud.terminal import Kubectl, sandbox_up
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.plane, pytest.mark.timeout(300)]

OURS = ("pods", "nodes", "serviceaccounts", "roles", "rolebindings", "clusterroles", "clusterrolebindings")


def test_mic_and_nmi_have_pods_that_are_removed_with_their_accounts(
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
        assert kubectl(shell, "delete", "-f", "deploy/demo/")[0] == 0
    admin = {**shell, "KUBECONFIG": plane.kubeconfig}
    for kind in OURS:
        code, output = kubectl(admin, "get", kind, "-A", "-o", "name")
        assert code == 0, output
        left = [line for line in output.splitlines() if "aad-pod-identity" in line or kind in {"pods", "nodes"}]
        assert left == []
