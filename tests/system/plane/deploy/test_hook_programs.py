"""The programs of the chart's hooks work with the permissions of their service accounts, on a real API server."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import NewPlane
from tests.support.old_authority import old_server
from tests.support.testplane import up
from tests.support.v1beta1_definitions import leave_v1beta1_definitions, served_definitions
from tests.support.waiting import until_sync
from tests.system.plane.deploy.helm_cluster import LIMIT, Cluster
from tools.chart.rendering import CHART, Object, render

FILES = CHART / "files"
MOUNTED = "/var/run/secrets/kubernetes.io/serviceaccount"
GROUP = "aadpodidentity.k8s.io"
RIGHTS: Final = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")


def named(objects: list[Object], name: str, *kinds: str) -> list[Object]:
    """Return the objects of these kinds with this name."""
    return [manifest for manifest in objects if manifest["kind"] in kinds and manifest["metadata"]["name"] == name]


def command_of(objects: list[Object], name: str) -> list[str]:
    """Return the command of the Job with this name."""
    (job,) = named(objects, name, "Job")
    return list(job["spec"]["template"]["spec"]["containers"][0]["command"])


@contextlib.contextmanager
def applied(cluster: Cluster, text: str) -> Iterator[None]:
    """Apply the objects in *text*, and delete them afterwards."""
    cluster.kubectl("apply", "-f", "-", stdin=text)
    try:
        yield
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=text)


def run(cluster: Cluster, account: str, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a container's *command* as in a pod of *account* in namespace default, with the kubelet's mounts."""
    (folder / "token").write_text(cluster.token(account, "default"))
    (folder / "ca.crt").write_text(cluster.plane.ca)
    assert command[:2] == ["python3", "-c"]
    return run_program(command[2], command[3:], folder, *cluster.plane.server.removeprefix("https://").split(":"))


