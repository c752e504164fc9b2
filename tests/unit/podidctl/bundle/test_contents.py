"""The files of a support archive, from an API server in memory: complete, and without names and identifiers."""

import json

from podidctl.bundle.contents import README, collect, redacted_files
from tests.support.podidctl.memory_cluster import MemoryCluster

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
CLIENT = "60c9b1e2-1111-2222-3333-444455556666"
PRIVATE = ("payroll", "aks-pool1", "contoso", SUBSCRIPTION, CLIENT, "10.1.2.3", "hunter2", "prod-rg")


def contoso(cluster: MemoryCluster) -> None:
    """A cluster with names of a customer in each kind of object."""
    store = cluster.api.store
    store.create("namespaces", {"metadata": {"name": "contoso-team"}})
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/prod-rg/providers"
    machine = f"azure://{group}/Microsoft.Compute/virtualMachines/aks-pool1-0"
    cluster.node("aks-pool1-0", machine)
    cluster.pod("payroll-1", "aks-pool1-0", label="payroll", namespace="contoso-team")
    resource = f"{group}/Microsoft.ManagedIdentity/userAssignedIdentities/payroll-id"
    cluster.identity("payroll", namespace="contoso-team", resourceID=resource, clientID=CLIENT)
    proxy = {"name": "HTTPS_PROXY", "value": "http://user:hunter2@proxy.contoso.example:3128"}
    container = {"name": "nmi", "image": "contoso.azurecr.io/nmi:1", "args": ["--node=aks-pool1-0"], "env": [proxy]}
    spec = {"hostNetwork": True, "nodeName": "aks-pool1-0", "containers": [container]}
    meta = {"name": "nmi-1", "namespace": "contoso-team", "labels": {"component": "nmi"}}
    store.create("pods", {"metadata": meta, "spec": spec, "status": {"podIP": "10.1.2.3"}})


async def test_nothing_private_remains_and_the_references_stay_consistent(cluster: MemoryCluster) -> None:
    contoso(cluster)
    files, replacements = redacted_files(await collect(cluster.client))
    for name, content in files.items():
        assert not [private for private in PRIVATE if private in content.decode() or private in name], name
    objects = json.loads(files["objects.json"])
    (binding,), (identity,) = objects["azureIdentityBindings"], objects["azureIdentities"]
    assert binding["spec"]["azureIdentity"] == identity["metadata"]["name"] == replacements["payroll"]
    (pod,) = json.loads(files["pods.json"])
    assert binding["spec"]["selector"] == pod["metadata"]["labels"]["aadpodidbinding"]
    assert replacements[CLIENT] in files["objects.json"].decode()


def test_names_of_deleted_objects_in_logs_and_paths_are_replaced() -> None:
    log = 'refused pod="acme/gone-1" identity="acme/payments"\nGET /api/v1/namespaces/acme/pods/older-2?x acme\n'
    files, _ = redacted_files({"nmi/gone-1/log.txt": log})
    written = " ".join(f"{name} {content.decode()}" for name, content in files.items())
    assert not [private for private in ("acme", "gone-1", "payments", "older-2") if private in written]


async def test_all_parts_are_there_and_a_part_that_cannot_be_read_says_so(cluster: MemoryCluster) -> None:
    contoso(cluster)
    cluster.api.refuse(403, "Forbidden", what="/log")
    files, _ = redacted_files(await collect(cluster.client))
    fixed = ("doctor", "objects", "nodes", "pods", "namespaces", "events", "nmi", "mic")
    assert {name for name in files if not name.startswith("nmi/")} == {README} | {f"{name}.json" for name in fixed}
    (log,) = (content for name, content in files.items() if name.endswith("/log.txt"))
    assert log.startswith(b"the log could not be read: not allowed")


async def test_the_number_of_logs_is_limited(cluster: MemoryCluster) -> None:
    for number in range(25):
        cluster.daemon(f"nmi-{number}", hostNetwork=True)
    files, _ = redacted_files(await collect(cluster.client))
    assert sum(name.endswith("/log.txt") for name in files) == 20
