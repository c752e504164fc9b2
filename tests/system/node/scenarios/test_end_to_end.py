"""The end-to-end tests of the Go implementation (test/e2e of its repository) that depend on a kubelet or a scheduler.

The name of each test contains the sentence of the test there. `test_faults` has the one about a wrong client id.
tests/unit shows the others.
"""

from collections.abc import Iterator

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY
from tests.system.node import client, manifests
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.options import Options
from tests.system.node.scenarios.applications import Applications, applications

INSTANCE = "/metadata/instance/compute?api-version=2021-02-01"


def test_should_not_pass_the_identity_validating_test_if_the_identity_is_deleted(apps: Applications) -> None:
    """Nor should the system-assigned identity of the VM and other user-assigned ones change."""
    foreign = apps.bed.azure.add_identity("foreign")
    apps.bed.azure.call(lambda _: apps.machine.attach(foreign))
    system = apps.machine.system_assigned
    assert system is not None
    apps.bind_and_run("deleted")
    assert apps.attached() >= {"deleted", "foreign"}
    apps.delete("azureidentity", "deleted")
    apps.wait_for_assignments(0)
    apps.wait_for_detached("deleted")
    assert apps.request("deleted", client.token_path(), seconds=3).status != 200
    assert "foreign" in apps.attached()
    assert apps.machine.system_assigned == system


def test_should_assign_one_identity_to_40_pods(apps: Applications) -> None:
    apps.bind("forty")
    pods = [f"app-{number:02}" for number in range(40)]
    apps.bed.apply(*(apps.pod(name, "forty") for name in pods))
    apps.bed.wait_for_pods(*pods, namespace=apps.namespace)
    apps.wait_for_assignments(40)
    for name in pods[::8]:
        apps.eventually(name, "forty")


def test_should_use_the_node_identity_with_an_exception(apps: Applications) -> None:
    apps.bed.apply(
        {
            "apiVersion": manifests.GROUP,
            "kind": "AzurePodIdentityException",
            "metadata": {"name": "exception", "namespace": apps.namespace},
            "spec": {"podLabels": {"app": "app"}},
        }
    )
    apps.run("app", "")
    apps.eventually("app", apps.bed.nodes[0].name)


def test_should_get_a_token_in_an_init_container_and_instance_metadata_with_the_header_only(
    apps: Applications,
) -> None:
    apps.bind("init")
    url = f"http://169.254.169.254{client.token_path()}"
    script = f"import urllib.request as u; u.urlopen(u.Request('{url}', headers={client.METADATA}), timeout=60).read()"
    container = {"name": "first", "image": manifests.IMAGE, "command": ["python3", "-c", script]}
    apps.run("app", "init", initContainers=[container])
    apps.eventually("app", "init")
    response = apps.request("app", INSTANCE)
    assert (response.status, response.document["name"]) == (200, apps.bed.nodes[0].name)
    assert apps.request("app", INSTANCE, headers={}).status == 400


def test_should_keep_identities_of_a_drained_node_consistent(apps: Applications, bed: Bed) -> None:
    apps.bind_and_run("drain")
    name = bed.nodes[0].name
    selected = "--pod-selector=aadpodidbinding=drain"
    bed.kubectl("drain", name, "--ignore-daemonsets", "--force", selected, "--timeout=60s")
    try:
        apps.wait_for_assignments(0)
        apps.wait_for_detached("drain")
    finally:
        bed.kubectl("uncordon", name)


def test_should_continue_when_the_leader_changes(apps: Applications, bed: Bed) -> None:
    apps.bind("leader")
    lease = bed.objects("leases", f"--namespace={NAMESPACE}") or bed.objects("leases", "--namespace=default")
    holder = next(entry["spec"]["holderIdentity"] for entry in lease if "mic" in entry["metadata"]["name"])
    bed.kubectl("delete", "pod", holder.partition("_")[0], f"--namespace={NAMESPACE}", "--wait=false")
    apps.run("app", "leader")
    apps.eventually("app", "leader")


def test_should_get_tokens_of_a_service_principal_and_of_a_federated_identity(apps: Applications) -> None:
    bed, namespace = apps.bed, apps.namespace
    principal = bed.azure.call(lambda emulator: emulator.directory.add_principal())
    bed.azure.federate(DEMO_CLIENT_ID, namespace)
    tenant = bed.azure.emulator.directory.tenant_id
    bed.apply(
        *manifests.principal(principal, namespace),
        manifests.identity("federated", "", DEMO_CLIENT_ID, namespace=namespace, type=3, tenantID=tenant),
        manifests.binding("federated", namespace=namespace),
        *(apps.pod(name, name) for name in ("principal", "federated")),
    )
    # helm finds the identities, and permits NMI to read the Secret.
    bed.install({"federated": {"enabled": True, "namespaces": [{"name": namespace}]}}, command="upgrade")
    try:
        bed.wait_for_pods("principal", "federated", namespace=namespace)
        apps.eventually("principal", principal.client_id)
        apps.eventually("federated", DEMO_IDENTITY)
    finally:
        bed.install(command="upgrade")


@pytest.fixture(scope="module")
def scale_set() -> Iterator[Bed]:
    """Two nodes of a scale set, with point-to-point links and kube-proxy in mode nftables."""
    with Bed(Options(cni="ptp", proxy="nftables", nodes=2, scale_set="set")) as bed:
        # In mode nftables kube-proxy leaves route_localnet at 0, without which the node drops redirected packets.
        bed.install({"nmi": {"routeLocalnet": "set"}})
        yield bed


@pytest.mark.long
def test_should_support_a_scale_set_and_release_its_identity_with_the_last_pod(scale_set: Bed) -> None:
    with applications(scale_set) as apps:
        apps.bind("shared")
        for number, node in enumerate(scale_set.nodes):
            apps.run(f"app-{number}", "shared", nodeName=node.name)
            apps.eventually(f"app-{number}", "shared")
        apps.delete("pod", "app-0")
        apps.wait_for_assignments(1)
        assert "shared" in apps.attached()
        apps.eventually("app-1", "shared")
        apps.delete("pod", "app-1")
        apps.wait_for_detached("shared")


@pytest.mark.long
def test_the_identities_of_a_deleted_node_are_detached(scale_set: Bed) -> None:
    with applications(scale_set) as apps:
        node = scale_set.nodes[1]
        apps.bind_and_run("gone", nodeName=node.name)
        node.kubelet.stop()
        scale_set.kubectl("delete", "node", node.name)
        try:
            apps.wait_for_assignments(0, seconds=120)  # the collector of pods without a node waits 40 s for its return
            apps.wait_for_detached("gone")
        finally:
            node.start_kubelet()
            scale_set.wait_for_nodes()
