"""Identities attached to VMs and scale sets, the reach of an attacker, and bindings of the cluster's own identity."""

from typing import Any

import pytest

from mic.azure.identities import USER, Attached, HostIdentities
from podidctl.access.blast_radius import ReviewIndex
from podidctl.access.differences import compare
from podidctl.access.html.document import model
from podidctl.access.policy import RuleResult
from podidctl.access.schema import AccessReview, BlastRadius, Explained, Host
from podidctl.facts.model import AzureState
from podidctl.facts.rbac import Rbac
from podidentity.azure.errors import Refused
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import AzureIdentity
from tests.support.podidctl.access.small_cluster import (
    KUBELET,
    SCALE_SET,
    STRANGE,
    VM,
    attached,
    binding,
    identity,
    identity_id,
    nmi_pod,
    node,
    on_azure,
    pod,
    pod_of,
    printed,
    reviewed,
    rule_result,
    small_cluster,
    with_pods,
)

PAYMENTS = identity_id("payments")


def host(access_review: AccessReview, kind: str) -> Host:
    (one,) = (host for host in access_review.hosts if host.kind == kind)
    return one


def explained(reviewed_host: Host) -> dict[str, Explained]:
    return {attached.resource_id: attached.explained for attached in reviewed_host.attached}


def test_each_identity_of_a_host_is_explained_or_not() -> None:
    vm = host(reviewed(), "VM")
    assert explained(vm) == {PAYMENTS: Explained.PODS, KUBELET: Explained.CLUSTER, STRANGE: Explained.NOTHING}
    assert (vm.read, vm.system_assigned) == (True, True)
    assert {attached.resource_id: (attached.identities, attached.pods) for attached in vm.attached}[PAYMENTS] == (
        ["shop/payments"],
        1,
    )
    assert explained(host(reviewed(bindings=()), "VM"))[PAYMENTS] is Explained.ASSIGNMENT
    in_capitals = host(reviewed(azure=on_azure(vm=attached(PAYMENTS.upper()))), "VM")
    assert explained(in_capitals) == {PAYMENTS.upper(): Explained.PODS}
    pool = host(reviewed(), "scale set")
    assert (pool.nodes, pool.system_assigned) == (["node-1", "node-2"], False)
    access_review = reviewed(nodes=(node("node-0", ""), node("node-1", f"{SCALE_SET}/virtualMachines/1")))
    assert {host.id for host in access_review.hosts} == {"node:node-0", SCALE_SET}


def test_without_azure_only_what_the_cluster_shows_is_listed() -> None:
    access_review = reviewed(azure=None)
    vm = host(access_review, "VM")
    assert explained(vm) == {PAYMENTS: Explained.PODS}
    assert (vm.read, vm.system_assigned, access_review.azure, access_review.summary.unexplained) == (
        False,
        None,
        "not read",
        None,
    )
    assert access_review.unknown == [], "the operator did not ask for Azure"
    assert not node_of(access_review, "node-0").today.complete
    assert of_pod(access_review, "shop/web-7d4b-x1").today.complete
    assert not of_pod(access_review, "ops/agent").today.complete


def test_a_host_that_azure_does_not_return_is_unknown() -> None:
    known = parse_provider_id(VM)
    assert known is not None
    answers = {**on_azure(pool=attached(KUBELET)).responses, known.key: Refused("no role", status=403)}
    access_review = reviewed(azure=AzureState(answers))
    vm = host(access_review, "VM")
    assert not vm.read
    assert "403" in vm.problem
    assert (access_review.azure, access_review.summary.unexplained) == ("partly read", None)
    (unknown,) = access_review.unknown
    assert (unknown.part, "Reader" in unknown.right) == ("azure", True)


def node_of(access_review: AccessReview, name: str) -> BlastRadius:
    (one,) = (node for node in access_review.nodes if node.name == name)
    return one.blast_radius


def of_pod(access_review: AccessReview, name: str) -> BlastRadius:
    return ReviewIndex(access_review).blast_radius_of(pod_of(access_review, name))


def test_a_pod_reaches_its_own_identities_and_in_the_host_network_those_of_its_host() -> None:
    radius = of_pod(reviewed(), "shop/web-7d4b-x1")
    assert (radius.today.identities, radius.today.others, radius.accounts) == (["shop/payments"], [], [])
    assert radius.federated == radius.today
    assert (radius.today.complete, radius.today.system_assigned) == (True, False)
    radius = of_pod(reviewed(pods=with_pods(pod("proxy", "ops", node="node-0", host_network=True))), "ops/proxy")
    assert radius.today.identities == ["shop/payments"]
    assert radius.today.others == [STRANGE, KUBELET]
    assert radius.today.system_assigned is True
    assert radius.federated.identities == [], "MIC attaches no federated identity"
    assert radius.federated.others == [STRANGE, KUBELET], "MIC does not attach or detach these"
    assert radius.accounts == [], "it cannot read NMI's token"
    its_own = pod("proxy", label="payments", node="node-0", host_network=True)
    access_review = reviewed(pods=(its_own, nmi_pod("node-0")), assigned=(), nodes=(node("node-0", VM),))
    assert of_pod(access_review, "shop/proxy").today.identities == ["shop/payments"], "its label hides nothing"


def test_a_node_and_its_privileged_pod_reach_its_pods_identities_and_nmis_account() -> None:
    radius = node_of(reviewed(), "node-1")
    assert radius.today.identities == ["ops/legacy", "shop/reports"]
    assert radius.today.others == [KUBELET]
    assert radius.accounts == ["kube-system/default"]
    access_review = reviewed(pods=with_pods(pod("agent-1", "ops", node="node-1", privileged=True)))
    assert of_pod(access_review, "ops/agent-1") == node_of(access_review, "node-1")


