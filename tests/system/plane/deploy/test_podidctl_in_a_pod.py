"""The manifest of podidctl's pod: the API server accepts it, and each command works with exactly its permissions."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.checkout import ROOT
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.mic.real_server import add_node, bind, run_pod
from tests.support.objects import vm_id
from tests.support.testplane import up
from tests.system.plane.deploy.helm_cluster import Cluster

pytestmark = pytest.mark.plane

MANIFEST: Final = ROOT / "deploy" / "podidctl" / "podidctl.yaml"
REFUSED: Final = re.compile(r"\b403\b|forbidden|(?<!NMI )may not", re.IGNORECASE)
"""A refusal of the caller. The chart's NMI may request no tokens of service accounts, which `migrate` reports."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with the chart in namespace podid, the manifest, an NMI, and a pod that a binding selects.

    The manifest is applied while the namespace has the Pod Security level restricted, which its pod meets.
    """
    with up.Plane() as plane:
        made = Cluster(plane)
        made.install("podid", release="aad-pod-identity")
        made.kubectl("label", "namespace", "podid", "pod-security.kubernetes.io/enforce=restricted")
        made.kubectl("apply", "--validate=strict", "-f", str(MANIFEST))
        add_node(plane, "n0", vm_id("n0"))
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        plane.api("PATCH", "/api/v1/nodes/n0/status", ready, "application/merge-patch+json")
        bind(plane, "demo")
        made.kubectl("wait", "--for=create", "--timeout=60s", "serviceaccount/default")
        run_pod(plane, "web", "n0")
        nmi = {
            "metadata": {"name": "nmi", "labels": {"app.kubernetes.io/component": "nmi"}},
            "spec": {
                "nodeName": "n0",
                "serviceAccountName": "aad-pod-identity-nmi",
                "containers": [{"name": "nmi", "image": "i", "args": ["--node=n0"]}],
                "hostNetwork": True,
            },
        }
        made.kubectl("label", "namespace", "podid", "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
        plane.api("POST", "/api/v1/namespaces/podid/pods", nmi)
        made.kubectl("label", "namespace", "podid", "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
        made.until_rights_hold(account="podidctl", namespace="podid", verb="list", resource="pods")
        yield made


async def ask(cluster: Cluster, folder: Path, *words: str) -> CommandResult:
    await asyncio.to_thread(cluster.kubeconfig_of, "podidctl", "podid", folder / "kubeconfig")
    return await run(folder, "podidctl", *words, cloudconfig=False, AZURE_ENVIRONMENT_FILEPATH="")


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "pod", "default/web"),
        ("token", "default/web", "--resource", "https://vault.azure.net"),
        ("doctor",),
        ("access",),
        ("plan", "--no-azure"),
        ("migrate", "from-reference"),
        ("migrate", "plan", "--tenant", "00000000-0000-0000-0000-000000000000"),
        ("migrate", "plan", "--workload-identity"),
        ("migrate", "to-workload-identity", "-n", "default", "--issuer", "https://issuer.example/"),
    ],
    ids=" ".join,
)
async def test_a_command_is_refused_nothing(cluster: Cluster, tmp_path: Path, command: tuple[str, ...]) -> None:
    answer = await ask(cluster, tmp_path, *command)
    assert answer.code in {0, 1, 3}, answer
    assert answer.out.strip()
    lines = [line for line in f"{answer.out}\n{answer.err}".splitlines() if REFUSED.search(line)]
    assert lines == [], answer.out


async def test_without_the_permissions_the_refusals_are_reported(cluster: Cluster, tmp_path: Path) -> None:
    """The pattern above finds refusals."""
    await asyncio.to_thread(cluster.kubeconfig_of, "default", "podid", tmp_path / "kubeconfig")
    answer = await run(tmp_path, "podidctl", "doctor", cloudconfig=False)
    assert REFUSED.search(answer.out + answer.err), answer


async def test_verify_creates_its_canary_and_deletes_it(cluster: Cluster, tmp_path: Path) -> None:
    """The API server admits it at the level restricted. No kubelet runs it here, so its node is unknown."""
    answer = await ask(cluster, tmp_path, "verify", "--node=n0", "--namespace=podid", "--timeout=30", "-o", "json")
    assert answer.code == 1, answer
    assert not REFUSED.search(answer.out + answer.err), answer
    assert "did not start the canary" in answer.document["nodes"][0]["says"]
    assert answer.document["notDeleted"] == []
