"""`podidctl preflight` on an API server in memory: each requirement, its fault, and the values that follow."""

from typing import Final

import pytest
import yaml

from podidctl.facts.model import Facts
from podidctl.preflight.checks import OLDEST_MINOR, Preflight, preflight
from podidctl.preflight.reader import pod_like_nmi, read_state
from podidctl.preflight.state import NMI_PORTS, ClusterState
from podidctl.report.finding import Level
from podidentity.resources import PODS
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.checkout import ROOT
from tests.support.podidctl.memory_cluster import MemoryCluster

VM: Final = "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm"
EBPF: Final = {"kubernetes.azure.com/ebpf-host-routing": "true"}
REPLACES: Final = {
    "kube-proxy-replacement": "true",
    "enable-bpf-masquerade": "true",
    "enable-local-redirect-policy": "true",
}


def node(cluster: MemoryCluster, name: str, labels: dict[str, str] | None = None, provider_id: str = VM) -> None:
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"} | (labels or {})
    document = {"metadata": {"name": name, "labels": labels}, "spec": {"providerID": provider_id}}
    cluster.api.store.create("nodes", document)


def serve(cluster: MemoryCluster, group: str, plural: str) -> None:
    """Serve a custom resource of another project."""
    version = {"name": "v2", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    names = {"plural": plural, "kind": plural.title(), "singular": plural, "listKind": f"{plural.title()}List"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    cluster.api.store.create(DEFINITIONS, {"metadata": {"name": f"{plural}.{group}"}, "spec": spec})


def cilium(cluster: MemoryCluster, configuration: dict[str, str] | None = None, *, policies: bool = True) -> None:
    serve(cluster, "cilium.io", "ciliumlocalredirectpolicies" if policies else "ciliumnodes")
    meta = {"name": "cilium-config", "namespace": "kube-system"}
    cluster.api.store.create("configmaps", {"metadata": meta, "data": configuration or {}})


async def check(cluster: MemoryCluster, namespace: str = "default") -> Preflight:
    return preflight(await read_state(cluster.client, namespace))


def about(report: Preflight, name: str) -> list[tuple[Level, str]]:
    """Return level and text with action of the findings of one check."""
    return [(result.level, f"{result.says}: {result.next}") for result in report.findings if result.check == name]


@pytest.fixture(autouse=True)
def _suitable(cluster: MemoryCluster) -> None:
    node(cluster, "n0")
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "azure-cns", "uid": "u", "controller": True}
    meta = {"name": "azure-cns-1", "namespace": "kube-system", "ownerReferences": [owner]}
    cluster.api.store.create(
        "pods", {"metadata": meta, "spec": {"hostNetwork": True, "containers": [{"name": "c", "image": "i"}]}}
    )


async def test_a_suitable_cluster_has_no_problem_and_needs_no_value(cluster: MemoryCluster) -> None:
    report = await check(cluster)
    assert {result.check for result in report.findings if result.level is not Level.OK} == {"roles"}
    assert yaml.safe_load(report.values).keys() == {"image"}


async def test_the_only_write_is_a_dry_run(cluster: MemoryCluster) -> None:
    await check(cluster)
    assert [request.path for request in cluster.api.requests if request.method != "GET"] == [
        "/api/v1/namespaces/default/pods?dryRun=All"
    ]
    assert not await cluster.client.list(PODS, "default")


@pytest.mark.parametrize(
    ("configuration", "level", "backend"),
    [
        (REPLACES, Level.OK, "cilium"),
        (REPLACES | {"kube-proxy-replacement": "True"}, Level.OK, "cilium"),
        (REPLACES | {"enable-bpf-masquerade": "false", "enable-ipv4-masquerade": "false"}, Level.OK, "cilium"),
        (REPLACES | {"enable-bpf-masquerade": "false"}, Level.OK, None),
        (REPLACES | {"enable-host-legacy-routing": "True"}, Level.OK, None),
        (REPLACES | {"enable-ipsec": "true"}, Level.OK, None),
        (REPLACES | {"enable-endpoint-routes": "true"}, Level.WARNING, None),
        (REPLACES | {"kube-proxy-replacement": "partial"}, Level.WARNING, None),
        ({"kube-proxy-replacement": "true"}, Level.OK, None),
        ({"kube-proxy-replacement": "false"}, Level.OK, None),
        ({}, Level.OK, None),
        ({name: REPLACES[name] for name in [*REPLACES][:2]}, Level.PROBLEM, "cilium"),
        (REPLACES | {"lrp-address-matcher-cidrs": "10.0.0.0/8"}, Level.PROBLEM, "cilium"),
        (REPLACES | {"lrp-address-matcher-cidrs": "10.0.0.0/8,169.254.169.254/32"}, Level.OK, "cilium"),
    ],
)
async def test_ciliums_configuration_decides_about_the_backend(
    cluster: MemoryCluster, configuration: dict[str, str], level: Level, backend: str | None
) -> None:
    cilium(cluster, configuration)
    report = await check(cluster)
    assert [result for result, _ in about(report, "data plane")] == [level]
    values = yaml.safe_load(report.values).get("nmi", {"redirect": {"backend": None}})
    assert values["redirect"]["backend"] == backend


async def test_an_unknown_configuration_of_cilium_is_unknown(cluster: MemoryCluster) -> None:
    serve(cluster, "cilium.io", "ciliumlocalredirectpolicies")
    ((level, text),) = about(await check(cluster), "data plane")
    assert (level, "grep 'Host Routing'" in text) == (Level.UNKNOWN, True)


async def test_without_the_nodes_nothing_is_claimed_about_the_data_plane(cluster: MemoryCluster) -> None:
    cluster.api.refuse(403, "Forbidden", "GET", what="/nodes")
    assert [level for level, _ in about(await check(cluster), "data plane")] == [Level.UNKNOWN]


async def test_ebpf_host_routing_without_redirect_policies_is_a_problem(cluster: MemoryCluster) -> None:
    cilium(cluster, REPLACES, policies=False)
    ((level, text),) = about(await check(cluster), "data plane")
    assert (level, "serves no CiliumLocalRedirectPolicy" in text) == (Level.PROBLEM, True)


async def test_akss_label_selects_the_backend_and_nodes_without_it_are_named(cluster: MemoryCluster) -> None:
    node(cluster, "fast", EBPF)
    cilium(cluster, REPLACES)
    report = await check(cluster)
    assert [level for level, _ in about(report, "data plane")] == [Level.OK, Level.WARNING]
    assert "eBPF host routing: n0" in about(report, "data plane")[1][1]
    assert yaml.safe_load(report.values)["nmi"] == {"redirect": {"backend": "cilium"}, "handover": {"enabled": False}}


async def test_a_cluster_without_a_known_network_plugin_may_use_kubenet(cluster: MemoryCluster) -> None:
    cluster.api.store.delete("pods", "azure-cns-1", "kube-system", grace_seconds=0)
    ((level, text),) = about(await check(cluster), "data plane")
    assert (level, "kubenet" in text) == (Level.WARNING, True)


async def test_nodes_that_cannot_run_nmi_or_get_identities_are_named(cluster: MemoryCluster) -> None:
    node(cluster, "windows", {"kubernetes.io/os": "windows"})
    node(cluster, "elsewhere", {"kubernetes.io/arch": "arm64"}, provider_id="aws:///a/i-1")
    (_, first), (_, second), (_, third) = about(await check(cluster), "nodes")
    assert "2 Linux nodes (1 amd64, 1 arm64)" in first
    assert "(1 with Windows): windows" in second
    assert "names no VM of Azure: elsewhere" in third


async def test_a_cluster_without_linux_nodes_is_a_problem(cluster: MemoryCluster) -> None:
    cluster.api.store.delete("nodes", "n0", grace_seconds=0)
    assert [level for level, _ in about(await check(cluster), "nodes")] == [Level.PROBLEM]


@pytest.mark.parametrize("port", NMI_PORTS)
@pytest.mark.parametrize("declared", ["hostPort", "hostNetwork"])
async def test_a_port_of_nmi_that_a_pod_uses_is_a_problem(cluster: MemoryCluster, port: int, declared: str) -> None:
    ports = [{"containerPort": 1, "hostPort": port}] if declared == "hostPort" else [{"containerPort": port}]
    spec = {"hostNetwork": declared == "hostNetwork", "containers": [{"name": "c", "image": "i", "ports": ports}]}
    cluster.api.store.create("pods", {"metadata": {"name": "exporter", "namespace": "default"}, "spec": spec})
    ((level, text),) = about(await check(cluster), "host ports")
    assert (level, f"{port} of default/exporter" in text) == (Level.PROBLEM, True)


async def test_a_port_that_is_not_that_of_a_linux_node_is_no_problem(cluster: MemoryCluster) -> None:
    node(cluster, "windows", {"kubernetes.io/os": "windows"})
    for name, port, spec in (
        ("own-network", {"containerPort": 9090}, {}),
        ("udp", {"containerPort": 1, "hostPort": 9090, "protocol": "UDP"}, {}),
        ("elsewhere", {"containerPort": 9090}, {"hostNetwork": True, "nodeName": "windows"}),
    ):
        container = {"name": "c", "image": "i", "ports": [port]}
        document = {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [container], **spec}}
        cluster.api.store.create("pods", document)
    assert [level for level, _ in about(await check(cluster), "host ports")] == [Level.OK]


