"""Reads about several pods: what they share is read once, and each explanation equals that of the pod alone."""

import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

import pytest

from mic.azure.identities import HostIdentities
from podidctl.checks.explanation import explain
from podidctl.commands.explain_targets import Target, explain_target
from podidctl.evaluation.needs import CHECKED_MAX
from podidctl.facts.model import Facts, PodKey, ServerState
from podidctl.facts.nmi_log import parse_decisions
from podidctl.reading import daemons, reader
from podidctl.reading import pods as pods_reader
from podidctl.reading.reader import pod_parts, read
from podidctl.report.documents import Explanation, LoggedDecision, PodsExplanation
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host
from podidentity_sandbox.kubeapi.kinds import ResourceType
from tests.support.mic.emulated_cloud import ASSIGNED, BINDINGS, IDENTITIES
from tests.support.podidctl.memory_cluster import MemoryCluster

EXCEPTIONS = "azurepodidentityexceptions.aadpodidentity.k8s.io"


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all reads of a test have one time, so that texts with durations are equal."""
    start = datetime(2100, 6, 1, tzinfo=UTC)

    class Stopped(datetime):
        @classmethod
        @override
        def now(cls, tz: tzinfo | None = None) -> Any:
            return start.astimezone(tz)

    async def read_server(_: Any) -> ServerState:
        return ServerState("v1.30.0", 0.0)

    monkeypatch.setattr(reader, "datetime", Stopped)
    monkeypatch.setattr(reader, "read_server", read_server)


async def several(cluster: MemoryCluster, **target: Any) -> PodsExplanation:
    report = await explain_target(cluster.client, Target(**target), None, None)
    assert isinstance(report, PodsExplanation)
    return report


async def alone(cluster: MemoryCluster, name: str) -> Explanation:
    namespace, _, bare = name.partition("/")
    return explain(await read(cluster.client, Facts(scope=(namespace, bare)), pod_parts(None)))


def running(
    cluster: MemoryCluster, name: str, address: str, *, node: str = "n0", second: str = "", **changes: Any
) -> None:
    cluster.pod(name, node, **changes)
    addresses = [{"ip": text} for text in (address, second) if text]
    status = {"phase": "Running", "podIP": address, "podIPs": addresses}
    cluster.api.store.patch("pods", name, {"status": status}, changes.get("namespace", "default"), subresource="status")


def ready_nmi(cluster: MemoryCluster, node: str, *flags: str) -> None:
    args = (f"--node={node}", *flags)
    cluster.daemon(f"nmi-{node}", args=args, namespace="kube-system", hostNetwork=True, nodeName=node)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    cluster.api.store.patch("pods", f"nmi-{node}", {"status": status}, "kube-system", subresource="status")


def log_of(cluster: MemoryCluster, *names: str) -> None:
    """Let the log of each NMI have a refusal of each of these pods."""
    head = "I0101 00:00:00.000000 nmi.server.decisions] token refused"
    uids = {name: cluster.api.store.get("pods", name, "default")["metadata"]["uid"] for name in names}
    lines = (
        f'{head} pod="default/{name}" uid="{uid}" outcome="refused" reason="upstream_refused" status=403 error="no"\n'
        for name, uid in uids.items()
    )
    log = "".join(lines).encode()

    async def read(*_: Any) -> AsyncIterator[bytes]:
        yield log

    cluster.api.read_with(read)


MANAGED = ("--operation-mode=managed", "--forceNamespaced")


def principal(cluster: MemoryCluster, name: str, secret: str, **changes: Any) -> None:
    """Create a service principal of a Secret, and its binding."""
    namespace = changes.get("namespace", "default")
    its = {"tenantID": "contoso.com", "clientID": "0b000000-0000-0000-0000-000000000001"}
    reference = {"name": secret, "namespace": changes.pop("of", namespace)}
    cluster.identity(name, type=1, **its, clientPassword=reference, **changes)


def filled(cluster: MemoryCluster) -> None:
    """Fill the cluster with pods that differ in all that their explanations depend on."""
    store = cluster.api.store
    store.create("namespaces", {"metadata": {"name": "payments"}})
    cluster.node("n0")
    cluster.node("n1")
    for node in ("n0", "n1"):
        ready_nmi(cluster, node, "--forceNamespaced=true" if node == "n1" else "--forceNamespaced=false")
    cluster.identity()
    principal(cluster, "secret", "missing")
    cluster.identity("federated", type=3, clientID="0b000000-0000-0000-0000-000000000001", tenantID="contoso.com")
    for number, (name, node) in enumerate((("web", "n0"), ("other", "n1"), ("twin", "n0"), ("moved", "n1"))):
        running(cluster, name, f"10.0.0.{number}" if name != "twin" else "10.0.0.0", node=node)
    running(cluster, "away", "10.0.0.0", node="n1", namespace="payments")
    running(cluster, "principal", "10.0.0.8", label="secret")
    running(cluster, "trusted", "10.0.0.9", label="federated", node="n1")
    running(cluster, "bare", "10.0.0.10")
    for name, address in (("dual", "10.0.0.12"), ("stack", "10.0.0.13")):
        running(cluster, name, address, second="fd00::7")
    store.patch("pods", "bare", {"metadata": {"labels": {"aadpodidbinding": None, "app": "bare"}}}, "default")
    running(cluster, "exempt", "10.0.0.11", namespace="payments")
    store.patch("pods", "exempt", {"metadata": {"labels": {"app": "exempt"}}}, "payments")
    cluster.create(EXCEPTIONS, "all", {"podLabels": {"app": "exempt"}}, "payments")
    for name in ("web", "principal"):
        identity = store.get(IDENTITIES, "demo" if name == "web" else "secret", "default")
        about = {"azureIdentityRef": identity, "azureBindingRef": {}, "pod": name, "podNamespace": "default"}
        cluster.create(ASSIGNED, f"{name}-assigned", {**about, "nodename": "n0"})
        patch = {"metadata": {"labels": {"nodename": "n0"}}, "status": {"status": "Assigned"}}
        store.patch(ASSIGNED, f"{name}-assigned", patch, "default")
    log_of(cluster, "web", "other")


def timeless(explanation: Explanation) -> bytes:
    """Without the time that passes between two reads."""
    return re.sub(rb"at most \d+ s", b"", msgspec.json.encode(explanation))


async def test_each_explanation_equals_that_of_the_pod_alone(cluster: MemoryCluster) -> None:
    filled(cluster)
    labelled = await several(cluster, everywhere=True)
    bare = await several(cluster, selector="app in (bare)")
    explanations = [*labelled.pods, *bare.pods]
    assert len(explanations) == 11
    for explanation in explanations:
        assert timeless(explanation) == timeless(await alone(cluster, explanation.pod))
    links = Counter(link.link for explanation in explanations for link in explanation.links)
    assert {"binding", "secret", "service account", "exception", "label", "NMI"} <= links.keys()
    assert [explanation.pod for explanation in explanations if explanation.decided] == ["default/other", "default/web"]
    assert "another pod has its address" in next(pod.summary for pod in explanations if pod.pod == "default/twin")
    texts = [link.says for its in explanations if its.pod == "default/dual" for link in its.links]
    assert any("another pod has its address: default/stack" in text for text in texts)


@pytest.mark.parametrize("flags", [("--read-old-field-names", "--allow-cross-namespace-secrets"), ()])
async def test_flags_that_differ_between_nodes_count_for_the_pods_of_each(
    cluster: MemoryCluster, flags: tuple[str, ...]
) -> None:
    cluster.api.store.create("namespaces", {"metadata": {"name": "vault"}})
    secret = {"metadata": {"name": "s", "namespace": "vault"}, "data": {"ClientSecret": "YQ=="}}
    cluster.api.store.create("secrets", secret)
    cluster.identity()
    principal(cluster, "secret", "s", of="vault")
    principal(cluster, "lost", "missing", of="vault")
    cluster.create(BINDINGS, "old", {"AzureIdentity": "demo", "Selector": "old"})
    nodes = {"n0": flags, "n1": () if flags else ("--read-old-field-names", "--allow-cross-namespace-secrets")}
    for number, (node, its) in enumerate(nodes.items()):
        cluster.node(node)
        ready_nmi(cluster, node, *MANAGED, *its)
        for place, label in enumerate(("old", "secret", "lost")):
            running(cluster, f"{label}-{node}", f"10.0.{number}.{place}", node=node, label=label)
    report = await several(cluster, everywhere=True)
    for explanation in report.pods:
        assert explanation == await alone(cluster, explanation.pod)
    well, lacking = ("n0", "n1") if flags else ("n1", "n0")
    broken = {explanation.pod: explanation.broken for explanation in report.pods}
    assert [pod for pod, is_broken in broken.items() if not is_broken] == [
        f"default/old-{well}",
        f"default/secret-{well}",
    ]
    assert broken[f"default/lost-{well}"]
    assert broken[f"default/lost-{lacking}"]


async def test_many_service_principals_of_one_namespace_do_not_hide_those_of_another(cluster: MemoryCluster) -> None:
    cluster.api.store.create("namespaces", {"metadata": {"name": "aaa"}})
    cluster.node("n0")
    ready_nmi(cluster, "n0", *MANAGED)
    for number in range(CHECKED_MAX):
        principal(cluster, f"i{number}", "s", namespace="aaa", selector="many")
    running(cluster, "crowd", "10.0.0.1", namespace="aaa", label="many")
    principal(cluster, "secret", "missing")
    running(cluster, "web", "10.0.0.2", label="secret")
    report = await several(cluster, everywhere=True)
    assert report.pods[1].summary.startswith("broken: secret: ")
    assert report.pods[1] == await alone(cluster, "default/web")


async def test_azure_is_asked_about_the_hosts_of_the_chosen_pods_also_without_a_label(cluster: MemoryCluster) -> None:
    requested: list[str] = []

    class Azure:
        async def get(self, host: Host) -> HostIdentities:
            requested.append(host.key)
            raise AzureError("no")

    filled(cluster)
    await explain_target(cluster.client, Target(selector="app=bare"), None, Azure())
    assert len(requested) == 1


async def test_shared_lists_are_read_once_and_logs_once_for_each_node(cluster: MemoryCluster) -> None:
    filled(cluster)
    cluster.api.requests.clear()
    await several(cluster, everywhere=True)
    paths = Counter(re.sub(r"\?.*", "", request.path) for request in cluster.api.requests if request.method == "GET")
    paths_of_lists = [path for path in paths if "aadpodidentity" in path or path.endswith("/nodes")]
    assert {paths[path] for path in paths_of_lists} == {1}
    assert len(paths_of_lists) == 5
    assert sum(paths[path] for path in paths if path.endswith("/log")) == 2
    assert sum(paths[path] for path in paths if path.endswith("/events")) == 10
    assert paths["/api/v1/pods"] == 5, "labelled pods, those with each label of NMI, and those of each node"


async def test_a_log_is_parsed_once_for_all_pods_of_its_node(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def parse(log: str) -> dict[PodKey, tuple[LoggedDecision, ...]]:
        parsed.append(log)
        return parse_decisions(log)

    monkeypatch.setattr(daemons, "parse_decisions", parse)
    filled(cluster)
    report = await several(cluster, everywhere=True)
    assert [explanation.pod for explanation in report.pods if explanation.decided] == ["default/other", "default/web"]
    assert len(parsed) == 2


async def test_of_too_many_pods_some_of_each_namespace_are_explained(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods_reader, "PODS_MAX", 3)
    cluster.api.store.create("namespaces", {"metadata": {"name": "shop"}})
    for number in range(5):
        cluster.pod(f"web-{number}", "n0")
    cluster.pod("web", "n0", namespace="shop")
    report = await several(cluster, everywhere=True)
    assert [explanation.pod for explanation in report.pods] == ["default/web-0", "default/web-1", "shop/web"]
    assert report.omitted == 3
    assert report.summary == "broken: 3 of 3 pods; 3 more not explained"
    assert (await several(cluster, namespace="shop")).omitted == 0


async def test_pods_that_have_ended_are_left_out(cluster: MemoryCluster) -> None:
    running(cluster, "web", "10.0.0.1")
    cluster.pod("done", "n0")
    cluster.api.store.patch("pods", "done", {"status": {"phase": "Succeeded"}}, "default", subresource="status")
    assert [explanation.pod for explanation in (await several(cluster, namespace="default")).pods] == ["default/web"]


async def test_a_named_object_is_explained_with_its_pods(cluster: MemoryCluster) -> None:
    filled(cluster)
    report = await several(cluster, word="binding", name="demo")
    names = [f"default/{name}" for name in ("dual", "moved", "other", "stack", "twin", "web")]
    assert [explanation.pod for explanation in report.pods] == names
    assert report.links[0].text.startswith("default/demo: 6 running pods have the label aadpodidbinding=demo")
    node = await several(cluster, word="node", name="n1", namespace="payments")
    assert [explanation.pod for explanation in node.pods] == ["payments/away"]
    missing = await several(cluster, word="deployment", name="default/demo")
    assert missing.summary == "broken: deployment: default/demo: this Deployment does not exist"
    cluster.api._registry.add(ResourceType("Deployment", "deployments", "apps"))
    spec = {"selector": {"matchLabels": {"app": "bare"}}, "template": {}}
    cluster.create("deployments.apps", "shop", spec)
    deployment = await several(cluster, word="deployment", name="shop")
    assert [explanation.pod for explanation in deployment.pods] == ["default/bare"]
    near = await several(cluster, word="deployment", name="shp")
    assert near.summary.endswith("this Deployment does not exist; similar names: shop")
