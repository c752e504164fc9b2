"""The files of a support archive, from an API server in memory: complete, and without names and identifiers."""

import json

import pytest

from podidctl.bundle import contents
from podidctl.bundle.contents import README, collect, redacted_files
from podidentity.kube.errors import NoResponse, TimedOut
from tests.support.mic.emulated_cloud import EXCEPTIONS
from tests.support.podidctl.memory_cluster import MemoryCluster

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
CLIENT = "60c9b1e2-1111-2222-3333-444455556666"
PRIVATE = (
    *("payroll", "aks-pool1", "contoso", SUBSCRIPTION, CLIENT, "10.1.2.3", "hunter2", "prod-rg", "finance", "gone-"),
    *("qx8~", "abcdef~"),
)


def contoso(cluster: MemoryCluster) -> None:
    """A cluster with names of a customer in each kind of object."""
    store = cluster.api.store
    store.create("namespaces", {"metadata": {"name": "contoso-team"}})
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/prod-rg/providers"
    machine = f"azure://{group}/Microsoft.Compute/virtualMachines/aks-pool1-0"
    labels = {"kubernetes.azure.com/cluster": "MC_Prod-rg_Contoso", "agentpool": "finance"}
    store.create("nodes", {"metadata": {"name": "aks-pool1-0", "labels": labels}, "spec": {"providerID": machine}})
    cluster.pod("payroll-1", "aks-pool1-0", label="payroll", namespace="contoso-team")
    resource = f"{group}/Microsoft.ManagedIdentity/userAssignedIdentities/payroll-id"
    cluster.identity("payroll", namespace="contoso-team", resourceID=resource, clientID=CLIENT)
    proxy = {"name": "HTTPS_PROXY", "value": "http://user:hunter2@proxy.contoso.example:3128"}
    container = {"name": "nmi", "image": "contoso.azurecr.io/nmi:1", "args": ["--node=aks-pool1-0"], "env": [proxy]}
    secret = {"name": "payroll-sp", "namespace": "contoso-team"}
    cluster.identity("sp", namespace="contoso-team", type=1, resourceID="", clientID=CLIENT, clientPassword=secret)
    cluster.create(EXCEPTIONS, "e", {"podLabels": {"app": "payroll-job"}}, namespace="contoso-team")
    about = {"kind": "Pod", "namespace": "contoso-team", "name": "gone-payroll", "uid": "x"}
    event = {"involvedObject": about, "message": "gone-payroll has no identity", "reason": "R", "type": "Warning"}
    source = {"source": {"component": "aad-pod-identity-mic"}}
    store.create("events", {"metadata": {"name": "gone-payroll.17a", "namespace": "contoso-team"}, **event, **source})
    variables = [{"name": "CLIENT_SECRET", "value": "Qx8~"}, {"name": "NO_PROXY", "value": ".contoso.example"}]
    mic: dict[str, object] = {"name": "mic", "image": "registry.contoso.example:5000/finance/mic:1", "env": variables}
    mic["args"] = ["--client-secret=abcDEF~123"]
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "gone-mic", "uid": "u", "controller": True}]
    of_mic = {"name": "mic-1", "namespace": "contoso-team", "labels": {"component": "mic"}, "ownerReferences": owner}
    store.create("pods", {"metadata": of_mic, "spec": {"nodeName": "aks-pool1-0", "containers": [mic]}})
    spec = {"hostNetwork": True, "nodeName": "aks-pool1-0", "containers": [container]}
    meta = {"name": "nmi-1", "namespace": "contoso-team", "labels": {"component": "nmi"}}
    store.create("pods", {"metadata": meta, "spec": spec, "status": {"podIP": "10.1.2.3"}})


async def test_nothing_private_remains_and_the_references_stay_consistent(cluster: MemoryCluster) -> None:
    contoso(cluster)
    files, replacements = redacted_files(await collect(cluster.client))
    for name, content in files.items():
        assert not [private for private in PRIVATE if private in content.decode().lower() or private in name], name
    objects = json.loads(files["objects.json"])
    (binding, *_), (identity, *_) = objects["azureIdentityBindings"], objects["azureIdentities"]
    assert binding["spec"]["azureIdentity"] == identity["metadata"]["name"] == replacements["payroll"]
    (pod,) = json.loads(files["pods.json"])
    assert binding["spec"]["selector"] == pod["metadata"]["labels"]["aadpodidbinding"]
    assert replacements[CLIENT] in files["objects.json"].decode()


