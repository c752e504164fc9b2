"""The conditions under which MIC detaches an identity from a VM or scale set, and those under which it does not."""

import pytest

from mic.decisions import host_change
from mic.decisions.policy import Policy
from tests.mic.cluster import Cluster, Thing, binding, identity, identity_id, node, pod, set_id, set_node, vm_id


def assigned(*pods: Thing, policy: Policy | None = None, before: tuple[str, ...] = ()) -> Cluster:
    cluster = Cluster(policy=policy)
    cluster.host(vm_id("n0"), *before)
    cluster.add(node("n0"), identity(), binding(), *pods)
    cluster.reconcile_until_in_sync(vm_id("n0"))
    return cluster


def test_the_identity_is_detached_with_its_last_pod() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    assert cluster.reconcile(vm_id("n0")) == ["revoke", "change", "release"]
    assert cluster.on(vm_id("n0")) == set()
    assert cluster.objects == {}


def test_another_pod_on_the_vm_keeps_the_identity_attached() -> None:
    cluster = assigned(pod(), pod("other"))
    cluster.remove(pod())
    assert cluster.reconcile(vm_id("n0")) == ["revoke", "release"]
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_a_pod_of_the_same_name_in_another_namespace_keeps_it_attached_too() -> None:
    # reference: checkIfInUse compares the pod's name only
    cluster = assigned(pod(), pod(namespace="other"))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_a_pod_on_another_node_of_the_scale_set_keeps_it_attached() -> None:
    cluster = Cluster()
    cluster.host(set_id())
    cluster.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"), pod("other", node="s1"))
    cluster.reconcile_until_in_sync(set_id())
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(set_id())
    assert cluster.on(set_id()) == {"demo"}
    cluster.remove(pod("other"))
    cluster.reconcile_until_in_sync(set_id())
    assert cluster.on(set_id()) == set()


