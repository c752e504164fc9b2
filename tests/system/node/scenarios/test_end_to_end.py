"""The end-to-end tests of the Go implementation (test/e2e of its repository) that depend on a kubelet or a scheduler.

The name of each test contains the sentence of the test there. `test_kinds_of_nodes` has the one about scale sets,
`test_first_tokens` the one about service principals, `test_faults` the one about a wrong client id. tests/unit shows
the others.
"""

import random

from tests.system.node import client, manifests
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.processes import wait_for
from tests.system.node.scenarios.applications import SECONDS, Applications


def test_should_not_pass_the_identity_validating_test_if_the_identity_is_deleted(apps: Applications) -> None:
    """Nor should the system-assigned identity of the VM and other user-assigned ones change."""
    foreign = apps.create_identity("foreign")
    apps.bed.azure.call(lambda _: apps.machine.attach(foreign))
    system = apps.machine.system_assigned
    assert system is not None
    apps.bind("deleted")
    apps.run("app", "deleted")
    apps.eventually("app", "deleted")
    assert apps.attached() >= {"deleted", "foreign"}
    apps.kubectl("delete", "azureidentity", "deleted")
    wait_for(lambda: not apps.assigned(), SECONDS, "the assignment remains")
    apps.wait_for_detached("deleted")
    assert client.token(apps.bed, "app", namespace=apps.namespace, seconds=3).status != 200
    assert "foreign" in apps.attached()
    assert apps.machine.system_assigned == system


def test_should_assign_one_identity_to_40_pods(apps: Applications) -> None:
    apps.bind("forty")
    pods = [f"app-{number:02}" for number in range(40)]
    apps.bed.apply(*(apps.pod(name, "forty") for name in pods))
    apps.wait(*pods)
    wait_for(lambda: apps.assigned() == ["Assigned"] * 40, SECONDS, "not all pods are assigned")
    for name in random.sample(pods, 5):
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
    path = f"{client.TOKEN}?api-version=2018-02-01&resource={client.RESOURCE}"
    script = (
        "import urllib.request as u; "
        f"u.urlopen(u.Request('http://169.254.169.254{path}', headers={{'Metadata': 'true'}}), timeout=60).read()"
    )
    container = {"name": "first", "image": manifests.IMAGE, "command": ["python3", "-c", script]}
    apps.run("app", "init", initContainers=[container])
    apps.eventually("app", "init")
    path = "/metadata/instance/compute?api-version=2021-02-01"
    answered = client.request(apps.bed, "app", path, namespace=apps.namespace)
    assert (answered.status, answered.document["name"]) == (200, apps.bed.nodes[0].name)
    refused = client.request(apps.bed, "app", path, namespace=apps.namespace, metadata=False)
    assert refused.status == 400


def test_should_keep_identities_of_a_drained_node_consistent(apps: Applications, bed: Bed) -> None:
    apps.bind("drain")
    apps.run("app", "drain")
    apps.eventually("app", "drain")
    name = bed.nodes[0].name
    selected = "--pod-selector=aadpodidbinding=drain"
    bed.kubectl("drain", name, "--ignore-daemonsets", "--force", selected, "--timeout=60s")
    try:
        wait_for(lambda: not apps.assigned(), SECONDS, "the assignment remains")
        apps.wait_for_detached("drain")
    finally:
        bed.kubectl("uncordon", name)


def test_should_continue_when_the_leader_changes(apps: Applications, bed: Bed) -> None:
    apps.bind("leader")
    lease = bed.objects("leases", f"--namespace={NAMESPACE}") or bed.objects("leases", "--namespace=default")
    holder = next(each["spec"]["holderIdentity"] for each in lease if "mic" in each["metadata"]["name"])
    bed.kubectl("delete", "pod", holder.partition("_")[0], f"--namespace={NAMESPACE}", "--wait=false")
    apps.run("app", "leader")
    apps.eventually("app", "leader")
