"""The chart's policies conform to Cilium's own definitions on the real API server.

A program that is built with Cilium's Go package, pinned by go.sum, prints the definitions. No Cilium agent runs here:
tests/system/node/on_cilium has one."""

import copy
import functools
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.chart_objects import HELMS
from tests.support.testplane import up
from tests.system.plane.deploy.helm_cluster import Cluster
from tools.chart.rendering import CHART, GOLDEN, Object, render

SOURCES: Final = Path(__file__).parent / "cilium"
REDIRECTS: Final = "ciliumlocalredirectpolicies"
CLUSTERWIDE: Final = "ciliumclusterwidenetworkpolicies"


@functools.cache
def definitions() -> dict[str, Any]:
    """Return the definitions of the policies that the chart creates, by plural. The first call downloads 38 MB."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCES.iterdir())))

    def make(new: Path) -> None:
        command = [up.go(), "build", "-mod=readonly", "-trimpath", "-o", str(new / "definitions"), "."]
        subprocess.run(command, cwd=SOURCES, check=True, env={**os.environ, "CGO_ENABLED": "0"}, timeout=240)

    program = up.once(up.CACHE / f"cilium-{digest.hexdigest()[:16]}", make) / "definitions"
    text = subprocess.run([program, REDIRECTS, CLUSTERWIDE], check=True, capture_output=True, timeout=20).stdout
    return {definition["spec"]["names"]["plural"]: definition for definition in yaml.safe_load_all(text)}


pytestmark = pytest.mark.plane
VALUES = GOLDEN / "cilium.values.yaml"
NAMESPACE = "of-cilium"


@pytest.fixture(scope="module")
def cluster(plane: up.Plane) -> Iterator[Cluster]:
    """A cluster with Cilium's definitions."""
    made = Cluster(plane)
    kinds = [f"crd/{plural}.cilium.io" for plural in definitions()]
    made.kubectl("create", "namespace", NAMESPACE)
    made.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(definitions().values()))
    made.until_established(*kinds)
    yield made
    made.delete_definitions("cilium.io")
    made.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def policies() -> list[Object]:
    rendered = [
        manifest for manifest in render(VALUES, namespace=NAMESPACE) if manifest["apiVersion"] == "cilium.io/v2"
    ]
    assert {manifest["kind"] for manifest in rendered} == {
        "CiliumLocalRedirectPolicy",
        "CiliumClusterwideNetworkPolicy",
    }
    return rendered


def create(cluster: Cluster, *documents: Object) -> list[dict[str, Any]]:
    """Create the objects with strict validation and return them as stored."""
    given = yaml.safe_dump_all(documents)
    return list(yaml.safe_load_all(cluster.kubectl("create", "--validate=strict", "-oyaml", "-f", "-", stdin=given)))


def test_the_server_stores_each_field_of_the_policies(cluster: Cluster) -> None:
    try:
        stored = create(cluster, *policies())
        assert len(stored) == 3
        for policy in policies():
            (stored_policy,) = (item for item in stored if item["metadata"]["name"] == policy["metadata"]["name"])
            defaulted = {"skipRedirectFromBackend": False} if policy["kind"] == "CiliumLocalRedirectPolicy" else {}
            assert stored_policy.get("specs") == policy.get("specs")
            assert stored_policy.get("spec", {}) == ({**defaulted, **policy["spec"]} if "spec" in policy else {})
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(policies()))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("CiliumLocalRedirectPolicy", ("redirectBackend", "toPorts", 0, "port"), "requests"),
        ("CiliumLocalRedirectPolicy", ("redirectFrontend", "addressMatcher", "ip"), "metadata"),
        ("CiliumClusterwideNetworkPolicy", (1, "egressDeny", 0, "toCIDR", 0), "metadata"),
        ("CiliumClusterwideNetworkPolicy", (0, "enableDefaultDenied"), {"egress": False}),
        ("CiliumClusterwideNetworkPolicy", (0, "endpointSelector", "matchExpressions", 0, "operator"), "Unlike"),
    ],
)
def test_the_server_refuses_a_wrong_policy(cluster: Cluster, kind: str, path: tuple[Any, ...], value: object) -> None:
    policy = next(copy.deepcopy(policy) for policy in policies() if policy["kind"] == kind)
    policy["metadata"]["name"] = "wrong"
    inner = policy.get("spec") or policy["specs"]
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    field = next(part for part in reversed(path) if isinstance(part, str))
    with pytest.raises(
        AssertionError, match=rf"(Invalid value|unknown field).*{field}|{field}.*(Invalid|Unsupported) value"
    ):
        create(cluster, policy)


@pytest.mark.parametrize("helm", HELMS)
def test_helm_installs_them_and_refuses_a_cilium_without_the_needed_field(cluster: Cluster, helm: str) -> None:
    theirs = Cluster(cluster.plane, helm)
    namespace = f"{NAMESPACE}-{helm}"
    with theirs.installed(namespace, f"--values={VALUES}"):
        names = theirs.kubectl("get", REDIRECTS, f"-n={namespace}", "-o=name")
        kind = f"{REDIRECTS.removesuffix('ies')}y.cilium.io"
        assert names.split() == [f"{kind}/aad-pod-identity-nmi", f"{kind}/aad-pod-identity-nmi-check"]
    assert theirs.kubectl("get", CLUSTERWIDE, "-o=name").strip() == ""

    old = yaml.safe_load(yaml.safe_dump(definitions()[CLUSTERWIDE]).replace("enableDefaultDeny", "otherField"))
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(old))
    try:
        command = ("install", "pi", str(CHART), f"--namespace={NAMESPACE}", "--dry-run=server", f"--values={VALUES}")
        with pytest.raises(AssertionError, match=r"Upgrade to Cilium 1\.16 or newer, or set nmi\.failClosed to false"):
            theirs.helm(*command)
        assert "CiliumLocalRedirectPolicy" in theirs.helm(*command, "--set=nmi.failClosed=false")
    finally:
        new = yaml.safe_dump(definitions()[CLUSTERWIDE])
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=new)
