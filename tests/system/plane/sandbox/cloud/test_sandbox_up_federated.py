"""`podidctl sandbox up --federated`: a pod of the trusted service account gets a token, and a lost trust is named."""

from pathlib import Path

import pytest
import yaml

from tests.support.sandbox.cloud.terminal import CURL, Kubectl, podidctl, run, sandbox_up
from tests.support.waiting import until_sync

pytestmark = pytest.mark.programs

PAUSE = {"name": "main", "image": "none:1"}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"aadpodidbinding": "federated"}},
    "spec": {"serviceAccountName": "federated", "containers": [PAUSE]},
}


def test_a_pod_of_the_service_account_gets_a_token_until_the_credential_is_removed(
    tmp_path: Path, kubectl: Kubectl
) -> None:
    log, objects = tmp_path / "log", tmp_path / "pod.yaml"
    objects.write_text(yaml.safe_dump(POD))
    with sandbox_up(log, "--federated") as shell:
        assert "for pods with the label aadpodidbinding=federated and the service account federated" in log.read_text()
        assert kubectl(shell, "apply", "-f", str(objects))[0] == 0
        until_sync(lambda: CURL.search(log.read_text()))
        (request,) = CURL.findall(log.read_text())
        printed = run(shell, "sh", "-c", request)[1]
        assert "access_token" in printed, printed
        assert podidctl(shell, "doctor")[0] == 0

        assert podidctl(shell, "sandbox", "fault", "aad=no-credential")[0] == 0
        printed = run(shell, "sh", "-c", request.rstrip("'") + "&bypass_cache=true'")[1]
        assert "system:serviceaccount:default:federated" in printed
        code, output = podidctl(shell, "explain", "pod", "default/web")
        assert (code, output.startswith("broken: ")) == (3, True), output
        assert "az identity federated-credential create" in output
