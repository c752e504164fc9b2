"""Clusters with VMs, uniform and flexible scale sets, whose pods and nodes are deleted and created again."""

import itertools

import pytest

from mic.decisions.policy import Policy
from tests.mic.cluster import (
    GROUP,
    Cluster,
    Thing,
    binding,
    identity,
    identity_id,
    node,
    pod,
    set_id,
    set_node,
    vm_id,
)

FLEX = f"{GROUP}/Microsoft.Compute/virtualMachines/flex_1a2b3c"
"""An instance of a Flexible scale set is a separate VM to Azure."""
HOSTS = (vm_id("n0"), set_id("one"), set_id("two"), FLEX)


def mixed(*more: Thing, policy: Policy | None = None) -> Cluster:
    """One VM, two nodes of one uniform set, one of another, one of a Flexible set, and one that is not Azure's."""
    cluster = Cluster(policy=policy)
    for host in HOSTS:
        cluster.host(host)
    cluster.add(
        node("n0"),
        set_node("a0", 0, "one"),
        set_node("a1", 1, "one"),
        set_node("b0", 0, "two"),
        node("f0", f"azure://{FLEX}"),
        node("k0", "kind://docker/kind/k0"),
        *more,
    )
    return cluster


def at_rest(cluster: Cluster) -> list[set[str]]:
    cluster.reconcile_until_in_sync(*HOSTS, "node:a0", "node:n0", "node:k0")
    return [cluster.on(host) for host in HOSTS]


def test_each_kind_of_host_gets_the_identities_of_its_own_pods() -> None:
    cluster = mixed(
        identity(),
        binding(),
        identity("other"),
        binding("other", identity="other", selector="other"),
        pod("vm", node="n0"),
        pod("set", node="a0"),
        pod("same-set", node="a1", label="other"),
        pod("flex", node="f0", label="other"),
        pod("elsewhere", node="k0"),
    )
    assert at_rest(cluster) == [{"demo"}, {"demo", "other"}, set(), {"other"}]
    assert len(cluster.changes) == 3, "one for each host that needs any"
    assert set(cluster.statuses().values()) == {"Assigned"}
    assert "elsewhere-default-demo" not in cluster.statuses()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_node_pod_identity_and_binding_may_arrive_in_any_order(order: tuple[int, ...]) -> None:
    cluster = Cluster()
    cluster.host(set_id())
    things = (set_node("s0", 0), pod(node="s0"), identity(), binding())
    for each in order:
        cluster.add(things[each])
        cluster.reconcile_until_in_sync(set_id())
    assert cluster.on(set_id()) == {"demo"}
    assert cluster.statuses() == {"web-default-demo": "Assigned"}
    for each in order:
        cluster.remove(things[each])
        cluster.reconcile_until_in_sync(set_id(), "node:s0")
    assert cluster.objects == {}
    # If the node was deleted first, MIC had no host to detach it from.
    assert cluster.on(set_id()) == ({"demo"} if order[0] == 0 else set())


@pytest.mark.parametrize(("there", "left"), [("a1", [set(), {"demo"}]), ("b0", [set(), set(), {"demo"}])])
def test_a_pod_recreated_on_another_host_leaves_nothing_behind(there: str, left: list[set[str]]) -> None:
    cluster = mixed(identity(), binding(), pod(node="n0", uid="first"))
    at_rest(cluster)
    cluster.add(pod(node=there, uid="second"))
    assert at_rest(cluster)[: len(left)] == left
    (existing,) = cluster.objects.values()
    assert existing.metadata.annotation("aadpodidentity.k8s.io/pod-uid") == "second"
    assert existing.spec.nodename == there


def test_a_finished_pods_assignment_is_revoked_and_its_namesake_gets_a_new_one() -> None:
    cluster = mixed(identity(), binding(), pod(node="a0", uid="first"))
    at_rest(cluster)
    cluster.add(pod(node="a0", uid="first", phase="Succeeded"))
    assert at_rest(cluster)[1] == set()
    assert cluster.objects == {}
    cluster.remove(pod(node="a0", uid="first", phase="Succeeded"))
    cluster.add(pod(node="a1", uid="second"))
    assert at_rest(cluster)[1] == {"demo"}
    assert cluster.statuses() == {"web-default-demo": "Assigned"}


def test_a_node_that_disappears_and_returns_keeps_or_regains_the_identities_of_its_pods() -> None:
    cluster = mixed(identity(), binding(), pod(node="n0"))
    at_rest(cluster)
    cluster.remove(node("n0"))
    at_rest(cluster)
    assert cluster.objects == {}, "a pod on a node that does not exist wants nothing"
    cluster.add(node("n0"))
    assert at_rest(cluster)[0] == {"demo"}
    assert cluster.statuses() == {"web-default-demo": "Assigned"}


def test_a_scale_set_node_that_disappears_takes_nothing_from_the_others() -> None:
    cluster = mixed(identity(), binding(), pod("here", node="a0"), pod("there", node="a1"))
    at_rest(cluster)
    cluster.remove(set_node("a0", 0, "one"))
    cluster.remove(pod("here", node="a0"))
    assert at_rest(cluster)[1] == {"demo"}
    cluster.add(set_node("a0", 0, "one"), pod("here", node="a0", uid="second"))
    assert at_rest(cluster)[1] == {"demo"}
    assert len(cluster.changes) == 1


def test_a_node_name_reused_by_another_vm_is_another_host() -> None:
    cluster = mixed(identity(), binding(), pod(node="n0"))
    at_rest(cluster)
    cluster.host(vm_id("replaced"))
    cluster.add(node("n0", f"azure://{vm_id('replaced')}"))
    cluster.reconcile_until_in_sync(vm_id("replaced"), vm_id("n0"))
    assert cluster.on(vm_id("replaced")) == {"demo"}
    assert cluster.statuses() == {"web-default-demo": "Assigned"}


def test_a_scale_set_spelled_in_two_ways_is_one_host() -> None:
    cluster = mixed(identity(), binding(), pod("here", node="a0"), pod("there", node="a9"))
    cluster.add(node("a9", f"azure://{set_id('one').upper()}/virtualMachines/9"))
    assert at_rest(cluster)[1] == {"demo"}
    assert len(cluster.changes) == 1


@pytest.mark.parametrize("adopt", [False, True])
def test_identities_attached_by_others_are_recognised_on_each_host(adopt: bool) -> None:
    cluster = mixed(
        identity(), binding(), pod("vm", node="n0"), pod("set", node="a0"), policy=Policy(frozenset(), adopt)
    )
    cluster.host(vm_id("n0"), "demo", "stranger")
    at_rest(cluster)
    cluster.remove(pod("vm", node="n0"), pod("set", node="a0"))
    after = at_rest(cluster)
    assert after[0] == ({"stranger"} if adopt else {"demo", "stranger"})
    assert after[1] == set()
    assert identity_id("demo").lower() not in cluster.azure[set_id("one").lower()].attached