@pytest.mark.parametrize(
    ("managed", "level", "text"),
    [
        ({"kubernetes.azure.com/managedby": "aks"}, Level.PROBLEM, "--disable-pod-identity"),
        ({}, Level.WARNING, "run in kube-system"),
    ],
)
async def test_another_installation_is_named(
    cluster: MemoryCluster, managed: dict[str, str], level: Level, text: str
) -> None:
    labels = {"component": "nmi"} | managed
    container = {"name": "nmi", "image": "i", "ports": [{"containerPort": 9090}]}
    spec = {"hostNetwork": True, "nodeName": "n0", "containers": [container]}
    meta = {"name": "nmi-1", "namespace": "kube-system", "labels": labels}
    cluster.api.store.create("pods", {"metadata": meta, "spec": spec})
    report = await check(cluster)
    ((found, says),) = about(report, "other installations")
    assert (found, text in says) == (level, True)
    assert [level for level, _ in about(report, "host ports")] == [Level.OK], "its own ports"


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_the_text_of_a_policy_that_refuses_nmis_pods_is_shown(cluster: MemoryCluster, status: int) -> None:
    serve(cluster, "kyverno.io", "policies")
    cluster.api.refuse(status, "", "POST")
    ((level, text),) = about(await check(cluster), "admission")
    assert level is Level.PROBLEM
    assert "(Kyverno in force): refused by the test: exclude namespace default" in text