def run_program(
    program: str, arguments: Sequence[str], folder: Path, host: str, port: str
) -> subprocess.CompletedProcess[str]:
    """Run the text of a program with the mounted files in *folder*, on the API server at this address."""
    assert program.count(MOUNTED) == 1
    return subprocess.run(
        [sys.executable, "-c", program.replace(MOUNTED, str(folder)), *arguments],
        env={**os.environ, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_definitions_hook(cluster: Cluster, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the hook that applies the chart's definitions, with the permissions of its service account."""
    objects, name = render(namespace="default"), "aad-pod-identity-crds"
    (carried,) = named(objects, name, "ConfigMap")
    definitions = folder / "definitions"
    definitions.mkdir()
    for file, text in carried["data"].items():
        (definitions / file).write_text(text)
    command = [word.replace("/definitions", str(definitions)) for word in command_of(objects, name)]
    with applied(cluster, yaml.safe_dump_all(named(objects, name, *RIGHTS))):
        cluster.until_rights_hold(
            account=name, namespace="default", verb="create", resource="customresourcedefinitions"
        )
        return run(cluster, name, command, folder)


def definition(plane: up.Plane, kind: str) -> dict[str, Any]:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.aadpodidentity.k8s.io"
    document: dict[str, Any] = plane.api("GET", path)
    return document


OLD_SPEC = {"type": 0, "ResourceID": "/subscriptions/s", "ClientID": "c"}
OLD: dict[str, Any] = {
    "apiVersion": "aadpodidentity.k8s.io/v1",
    "kind": "AzureIdentity",
    "metadata": {"name": "from-before-v1-6", "namespace": "default"},
    "spec": OLD_SPEC,
}
"""An object in the API server's storage from before v1.6.0, whose definitions kept every field."""


def of_the_go_implementation(file: Path, *, keeps_all: bool) -> str:
    """Return a definition of the Go implementation's chart: no columns, drops unknown fields unless *keeps_all*."""
    theirs = yaml.safe_load(file.read_text())
    theirs["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved", "theirs": "stays"}
    (version,) = theirs["spec"]["versions"]
    version.pop("additionalPrinterColumns")
    spec = {"type": "object", **({"x-kubernetes-preserve-unknown-fields": True} if keeps_all else {})}
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec
    return str(yaml.safe_dump(theirs))


def spec_of_old(cluster: Cluster) -> Any:
    return json.loads(cluster.kubectl("get", "azureidentity", "from-before-v1-6", "-n=default", "-o=json"))["spec"]


def until_old_is(cluster: Cluster, spec: dict[str, Any]) -> None:
    """Wait until the API server serves OLD with the new definition."""
    until_sync(lambda: spec_of_old(cluster), "the former object", holds=spec.__eq__)


@pytest.mark.plane
def test_definitions_of_the_go_implementation_are_replaced(kwok_plane: up.Plane, tmp_path: Path) -> None:
    cluster = Cluster(kwok_plane)
    cluster.delete_definitions(GROUP)
    for keeps_all, verb in ((True, "create"), (False, "replace")):
        for file in sorted((CHART / "crds").iterdir()):
            theirs = of_the_go_implementation(file, keeps_all=keeps_all)
            cluster.kubectl(verb, "--field-manager=helm", "-f", "-", stdin=theirs)
        if keeps_all:
            cluster.until_established(f"crd/azureidentities.{GROUP}")
            cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(OLD))
    until_old_is(cluster, {})
    done = run_definitions_hook(cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("applied ") == 4
    for file in (CHART / "crds").iterdir():
        ours = yaml.safe_load(file.read_text())
        now = definition(kwok_plane, ours["spec"]["names"]["plural"])
        assert now["metadata"]["annotations"]["theirs"] == "stays"
        assert now["metadata"]["annotations"].items() >= ours["metadata"]["annotations"].items()
        (version,), (wanted,) = now["spec"]["versions"], ours["spec"]["versions"]
        assert version["additionalPrinterColumns"] == wanted["additionalPrinterColumns"]
        assert version["schema"] == wanted["schema"]
    until_old_is(cluster, OLD_SPEC)
    cluster.kubectl("delete", "azureidentity", "from-before-v1-6", "-n=default")


@pytest.mark.plane
@pytest.mark.parametrize("applied_by_kubectl", [False, True])
def test_definitions_that_were_created_in_v1beta1_no_longer_preserve_every_field(
    new_plane: NewPlane, tmp_path: Path, *, applied_by_kubectl: bool
) -> None:
    plane = new_plane()
    cluster = Cluster(plane)
    leave_v1beta1_definitions(plane)
    old = {**OLD, "spec": {**OLD_SPEC, "unknown": {"a": [1]}}}
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(old))
    if applied_by_kubectl:
        cluster.kubectl("apply", "-f", str(CHART / "crds"))
    assert [definition["spec"]["preserveUnknownFields"] for definition in served_definitions(plane)] == [True] * 4

    done = run_definitions_hook(cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    for definition in served_definitions(plane):
        assert "preserveUnknownFields" not in definition["spec"]
        assert definition["metadata"]["creationTimestamp"] == "2019-06-01T00:00:00Z", (
            "the definition is not created again"
        )
    until_old_is(cluster, old["spec"])


@pytest.mark.plane
def test_a_refusal_of_the_server_is_reported(plane: up.Plane, tmp_path: Path) -> None:
    cluster = Cluster(plane)
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "a.yaml").write_text((CHART / "crds" / "azureidentity.yaml").read_text())
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "unprivileged", "namespace": "default"},
    }
    with applied(cluster, yaml.safe_dump(account)):
        command = ["python3", "-c", (FILES / "apply_crds.py").read_text(), str(folder)]
        done = run(cluster, "unprivileged", command, tmp_path)
    assert done.returncode == 1
    assert "azureidentities.aadpodidentity.k8s.io was not applied: 403" in done.stderr
    assert "Traceback" not in done.stderr


CLEANUP: Final = "aad-pod-identity-cleanup"


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render(namespace="default", options=["--set=nmi.failClosed=true"])


