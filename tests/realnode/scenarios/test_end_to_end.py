"""The end-to-end tests of the Go implementation (test/e2e of its repository), on a real node.

The name of each test contains the sentence of the test there. `test_end_to_end_with_values` has those that change the
chart's values, `test_kinds_of_nodes` the one about scale sets, `test_first_tokens` the one about service principals,
`test_faults` the one about a wrong client id.
"""

import random

from podidentity_sandbox.azure import identity_id
from tests.realnode import client, manifests
from tests.realnode.bed import NAMESPACE, Bed
from tests.realnode.processes import wait_for
from tests.realnode.scenarios.applications import SECONDS, Applications


def test_should_not_pass_the_identity_validating_test_if_the_identity_is_deleted(apps: Applications) -> None:
    apps.bind("deleted")
    apps.run("app", "deleted")
    apps.eventually("app", "deleted")
    assert apps.attached() >= {"deleted"}
    apps.kubectl("delete", "azureidentity", "deleted")
    wait_for(lambda: not apps.assigned(), SECONDS, "the assignment remains")
    apps.wait_for_detached("deleted")
    assert client.token(apps.bed, "app", namespace=apps.namespace, seconds=3).status != 200


def test_should_not_alter_the_system_assigned_identity_and_other_user_assigned_ones(apps: Applications) -> None:
    foreign = apps.create_identity("foreign")
    apps.bed.azure.call(lambda _: apps.machine.attach(foreign))
    system = apps.machine.system_assigned
    apps.bind("ours")
    apps.run("app", "ours")
    apps.eventually("app", "ours")
    apps.kubectl("delete", "pod", "app")
    apps.wait_for_detached("ours")
    assert "foreign" in apps.attached()
    assert system is not None
    assert apps.machine.system_assigned == system


def test_should_assign_identities_with_different_pods_in_random_order(apps: Applications) -> None:
    names = [f"random-{number}" for number in range(5)]
    random.shuffle(names)
    for name in names:
        apps.bind(name)
    random.shuffle(names)
    apps.bed.apply(*(apps.pod(name, name) for name in names))
    apps.wait(*names)
    for name in names:
        apps.eventually(name, name)
    random.shuffle(names)
    for name in names:
        apps.kubectl("delete", "pod", name, "--wait=false")
    apps.wait_for_detached(*names)


def test_should_assign_one_identity_to_40_pods(apps: Applications) -> None:
    apps.bind("forty")
    pods = [f"app-{number:02}" for number in range(40)]
    apps.bed.apply(*(apps.pod(name, "forty") for name in pods))
    apps.wait(*pods)
    wait_for(lambda: apps.assigned() == ["Assigned"] * 40, SECONDS, "not all pods are assigned")
    for name in random.sample(pods, 5):
        apps.eventually(name, "forty")


def test_should_delete_the_assignment_when_the_label_changes(apps: Applications) -> None:
    apps.bind("label")
    apps.run("app", "label")
    apps.eventually("app", "label")
    apps.kubectl("label", "pod", "app", "aadpodidbinding=none", "--overwrite")
    wait_for(lambda: not apps.assigned(), SECONDS, "the assignment remains")
    apps.wait_for_detached("label")


def test_should_assign_valid_identities_in_a_batch_with_invalid_ones(apps: Applications) -> None:
    apps.bed.apply(
        manifests.identity("invalid", identity_id("does-not-exist"), "unknown", namespace=apps.namespace),
        manifests.binding("invalid", namespace=apps.namespace),
    )
    apps.bind("valid")
    apps.bed.apply(apps.pod("broken", "invalid"), apps.pod("app", "valid"))
    apps.wait("app", "broken")
    apps.eventually("app", "valid")


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


def test_should_get_a_token_in_an_init_container(apps: Applications) -> None:
    apps.bind("init")
    path = f"{client.TOKEN}?api-version=2018-02-01&resource={client.RESOURCE}"
    script = (
        "import urllib.request as u; "
        f"u.urlopen(u.Request('http://169.254.169.254{path}', headers={{'Metadata': 'true'}}), timeout=60).read()"
    )
    container = {"name": "first", "image": manifests.IMAGE, "command": ["python3", "-c", script]}
    apps.run("app", "init", initContainers=[container])
    apps.eventually("app", "init")


def test_should_pass_instance_metadata_with_the_header_only(apps: Applications) -> None:
    apps.bind("instance")
    apps.run("app", "instance")
    path = "/metadata/instance/compute?api-version=2021-02-01"
    answered = client.request(apps.bed, "app", path, namespace=apps.namespace)
    assert (answered.status, answered.document["name"]) == (200, apps.bed.nodes[0].name)
    refused = client.request(apps.bed, "app", path, namespace=apps.namespace, metadata=False)
    assert refused.status == 400


def test_should_work_with_the_same_names_in_two_namespaces(apps: Applications, bed: Bed) -> None:
    other = Applications(bed, f"{apps.namespace}-b")
    bed.kubectl("create", "namespace", other.namespace)
    try:
        identities = {name: apps.create_identity(name) for name in ("same-a", "same-b")}
        for each, identity in zip((apps, other), identities.values(), strict=True):
            bed.apply(
                manifests.identity("same", identity.resource_id, identity.client_id, namespace=each.namespace),
                manifests.binding("same", namespace=each.namespace),
                each.pod("app", "same"),
            )
        # Both bindings select both pods, because the chart's default does not confine bindings to their namespace.
        for each, name in ((apps, "same-a"), (other, "same-b")):
            each.wait("app")
            each.eventually("app", name, client_id=identities[name].client_id)
    finally:
        bed.kubectl("delete", "namespace", other.namespace)


def test_should_recover_when_an_identity_is_unassigned_by_hand(apps: Applications) -> None:
    apps.bind("unassigned")
    apps.run("app", "unassigned")
    apps.eventually("app", "unassigned")

    apps.detach_by_hand("unassigned")
    apps.kubectl("delete", "pod", "app")
    wait_for(lambda: not apps.assigned(), SECONDS, "the assignment remains")
    apps.run("app", "unassigned")
    apps.eventually("app", "unassigned")


def test_should_keep_identities_of_a_drained_node_consistent(apps: Applications, bed: Bed) -> None:
    apps.bind("drain")
    apps.run("app", "drain")
    apps.eventually("app", "drain")
    name = bed.nodes[0].name
    bed.kubectl(
        *("drain", name, "--ignore-daemonsets", "--force", "--pod-selector=aadpodidbinding=drain", "--timeout=60s")
    )
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
