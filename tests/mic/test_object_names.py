"""Names of AzureAssignedIdentities that would be ambiguous or too long (reference: one object for both, #1065)."""

from mic.decisions.assignments import AssignmentKey
from mic.decisions.documents import NAME_MAX, distinct_name, plain_name
from tests.mic.cluster import Cluster, binding, identity, identity_id, node, pod, vm_id


def test_two_pods_whose_joined_names_are_equal_both_get_their_object() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node(), identity(), binding(), pod("a-b", namespace="c"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(pod("a", namespace="b-c"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    newcomer = distinct_name(AssignmentKey("b-c", "a", "default", "demo"))
    assert cluster.statuses() == {"a-b-c-demo": "Assigned", newcomer: "Assigned"}
    assert newcomer.startswith("a-b-c-demo-")
    assert len(newcomer) == len("a-b-c-demo-") + 10


def test_concurrently_created_pods_never_share_an_object_name() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node(), identity(), binding(), pod("a-b", namespace="c"), pod("a", namespace="b-c"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.objects) == 2


def test_two_identities_of_one_name_in_two_namespaces_both_work() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    for namespace in ("one", "two"):
        resource_id = identity_id(f"in-{namespace}")
        cluster.add(identity(namespace=namespace, resource_id=resource_id), binding(namespace=namespace))
    cluster.add(node(), pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.objects) == 2
    assert cluster.on(vm_id("n0")) == {"in-one", "in-two"}


def test_a_name_over_the_limit_is_truncated_and_made_unique() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node(), identity(), binding())
    for end in "xy":
        cluster.add(pod("p" * 250 + end))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.objects) == 2
    assert all(len(name) == NAME_MAX for _, name in cluster.objects)


def test_a_name_of_exactly_the_limit_is_not_changed() -> None:
    key = AssignmentKey("default", "p" * (NAME_MAX - len("-default-demo")), "default", "demo")
    assert len(plain_name(key)) == NAME_MAX
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node(), identity(), binding(), pod(key.pod))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert list(cluster.objects) == [("default", plain_name(key))]


def test_a_pod_that_returns_while_its_old_object_is_terminating_gets_another_name_immediately() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    cluster.add(node(), identity(), binding(), pod(uid="first"))
    cluster.reconcile_until_in_sync(vm_id("n0"))
    existing = cluster.view.existing(("default", "web-default-demo"))
    assert existing is not None
    cluster.remove(pod())
    cluster.view.revoked(existing)
    cluster.add(pod(uid="second"))
    steps = cluster.reconcile(vm_id("n0"))
    assert steps == ["create", "release"]
    (left,) = cluster.objects
    assert left == ("default", distinct_name(existing.assignment_key))
    assert len(cluster.changes) == 1, "the identity must not leave the VM in between"


def test_an_assignment_that_returns_while_both_its_names_are_taken_gets_a_third_one() -> None:
    cluster = Cluster()
    cluster.host(vm_id("n0"))
    again = binding("again", namespace="team")
    cluster.add(node(), identity(), binding(), pod())
    cluster.reconcile_until_in_sync(vm_id("n0"))
    cluster.add(identity(namespace="team", resource_id=identity_id("other"), client_id="client-other"), again)
    cluster.reconcile_until_in_sync(vm_id("n0"))
    assert len(cluster.objects) == 2
    cluster.remove(again)
    assert cluster.reconcile(vm_id("n0"), warm=[identity_id("other").lower()]) == ["revoke"]
    cluster.add(again)
    assert cluster.reconcile(vm_id("n0")) == ["create", "release"]
    assert set(cluster.statuses().values()) == {"Assigned"}
    assert cluster.on(vm_id("n0")) == {"demo", "other"}
    assert len(cluster.changes) == 2
