"""Both migrations on the real kube-apiserver, with the printed manifests applied by the real kubectl."""

import asyncio
import json
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import BINDINGS, IDENTITIES
from tests.conftest import apply_definitions
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.migration.objects import binding, identity
from tests.support.testplane import up

pytestmark = pytest.mark.plane

REFERENCE = ROOT / "tests" / "support" / "mic" / "reference" / "crds.yaml"
ENDPOINTS = "/api/v1/namespaces/default/endpoints"
LEADER = "control-plane.alpha.kubernetes.io/leader"
ISSUER = "https://oidc.example.org/cluster/"
OWNER = {"owner": "team-a"}


def program(name: str, *flags: str) -> dict[str, Any]:
    """A short template of one program of the Go implementation."""
    env = [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    container = {"name": name, "image": f"mcr.microsoft.com/oss/azure/{name}:v1.8.17", "args": list(flags), "env": env}
    return apps("kube-system", name, {"containers": [container]})


def apps(namespace: str, name: str, spec: dict[str, Any], **labels: str) -> dict[str, Any]:
    labels = {"app": name, **labels}
    spec = {"containers": [{"name": "c", "image": "i"}], **spec}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


async def migrate(plane: up.Plane, *arguments: str) -> CommandResult:
    return await run(Path(plane.kubeconfig).parent, "podidctl", "migrate", *arguments, cloudconfig=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[up.Plane]:
    """A cluster with the Go implementation and its custom resource definitions."""
    with up.Plane() as plane:
        apply_definitions(plane, REFERENCE)
        # The name by which `run` looks for it.
        Path(plane.kubeconfig).with_name("kubeconfig").write_text(Path(plane.kubeconfig).read_text())
        programs = "/apis/apps/v1/namespaces/kube-system"
        plane.api("POST", f"{programs}/daemonsets", program("nmi", "--node=$(NODE_NAME)", "--debug"))
        plane.api("POST", f"{programs}/deployments", program("mic", "--clientQps=5"))
        note = {LEADER: json.dumps({"holderIdentity": "mic-5d9", "leaseDurationSeconds": 15})}
        plane.api("POST", ENDPOINTS, {"metadata": {"name": "aad-pod-identity-mic", "annotations": note}})
        yield plane


@pytest.fixture
async def shop(cluster: up.Plane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own, with three workloads that an identity is bound to."""
    name = f"shop-{zlib.crc32(request.node.name.encode())}"
    await asyncio.to_thread(opened, cluster, name)
    return name


def opened(plane: up.Plane, shop: str) -> None:
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": shop}})
    plane.api("POST", IDENTITIES.path(shop), identity(shop, shop))
    plane.api("POST", BINDINGS.path(shop), binding(shop, shop))
    bound = {"aadpodidbinding": shop}
    plane.api("POST", f"/apis/apps/v1/namespaces/{shop}/deployments", apps(shop, "web", {}, **bound))
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "api", "namespace": shop, "labels": {"team": "shop"}, "annotations": OWNER},
        "imagePullSecrets": [{"name": "registry"}],
    }
    container = {"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}]}
    api = apps(shop, "api", {"serviceAccountName": "api", "containers": [container]}, **bound)
    api["metadata"]["annotations"] = OWNER
    api["spec"]["replicas"] = 3
    for item in (account, {"apiVersion": "apps/v1", "kind": "Deployment", **api}):
        # In the way of an operator with manifests.
        Commands(plane.kubeconfig).kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(item))
    spec = {"serviceAccountName": "nightly", "restartPolicy": "Never"}
    job = apps(shop, "nightly", spec, **bound)["spec"]["template"]
    cron = {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": job}}}
    document = {"metadata": {"name": "nightly", "namespace": shop}, "spec": cron}
    plane.api("POST", f"/apis/batch/v1/namespaces/{shop}/cronjobs", document)


async def test_the_differences_of_a_go_implementation_cluster_are_reported(cluster: up.Plane, shop: str) -> None:
    answer = await migrate(cluster, "from-reference", "-o", "json")
    assert (answer.code, answer.err) == (3, "")
    findings = {(finding["level"], finding["about"]): finding["what"] for finding in answer.document["findings"]}
    assert "unknown flag --debug" in findings["mend", "DaemonSet kube-system/nmi"]
    assert "--clientQps=5" in findings["look", "Deployment kube-system/mic"]
    assert "is held by mic-5d9" in findings["by itself", "Endpoints default/aad-pod-identity-mic"]
    kinds = ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions")
    # The Go implementation's definitions drop old field names.
    assert {("look", kind) for kind in kinds} < findings.keys()
    assert len(findings) == 6


async def test_the_printed_workload_identity_objects_can_be_applied_and_the_plan_is_then_empty(
    cluster: up.Plane, shop: str
) -> None:
    to_workload_identity = ("to-workload-identity", "-n", shop, "--issuer", ISSUER)
    before = await migrate(cluster, *to_workload_identity, "-o", "json")
    assert (before.code, before.err) == (3, "")
    (remark,) = before.document["byHand"]
    assert "its service account is default" in remark["why"]
    table = await migrate(cluster, *to_workload_identity)
    subject = f"system:serviceaccount:{shop}:web"
    for part in (f"{shop}/web", f"client-{shop}", f"CronJob {shop}/nightly", subject, "manual steps:"):
        assert part in table.out

    own = cluster.api("GET", "/.well-known/openid-configuration")["issuer"]
    script = await migrate(cluster, *to_workload_identity[:-2], "-o", "az")
    commands = [shlex.split(line) for line in script.out.splitlines() if line.startswith("az ")]
    assert {words[words.index("--issuer") + 1] for words in commands} == {own}, "that of the cluster by default"
    subjects = {words[words.index("--subject") + 1] for words in commands}
    assert subjects == {subject, *(f"system:serviceaccount:{shop}:{name}" for name in ("api", "nightly"))}
    assert f"#   issuer {own}: Azure must read its keys" in script.out

    printed = await migrate(cluster, *to_workload_identity, "-o", "yaml")
    output = await asyncio.to_thread(Commands(cluster.kubeconfig).kubectl, "apply", "-f", "-", stdin=printed.out)
    assert output.count(" created") == 2
    script = await migrate(cluster, *to_workload_identity, "-o", "kubectl")
    output = await asyncio.to_thread(Commands(cluster.kubeconfig).run, "sh", stdin=script.out)
    assert output.count(" patched") == 3
    assert "serviceaccount/api annotated" in output

    web = cluster.api("GET", f"/apis/apps/v1/namespaces/{shop}/deployments/web")["spec"]["template"]
    assert web["spec"]["serviceAccountName"] == "web"
    assert web["spec"]["containers"][0]["image"] == "i"
    labels = {"app": "web", "aadpodidbinding": shop, "azure.workload.identity/use": "true"}
    assert web["metadata"]["labels"] == labels
    nightly = cluster.api("GET", f"/apis/batch/v1/namespaces/{shop}/cronjobs/nightly")["spec"]["jobTemplate"]
    assert nightly["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    account = cluster.api("GET", f"/api/v1/namespaces/{shop}/serviceaccounts/web")
    assert account["metadata"]["annotations"]["azure.workload.identity/client-id"] == f"client-{shop}"

    after = await migrate(cluster, *to_workload_identity, "-o", "json")
    assert (after.code, after.document["patches"]) == (0, [])
    assert sorted(after.document["done"]) == [
        *(f"CronJob {shop}/nightly", f"Deployment {shop}/api", f"Deployment {shop}/web")
    ]
    assert after.document["credentials"] == before.document["credentials"]

    # All other fields are kept.
    account = cluster.api("GET", f"/api/v1/namespaces/{shop}/serviceaccounts/api")
    assert account["imagePullSecrets"] == [{"name": "registry"}]
    assert account["metadata"]["labels"] == {"team": "shop"}
    assert account["metadata"]["annotations"].items() >= OWNER.items()
    assert account["metadata"]["annotations"]["azure.workload.identity/client-id"] == f"client-{shop}"
    api = cluster.api("GET", f"/apis/apps/v1/namespaces/{shop}/deployments/api")
    assert (api["spec"]["replicas"], api["metadata"]["annotations"]["owner"]) == (3, "team-a")
    (container,) = api["spec"]["template"]["spec"]["containers"]
    assert (container["name"], container["env"]) == ("c", [{"name": "A", "value": "b"}])
    assert api["spec"]["template"]["metadata"]["labels"] == {**labels, "app": "api"}