def test_another_identity_object_with_the_same_resource_id_keeps_it_attached() -> None:
    cluster = assigned(pod())
    cluster.add(identity("twin", resource_id=identity_id("DEMO")), binding("twin", identity="twin", selector="twin"))
    cluster.add(pod("other", label="twin"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    cluster.remove(pod("other"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_an_identity_attached_before_mic_stays_attached_when_the_pod_ends() -> None:
    cluster = assigned(pod(), before=("demo",))
    existing = cluster.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "foreign"
    assert cluster.changes == []
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.objects == {}


def test_an_identity_attached_before_mic_is_detached_if_the_operator_says_so() -> None:
    cluster = assigned(pod(), before=("demo",), policy=Policy(adopt_existing=True))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_an_identity_attached_before_mic_and_attached_again_by_mic_is_mics() -> None:
    cluster = assigned(pod(), before=("demo",))
    cluster.host(vm_id("n0"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_an_identity_that_the_cluster_does_not_use_is_never_touched() -> None:
    cluster = assigned(pod(), before=("stranger",))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"stranger"}


@pytest.mark.parametrize(
    ("immutable", "left"),
    [("client-demo", {"demo"}), (identity_id("demo").lower(), {"demo"}), ("other", set())],
    ids=["client-id", "resource-id", "another"],
)
def test_an_immutable_identity_stays_attached(immutable: str, left: set[str]) -> None:
    cluster = assigned(pod(), policy=Policy(immutable=frozenset({immutable})))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == left
    assert cluster.objects == {}


@pytest.mark.parametrize("attached_as", ["client-demo", "CLIENT-Demo"])
def test_an_immutable_client_id_is_recognised_in_any_case_and_only_in_azures_response(attached_as: str) -> None:
    cluster = Cluster(policy=Policy(immutable=frozenset({"client-demo"})))
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(client_id="of-the-object"), binding(), pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.host(vm_id("n0"), "demo", client_id=attached_as)
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.objects == {}
    by_object = Cluster(policy=Policy(immutable=frozenset({"client-demo"})))
    by_object.host(vm_id("n0"))
    by_object.add(node("n0"), identity(client_id=attached_as), binding(), pod())
    by_object.reconcile_until_in_sync(vm_id("n0"))
    by_object.host(vm_id("n0"), "demo", client_id="another")
    by_object.remove(pod())
    by_object.reconcile_until_in_sync(vm_id("n0"))
    assert by_object.on(vm_id("n0")) == {"demo"}


def test_an_identity_used_together_with_an_immutable_one_is_detached_alone() -> None:
    cluster = assigned(pod(), policy=Policy(immutable=frozenset({"client-demo"})))
    cluster.add(identity("other"), binding("other", identity="other", selector="other"), pod("other", label="other"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.remove(pod(), pod("other"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.changes[-1].type == "UserAssigned"


def test_two_hundred_identities_are_attached_in_two_updates_and_detached_in_two() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    names = [f"id{number}" for number in range(200)]
    for name in names:
        cluster.add(identity(name), binding(name, identity=name, selector=name), pod(name, label=name))
    cluster.add(node("n0"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert [len(change.adds) for change in cluster.changes] == [150, 50]
    cluster.remove(*(pod(name, label=name) for name in names))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert [len(change.removes) for change in cluster.changes[2:]] == [150, 50]
    assert cluster.on(vm_id("n0")) == set()
    assert cluster.objects == {}


def test_the_record_survives_the_object_that_contains_it() -> None:
    cluster = assigned(pod())
    cluster.add(pod("later"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    later = cluster.objects["default", "later-default-demo"]
    assert later.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "mic"


def test_no_identity_is_attached_before_its_record_is_written() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(), binding(), pod())
    assert cluster.reconcile(vm_id("n0"), look=False) == ["create"]
    existing = cluster.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == ""
    assert cluster.reconcile(vm_id("n0")) == ["setattachedby", "change", "confirm"]


def test_a_vm_that_left_the_cluster_is_not_read() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    cluster.remove(node("n0"))
    cluster.reconcile_until_in_sync("node:n0")
    assert cluster.objects == {}
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert list(cluster.view.host_states()) == []


def test_a_node_that_leaves_its_scale_set_leaves_no_identity_behind() -> None:
    cluster = Cluster()
    cluster.host(set_id())
    cluster.add(set_node("s0", 0), set_node("s1", 1), identity(), binding(), pod(node="s0"))
    cluster.reconcile_until_in_sync(set_id())
    cluster.remove(set_node("s0", 0))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(set_id(), "node:s0")
    assert cluster.objects == {}
    assert cluster.on(set_id()) == set()


def test_the_objects_of_a_vm_deleted_on_azure_are_released() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    cluster.host(vm_id("n0"), gone=True)
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.objects == {}


def test_a_pod_on_a_vm_deleted_on_azure_is_not_retried_endlessly() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"), gone=True)
    cluster.add(node("n0"), identity(), binding(), pod())
    assert cluster.reconcile(vm_id("n0")) == []


def test_no_object_is_released_while_an_operation_may_still_attach_its_identity() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    cluster.host(vm_id("n0"), provisioning_state="Updating")
    assert cluster.reconcile(vm_id("n0")) == ["revoke"]
    cluster.host(vm_id("n0"), provisioning_state="Failed")
    assert cluster.reconcile(vm_id("n0")) == ["release"]


@pytest.mark.parametrize("adopt", [False, True])
def test_no_identity_is_attached_before_an_object_has_a_record_of_it(adopt: bool) -> None:
    policy = Policy(adopt_existing=adopt)
    cluster = Cluster(policy=policy)
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(), binding(), pod())
    host_state = cluster.view.host_state(vm_id("n0").lower())
    assert host_change.azure_change(host_state, cluster.azure[host_state.key], policy) is None
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_an_identity_detached_by_another_program_is_attached_again() -> None:
    cluster = assigned(pod())
    cluster.host(vm_id("n0"), "stranger")
    assert cluster.reconcile(vm_id("n0")) == ["change"]
    assert cluster.on(vm_id("n0")) == {"demo", "stranger"}


def test_an_object_states_that_azure_refuses_to_attach_its_detached_identity_again() -> None:
    cluster = assigned(pod())
    cluster.host(vm_id("n0"))
    refused = {identity_id("demo").lower(): "no role on it"}
    assert cluster.reconcile(vm_id("n0"), refused=refused) == ["explain"]
    assert cluster.statuses() == {"web-default-demo": "Created"}
    assert cluster.reconcile(vm_id("n0"), refused=refused) == []
    assert cluster.reconcile(vm_id("n0")) == ["change", "confirm"]


def test_all_identities_are_detached_in_one_update() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    for number in range(20):
        name = f"id{number}"
        cluster.add(identity(name), binding(name, identity=name, selector=name), pod(f"p{number}", label=name))
    cluster.add(node("n0"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.changes) == 1
    for number in range(10):
        cluster.remove(pod(f"p{number}"))
    cluster.add(identity("more"), binding("more", identity="more", selector="more"), pod("more", label="more"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.changes) == 2
    assert (len(cluster.changes[1].adds), len(cluster.changes[1].removes)) == (1, 10)


def test_a_refused_identity_does_not_block_the_others_and_states_the_reason() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(identity("bad"), binding("bad", identity="bad", selector="bad"), pod("bad", label="bad"))
    cluster.add(node("n0"), identity(), binding(), pod())
    cluster.reconcile(vm_id("n0"), refused={identity_id("bad").lower(): "no role on it"})
    assert cluster.statuses() == {"web-default-demo": "Assigned", "bad-default-bad": "Created"}
    bad = cluster.objects["default", "bad-default-bad"]
    assert bad.metadata.annotation("aadpodidentity.k8s.io/message") == "no role on it"
    assert cluster.reconcile(vm_id("n0"), refused={identity_id("bad").lower(): "no role on it"}) == []