@pytest.mark.parametrize(
    ("message", "level", "then"),
    [
        ('admission webhook "x" does not support dry run', Level.UNKNOWN, "kubectl"),
        ("error looking up service account default/default: not found", Level.UNKNOWN, ""),
        ("exceeded quota: q, requested: pods=1, used: pods=1", Level.PROBLEM, "raise the quota"),
        ("image of a registry that is not allowed", Level.PROBLEM, "pass your --repository"),
    ],
)
async def test_only_a_decision_about_the_pod_is_a_problem(
    cluster: MemoryCluster, message: str, level: Level, then: str
) -> None:
    cluster.api.intercept = lambda request: StatusError(403, "Forbidden", message) if request.method == "POST" else None
    ((found, text),) = about(await check(cluster), "admission")
    assert (found, message in text, then in text) == (level, True, True)


async def test_the_repository_is_tried_and_in_the_values(cluster: MemoryCluster) -> None:
    state = await read_state(cluster.client, "default", "acme.example/a: b")
    assert pod_like_nmi(state)["spec"]["containers"][0]["image"].startswith("acme.example/a: b/nmi:")
    assert yaml.safe_load(preflight(state).values)["image"] == {"repository": "acme.example/a: b"}


async def test_a_missing_namespace_has_the_commands_that_create_it(cluster: MemoryCluster) -> None:
    ((level, text),) = about(await check(cluster, "podid"), "admission")
    assert level is Level.PROBLEM
    assert "kubectl create namespace podid, then kubectl label" in text


async def test_a_part_that_cannot_be_read_is_unknown_and_hides_no_other(cluster: MemoryCluster) -> None:
    def intercept(request: Recorded) -> StatusError | None:
        hidden = any(part in request.path for part in ("/nodes", "/pods"))
        message = 'pods is forbidden: User "u" cannot create resource "pods"'
        return StatusError(403, "Forbidden", message) if hidden else None

    cluster.api.intercept = intercept
    report = await check(cluster)
    unknown = {result.check for result in report.findings if result.level is Level.UNKNOWN}
    assert unknown == {"nodes", "data plane", "other installations", "host ports", "admission"}
    assert about(report, "API server")[0][0] is Level.OK


async def test_untrusted_names_are_printed_without_control_characters(cluster: MemoryCluster) -> None:
    cluster.api.intercept = lambda request: (
        StatusError(403, "Forbidden", "no \x1b[31m\r\n") if request.method == "POST" else None
    )
    report = await check(cluster)
    assert not any(not character.isprintable() for result in report.findings for character in result.says)


def test_the_oldest_version_is_that_of_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "deploy/charts/aad-pod-identity/Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">=1.{OLDEST_MINOR}.0-0"


def test_the_tried_pod_is_that_of_the_charts_defaults() -> None:
    rendered = (ROOT / "tests/repository/deploy/golden/defaults.yaml").read_text()
    daemon_sets = [item for item in yaml.safe_load_all(rendered) if item and item["kind"] == "DaemonSet"]
    (chart,) = (item for item in daemon_sets if item["metadata"]["name"].endswith("-nmi"))
    theirs, ours = chart["spec"]["template"]["spec"], pod_like_nmi(ClusterState("podid", "", Facts()))["spec"]
    (container,), (tried,) = theirs.pop("containers"), ours.pop("containers")
    assert theirs.pop("serviceAccountName")
    for mounts in (theirs["volumes"], ours["volumes"], container["volumeMounts"], tried["volumeMounts"]):
        mounts.sort(key=lambda mount: str(mount["name"]))
    for key in ("args", "env", "image", "imagePullPolicy", "startupProbe"):
        container.pop(key)
    tried.pop("image")
    container["readinessProbe"].pop("failureThreshold")
    assert (ours, tried) == (theirs, container)
