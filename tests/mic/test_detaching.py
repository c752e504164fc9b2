"""When an identity leaves a VM or scale set, and above all when it does not."""

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


def test_the_last_pod_takes_its_identity_along() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    assert cluster.reconcile(vm_id("n0")) == ["revoke", "change", "release"]
    assert cluster.on(vm_id("n0")) == set()
    assert cluster.objects == {}


def test_another_pod_of_the_vm_keeps_the_identity_there() -> None:
    cluster = assigned(pod(), pod("other"))
    cluster.remove(pod())
    assert cluster.reconcile(vm_id("n0")) == ["revoke", "release"]
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_a_pod_of_the_same_name_in_another_namespace_keeps_it_too() -> None:
    # reference: checkIfInUse compares the pod's name only
    cluster = assigned(pod(), pod(namespace="other"))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_a_pod_on_another_node_of_the_scale_set_keeps_it() -> None:
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


def test_another_identity_object_with_the_same_resource_id_keeps_it() -> None:
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


def test_what_was_there_before_stays_when_the_pod_goes() -> None:
    cluster = assigned(pod(), before=("demo",))
    existing = cluster.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "foreign"
    assert cluster.changes == []
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.objects == {}


def test_what_was_there_before_goes_too_where_the_operator_says_so() -> None:
    cluster = assigned(pod(), before=("demo",), policy=Policy(adopt_existing=True))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_what_was_there_before_and_was_put_back_by_us_is_ours() -> None:
    cluster = assigned(pod(), before=("demo",))
    cluster.host(vm_id("n0"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == set()


def test_an_identity_that_nobody_of_the_cluster_names_is_never_touched() -> None:
    cluster = assigned(pod(), before=("stranger",))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"stranger"}


@pytest.mark.parametrize(
    ("immutable", "left"),
    [("client-demo", {"demo"}), (identity_id("demo").lower(), {"demo"}), ("other", set())],
    ids=["client-id", "resource-id", "another"],
)
def test_an_immutable_identity_stays(immutable: str, left: set[str]) -> None:
    cluster = assigned(pod(), policy=Policy(immutable=frozenset({immutable})))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == left
    assert cluster.objects == {}


@pytest.mark.parametrize("attached_as", ["client-demo", "CLIENT-Demo"])
def test_an_immutable_client_id_is_recognised_in_any_letter_case_and_in_azures_answer_alone(attached_as: str) -> None:
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


def test_what_goes_with_an_immutable_one_goes_alone() -> None:
    cluster = assigned(pod(), policy=Policy(immutable=frozenset({"client-demo"})))
    cluster.add(identity("other"), binding("other", identity="other", selector="other"), pod("other", label="other"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.remove(pod(), pod("other"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}
    assert cluster.changes[-1].type == "UserAssigned"


def test_two_hundred_go_in_two_changes_and_come_off_in_two() -> None:
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


def test_the_record_outlives_the_object_that_has_it() -> None:
    cluster = assigned(pod())
    cluster.add(pod("later"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.remove(pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    later = cluster.objects["default", "later-default-demo"]
    assert later.metadata.annotation("aadpodidentity.k8s.io/attached-by") == "mic"


def test_nothing_is_added_before_its_record_is_written() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(), binding(), pod())
    assert cluster.reconcile(vm_id("n0"), look=False) == ["create"]
    existing = cluster.objects["default", "web-default-demo"]
    assert existing.metadata.annotation("aadpodidentity.k8s.io/attached-by") == ""
    assert cluster.reconcile(vm_id("n0")) == ["setattachedby", "change", "confirm"]


def test_a_vm_that_left_the_cluster_is_not_asked() -> None:
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


def test_a_vm_that_left_azure_lets_its_objects_go() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    cluster.host(vm_id("n0"), gone=True)
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.objects == {}


def test_a_pod_on_a_vm_that_left_azure_is_not_tried_for_ever() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"), gone=True)
    cluster.add(node("n0"), identity(), binding(), pod())
    assert cluster.reconcile(vm_id("n0")) == []


def test_nothing_is_let_go_of_while_an_operation_may_still_bring_it_back() -> None:
    cluster = assigned(pod())
    cluster.remove(pod())
    cluster.host(vm_id("n0"), provisioning_state="Updating")
    assert cluster.reconcile(vm_id("n0")) == ["revoke"]
    cluster.host(vm_id("n0"), provisioning_state="Failed")
    assert cluster.reconcile(vm_id("n0")) == ["release"]


@pytest.mark.parametrize("adopt", [False, True])
def test_nothing_is_put_on_a_host_before_an_object_has_a_record_of_it(adopt: bool) -> None:
    policy = Policy(adopt_existing=adopt)
    cluster = Cluster(policy=policy)
    cluster.host(vm_id("n0"))
    cluster.add(node("n0"), identity(), binding(), pod())
    host_state = cluster.view.host_state(vm_id("n0").lower())
    assert host_change.azure_change(host_state, cluster.azure[host_state.key], policy) is None
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert cluster.on(vm_id("n0")) == {"demo"}


def test_what_somebody_took_off_is_put_back() -> None:
    cluster = assigned(pod())
    cluster.host(vm_id("n0"), "stranger")
    assert cluster.reconcile(vm_id("n0")) == ["change"]
    assert cluster.on(vm_id("n0")) == {"demo", "stranger"}


def test_an_object_whose_identity_somebody_took_off_says_so_where_azure_does_not_take_it_again() -> None:
    cluster = assigned(pod())
    cluster.host(vm_id("n0"))
    refused = {identity_id("demo").lower(): "no role on it"}
    assert cluster.reconcile(vm_id("n0"), refused=refused) == ["explain"]
    assert cluster.statuses() == {"web-default-demo": "Created"}
    assert cluster.reconcile(vm_id("n0"), refused=refused) == []
    assert cluster.reconcile(vm_id("n0")) == ["change", "confirm"]


def test_all_goes_in_one_change() -> None:
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


def test_a_refused_identity_does_not_hold_back_the_others_and_says_why() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(identity("bad"), binding("bad", identity="bad", selector="bad"), pod("bad", label="bad"))
    cluster.add(node("n0"), identity(), binding(), pod())
    cluster.reconcile(vm_id("n0"), refused={identity_id("bad").lower(): "no role on it"})
    assert cluster.statuses() == {"web-default-demo": "Assigned", "bad-default-bad": "Created"}
    bad = cluster.objects["default", "bad-default-bad"]
    assert bad.metadata.annotation("aadpodidentity.k8s.io/message") == "no role on it"
    assert cluster.reconcile(vm_id("n0"), refused={identity_id("bad").lower(): "no role on it"}) == []
