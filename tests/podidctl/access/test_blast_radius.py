"""Reach of an attacker in one pod or one node, today and if all identities were federated."""

from podidctl.access.blast_radius import pod_blast_radius
from podidctl.access.cluster_objects import Rbac
from podidctl.access.schema import AccessReview, BlastRadius
from tests.podidctl.access.small_cluster import (
    KUBELET,
    SCALE_SET,
    STRANGE,
    VM,
    attached,
    identity_id,
    nmi_pod,
    node,
    on_azure,
    pod,
    pod_of,
    reviewed,
    with_pods,
)


def node_of(found: AccessReview, name: str) -> BlastRadius:
    (one,) = (each for each in found.nodes if each.name == name)
    return one.blast_radius


def of_pod(found: AccessReview, name: str) -> BlastRadius:
    return pod_blast_radius(found, pod_of(found, name))


def test_a_pod_without_host_access_reaches_its_own_identities() -> None:
    radius = of_pod(reviewed(), "shop/web-7d4b-x1")
    assert (radius.today.identities, radius.today.others, radius.accounts) == (["shop/payments"], [], [])
    assert radius.federated == radius.today
    assert (radius.today.complete, radius.today.system_assigned) == (True, False)


def test_a_host_network_pod_reaches_what_is_attached_to_its_host() -> None:
    radius = of_pod(reviewed(pods=with_pods(pod("proxy", "ops", node="node-0", host_network=True))), "ops/proxy")
    assert radius.today.identities == ["shop/payments"]
    assert radius.today.others == [STRANGE, KUBELET]
    assert radius.today.system_assigned is True
    assert radius.federated.identities == [], "MIC attaches no federated identity"
    assert radius.federated.others == [STRANGE, KUBELET], "MIC does not attach or detach these"
    assert radius.accounts == [], "it cannot read NMI's token"


def test_a_privileged_pod_reaches_what_its_node_does() -> None:
    found = reviewed(pods=with_pods(pod("agent-1", "ops", node="node-1", privileged=True)))
    assert of_pod(found, "ops/agent-1") == node_of(found, "node-1")


def test_a_node_reaches_its_pods_identities_of_every_type_and_nmis_account() -> None:
    radius = node_of(reviewed(), "node-1")
    assert radius.today.identities == ["ops/legacy", "shop/reports"]
    assert radius.today.others == [KUBELET]
    assert radius.accounts == ["kube-system/default"]


def test_a_node_of_a_scale_set_reaches_the_identities_of_the_whole_set_until_they_are_federated() -> None:
    nodes = (node("node-0", f"{SCALE_SET}/virtualMachines/0"), node("node-2", f"{SCALE_SET}/virtualMachines/2"))
    found = reviewed(nodes=nodes, azure=on_azure(pool=attached(identity_id("payments"))))
    other = node_of(found, "node-2")
    assert other.today.identities == ["shop/payments"], "its pod runs on node-0"
    assert other.federated.identities == []
    assert node_of(found, "node-0").federated.identities == ["shop/payments"]


def test_the_account_of_nmi_reaches_the_identities_that_its_role_allows() -> None:
    (program,) = reviewed().programs
    assert (program.program, program.account) == ("NMI", "kube-system/default")
    assert program.today == ["ops/legacy", "shop/reports"]
    assert program.federated == ["ops/legacy", "shop/payments", "shop/reports"]
    (less,) = reviewed(rbac=Rbac()).programs
    assert less.today == []


def test_without_azure_the_reach_is_incomplete_where_the_host_counts() -> None:
    found = reviewed(azure=None)
    assert not node_of(found, "node-0").today.complete
    assert of_pod(found, "shop/web-7d4b-x1").today.complete
    assert not of_pod(found, "ops/agent").today.complete


def test_host_network_does_not_hide_that_a_labelled_pods_identity_is_on_the_host() -> None:
    proxy = pod("proxy", label="payments", node="node-0", host_network=True)
    found = reviewed(pods=(proxy, nmi_pod("node-0")), assigned=(), nodes=(node("node-0", VM),))
    assert of_pod(found, "shop/proxy").today.identities == ["shop/payments"]