@pytest.mark.plane
def test_a_node_is_cleaned_after_its_nmi_has_ended_and_finally_nothing_remains(
    objects: list[Object], kwok_plane: up.Plane, tmp_path: Path
) -> None:
    cluster = Cluster(kwok_plane)
    (nmi,) = named(objects, "aad-pod-identity-nmi", "DaemonSet")
    lingering = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "lingering",
            "namespace": "default",
            "labels": nmi["spec"]["template"]["metadata"]["labels"],
        },
        "spec": {"nodeName": "node-001", "containers": [{"name": "nmi", "image": "nmi"}]},
    }
    made = yaml.safe_dump_all(named(objects, CLEANUP, *RIGHTS, "DaemonSet"))
    cluster.kubectl("wait", "--for=create", "--timeout=60s", "-n=default", "serviceaccount/default")
    with applied(cluster, yaml.safe_dump(lingering)), applied(cluster, made):
        cluster.kubectl("wait", f"ds/{CLEANUP}", "-n=default", "--for=jsonpath={.status.numberReady}=2", LIMIT)
        where = ("-n=default", "-l", "app.kubernetes.io/component=cleanup", "-o", "jsonpath={.items[*].spec.nodeName}")
        assert set(cluster.kubectl("get", "pods", *where).split()) == {"node-000", "node-002"}
        cluster.kubectl("delete", "pod", "lingering", "-n=default", "--grace-period=0", "--force")
        done = run(cluster, CLEANUP, command_of(objects, CLEANUP), tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "3 of 3 nodes are clean"
        cluster.kubectl("wait", f"ds/{CLEANUP}", "-n=default", "--for=delete", LIMIT)


@pytest.mark.plane
def test_a_wait_that_takes_too_long_reports_the_remaining_nodes(
    objects: list[Object], plane: up.Plane, tmp_path: Path
) -> None:
    cluster = Cluster(plane)
    command = [word.replace("LIMIT_SECONDS = 240.0", "LIMIT_SECONDS = 0.5") for word in command_of(objects, CLEANUP)]
    plane.api("POST", "/api/v1/nodes", {"metadata": {"name": "down", "labels": {"kubernetes.io/os": "linux"}}})
    try:
        with applied(cluster, yaml.safe_dump_all(named(objects, CLEANUP, *RIGHTS, "DaemonSet"))):
            wanted = "--for=jsonpath={.status.desiredNumberScheduled}=1"
            cluster.kubectl("wait", f"ds/{CLEANUP}", "-n=default", wanted, LIMIT)
            cluster.until_rights_hold(
                account=CLEANUP, namespace="default", verb="get", resource=f"daemonsets.apps/{CLEANUP}"
            )
            done = run(cluster, CLEANUP, command, tmp_path)
            assert cluster.kubectl("get", f"ds/{CLEANUP}", "-n=default", "-o=name")
    finally:
        plane.api("DELETE", "/api/v1/nodes/down")
    assert done.returncode == 1
    assert "0 of 1 nodes are clean after 0.5 s: kubectl -n default get pods -o wide" in done.stderr


@pytest.mark.plane
def test_a_missing_cleanup_daemonset_causes_no_wait_and_a_missing_permission_to_delete_it_is_reported(
    objects: list[Object], plane: up.Plane, tmp_path: Path
) -> None:
    cluster = Cluster(plane)
    rights = yaml.safe_dump_all(named(objects, CLEANUP, *RIGHTS)).replace("  - delete\n", "")
    command = [word.replace("DELETE_SECONDS = 20.0", "DELETE_SECONDS = 0.5") for word in command_of(objects, CLEANUP)]
    with applied(cluster, rights):
        cluster.until_rights_hold(
            account=CLEANUP, namespace="default", verb="get", resource=f"daemonsets.apps/{CLEANUP}"
        )
        missing = run(cluster, CLEANUP, command, tmp_path)
        with applied(cluster, yaml.safe_dump_all(named(objects, CLEANUP, "DaemonSet"))):
            cluster.kubectl("wait", f"ds/{CLEANUP}", "-n=default", "--for=jsonpath={.status.observedGeneration}=1")
            refused = run(cluster, CLEANUP, command, tmp_path)
    assert (missing.returncode, refused.returncode) == (1, 1)
    assert f"GET of DaemonSet default/{CLEANUP} returns 404 Not Found: kubectl" in missing.stderr
    assert f"returns 403 (give this service account permission to get and delete DaemonSet {CLEANUP})" in refused.stderr
    assert f"all nodes are clean, so kubectl -n default delete daemonset {CLEANUP}" in refused.stderr


NOTHING_TO_CLEAN = b'{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 0}}'
# The output of each program for this response of the server.
ANSWERED = {
    "apply_crds.py": (b"{}", "applied azureassignedidentities"),
    "wait_for_cleanup.py": (NOTHING_TO_CLEAN, "0 of 0 nodes are clean"),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_a_cluster_whose_certificates_have_no_key_identifiers_is_served(name: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    arguments = [str(CHART / "crds")] if name == "apply_crds.py" else ["default", "cleanup"]
    body, expected = ANSWERED[name]
    # The default of Python 3.13.
    strict = "import tests.support.old_authority as old, ssl\n"
    strict += "ssl.create_default_context = old.as_from_python_3_13_on(ssl.create_default_context)\n"
    with old_server(body) as (authority, port):
        (tmp_path / "ca.crt").write_text(authority)
        done = run_program(strict + (FILES / name).read_text(), arguments, tmp_path, "127.0.0.1", str(port))
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