def test_a_node_of_a_scale_set_reaches_the_identities_of_the_whole_set_until_they_are_federated() -> None:
    nodes = (node("node-0", f"{SCALE_SET}/virtualMachines/0"), node("node-2", f"{SCALE_SET}/virtualMachines/2"))
    access_review = reviewed(nodes=nodes, azure=on_azure(pool=attached(identity_id("payments"))))
    other = node_of(access_review, "node-2")
    assert other.today.identities == ["shop/payments"], "its pod runs on node-0"
    assert other.federated.identities == []
    assert node_of(access_review, "node-0").federated.identities == ["shop/payments"]


def test_the_account_of_nmi_reaches_the_identities_that_its_role_allows() -> None:
    (program,) = reviewed().programs
    assert (program.program, program.account) == ("NMI", "kube-system/default")
    assert program.today == ["ops/legacy", "shop/reports"]
    assert program.federated == ["ops/legacy", "shop/payments", "shop/reports"]
    (less,) = reviewed(rbac=Rbac()).programs
    assert less.today == []


CLIENT_ID = "6f2c0000-0000-0000-0000-000000000001"
POOL = parse_provider_id(SCALE_SET)
assert POOL is not None
READ = {POOL.key: HostIdentities(type=USER, attached={KUBELET.lower(): Attached(KUBELET, CLIENT_ID)})}
BY_RESOURCE_ID = AzureState(READ, KUBELET.upper())
BY_CLIENT_ID = AzureState(READ, CLIENT_ID.upper())
UNREAD = AzureState({}, CLIENT_ID)
NOT_NAMED = AzureState(READ, "")


def bound_to(named: AzureIdentity, azure: AzureState | None, **changes: Any) -> AccessReview:
    return reviewed(
        identities=(named,), bindings=(binding("it", identity=named.metadata.name),), azure=azure, **changes
    )


def result(access_review: AccessReview, more: str = "") -> RuleResult:
    return rule_result(f"rule: no-cluster-identity{more}", access_review)


@pytest.mark.parametrize(
    ("azure", "named", "critical"),
    [
        (BY_RESOURCE_ID, identity("own", resource_id=KUBELET), True),
        (BY_RESOURCE_ID, identity("own", client_id=f" {CLIENT_ID.upper()} "), True),
        (BY_CLIENT_ID, identity("own", resource_id=KUBELET, client_id=""), True),
        (BY_CLIENT_ID, identity("own", client_id=CLIENT_ID), True),
        (BY_CLIENT_ID, identity("own", kind=3, client_id=CLIENT_ID), True),
        (UNREAD, identity("own", client_id=CLIENT_ID), True),
        (BY_RESOURCE_ID, identity("payments"), False),
        (BY_CLIENT_ID, identity("payments", client_id=""), False),
        (BY_CLIENT_ID, identity("legacy", kind=1, resource_id=KUBELET), False),
        (NOT_NAMED, identity("payments", client_id=""), False),
        (None, identity("own", resource_id=KUBELET), False),
    ],
)
def test_a_binding_of_it_is_critical_by_either_of_its_names(
    azure: AzureState | None, named: AzureIdentity, *, critical: bool
) -> None:
    (one,) = bound_to(named, azure).bindings
    assert bool(one.critical) is critical


def test_the_outputs_name_it_with_the_next_action() -> None:
    access_review = bound_to(identity("own", resource_id=KUBELET), BY_RESOURCE_ID)
    assert "critical: binding shop/it (selector 'it') is for the cluster's own identity" in printed(access_review)
    assert "delete it" in printed(access_review)
    assert model(access_review)["bindings"][0]["problem"].startswith("critical: it is for the cluster's own identity")
    before = bound_to(identity("own"), BY_RESOURCE_ID)
    assert any(
        difference.sign == "+" and "the cluster's own" in difference.says
        for difference in compare(before, access_review).differences
    )
    assert "critical" not in printed(before)


@pytest.mark.parametrize("azure", [None, NOT_NAMED])
def test_without_a_cloud_config_that_names_it_the_review_says_so(azure: AzureState | None) -> None:
    access_review = reviewed(azure=azure)
    assert access_review.cluster_identity == ""
    assert "bindings of it are not recognized" in printed(access_review)
    assert "bindings of it are not recognized" not in printed(reviewed(azure=BY_CLIENT_ID))


def test_the_rule_finds_it_and_permits_exceptions() -> None:
    access_review = bound_to(identity("own", resource_id=KUBELET), small_cluster().azure)
    ((name, says),) = [(violation.object, violation.message) for violation in result(access_review).violations]
    assert name == "AzureIdentityBinding shop/it"
    assert says.startswith("is for the cluster's own identity")
    assert result(access_review, ", exceptBindings: [shop/it]").violations == []
    assert (result(reviewed()).violations, result(reviewed()).undecided) == ([], [])


@pytest.mark.parametrize(
    ("azure", "advice"), [(None, "pass --cloudconfig"), (NOT_NAMED, "pass the azure.json"), (UNREAD, "azure: ")]
)
def test_the_rule_is_not_decided_where_a_binding_of_it_may_be_hidden(azure: AzureState | None, advice: str) -> None:
    outcome = result(bound_to(identity("own", resource_id=KUBELET, client_id=""), azure))
    assert outcome.violations == []
    assert any(advice in reason for reason in outcome.undecided)


def test_a_host_keeps_it_also_where_pods_use_it() -> None:
    access_review = bound_to(
        identity("own", resource_id=KUBELET), BY_RESOURCE_ID, pods=(pod("web", label="it", node="node-1"),)
    )
    (attached,) = [attached for host in access_review.hosts if host.id == SCALE_SET for attached in host.attached]
    assert (attached.explained, attached.pods) == (Explained.CLUSTER, 1)