def test_names_of_deleted_objects_in_logs_and_paths_are_replaced() -> None:
    log = 'refused pod="acme/gone-1" identity="acme/payments" node="aks-old-1" aks-old-1\n'
    log += "GET /api/v1/namespaces/acme/pods/older-2?x acme\n"
    files, _ = redacted_files({"nmi/gone-1/log.txt": log})
    written = " ".join(f"{name} {content.decode()}" for name, content in files.items())
    assert not [private for private in ("acme", "gone-1", "payments", "older-2", "aks-old") if private in written]


def test_the_number_of_a_machine_in_a_scale_set_is_no_name() -> None:
    machine = (
        "azure:///subscriptions/x/resourceGroups/rg-1/providers/c/virtualMachineScaleSets/pool-1/virtualMachines/0"
    )
    files, replacements = redacted_files({"nodes.json": [{"providerID": machine}], "nmi/n/log.txt": "count=0 v1.0.3"})
    assert files["nmi/n/log.txt"] == b"count=0 v1.0.3"
    assert set(replacements) == {"rg-1", "pool-1"}


async def test_all_parts_are_there_and_a_part_that_cannot_be_read_says_so(cluster: MemoryCluster) -> None:
    contoso(cluster)
    cluster.api.refuse(403, "Forbidden", what="/log")
    files, _ = redacted_files(await collect(cluster.client))
    fixed = ("doctor", "objects", "nodes", "pods", "namespaces", "events", "nmi", "mic")
    assert {name for name in files if "/" not in name} == {README} | {f"{name}.json" for name in fixed}
    log, _ = (content for name, content in files.items() if name.endswith("/log.txt"))
    assert log.startswith(b"the log could not be read: not allowed")


async def test_the_number_of_logs_is_limited(cluster: MemoryCluster) -> None:
    for number in range(25):
        cluster.daemon(f"nmi-{number}", hostNetwork=True)
    files, _ = redacted_files(await collect(cluster.client))
    assert sum(name.endswith("/log.txt") for name in files) == 20


async def test_pods_of_one_name_in_two_namespaces_have_two_logs(cluster: MemoryCluster) -> None:
    for namespace in ("podid", "other"):
        cluster.api.store.create("namespaces", {"metadata": {"name": namespace}})
        cluster.daemon("nmi-1", hostNetwork=True, namespace=namespace)
    files, _ = redacted_files(await collect(cluster.client))
    assert sum(name.endswith("/log.txt") for name in files) == 2


@pytest.mark.parametrize("failure", [TimedOut("https://api", 10), NoResponse("refused")])
async def test_a_late_log_becomes_its_text_and_an_api_server_that_is_gone_ends_the_command(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, failure: NoResponse
) -> None:
    for number in range(2):
        cluster.daemon(f"nmi-{number}", hostNetwork=True)
    request = cluster.client.request

    async def respond(method: str, path: str, **given: object) -> bytes:
        if path.endswith("nmi-1/log"):
            raise failure
        return await request(method, path, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster.client, "request", respond)
    if not isinstance(failure, TimedOut):
        with pytest.raises(NoResponse):
            await collect(cluster.client)
        return
    files = await collect(cluster.client)
    assert files["nmi/default/nmi-1/log.txt"].startswith("the log could not be read: no response from")
    assert "could not be read" not in files["nmi/default/nmi-0/log.txt"]


async def test_events_of_one_namespace_do_not_push_out_those_of_others(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "EVENTS_MAX", 2)
    source = {"component": "aad-pod-identity-mic"}
    for namespace in ("forging", "team"):
        cluster.api.store.create("namespaces", {"metadata": {"name": namespace}})
    for name, namespace, year in (("f1", "forging", 2999), ("f2", "forging", 2998), ("real", "team", 2026)):
        meta = {"name": name, "namespace": namespace}
        about = {"namespace": namespace, "name": "web"}
        body = {"involvedObject": about, "lastTimestamp": f"{year}-12-01T00:00:00Z", "source": source}
        cluster.api.store.create("events", {"metadata": meta, **body})
    events = (await collect(cluster.client))["events.json"]
    assert [event.metadata.name for event in events] == ["f1", "real"]


async def test_names_of_objects_rename_no_file_and_no_field(cluster: MemoryCluster) -> None:
    for name in ("events", "metadata", "spec", "log", "azureIdentities"):
        cluster.api.store.create("namespaces", {"metadata": {"name": name.lower()}})
        cluster.identity(name.lower(), resourceID="", clientID="")
    cluster.daemon("nmi-1", hostNetwork=True)
    files, _ = redacted_files(await collect(cluster.client))
    assert {"events.json", "objects.json"} <= set(files)
    assert [name for name in files if name.startswith("nmi/default/") and name.endswith("/log.txt")]
    assert {"metadata", "spec"} <= set(json.loads(files["objects.json"])["azureIdentities"][0])
