"""Links outside the API server: the node's VM or scale set, the identities attached to it, and NMI on the node."""

import pytest

from mic.azure.identities import GONE, Attached, HostIdentities
from podidctl.diagnosis.input import NmiPods, ReadFailure
from podidctl.diagnosis.node_placement import PlacedNode, PlacedNodeSpec
from podidctl.explain.schema import Link, LinkState
from podidentity.azure.errors import Refused
from podidentity.resources import BareMeta
from tests.podidctl.prediction_inputs import explain_pod, labelled, nmi_pod, only, rules
from tests.support.nmi_objects import CLIENT_ID, NODE, assigned_identity, binding, identity, resource_id

KEY = resource_id("id").lower()
ATTACHED = {KEY: Attached(resource_id("id"))}


def link_of(name: str, **changes: object) -> Link:
    (link,) = [each for each in explain_pod(**changes).links if each.link == name]
    return link


@pytest.mark.parametrize(
    ("azure", "state", "says"),
    [
        (HostIdentities(attached=ATTACHED), LinkState.OK, "it is on vm-1"),
        (HostIdentities(), LinkState.BROKEN, "is not attached to vm-1"),
        (HostIdentities(attached=ATTACHED, provisioning_state="Updating"), LinkState.UNKNOWN, "is in progress"),
        (GONE, LinkState.BROKEN, "Azure has no /subscriptions/s/"),
        (Refused("no right", status=403, code="AuthorizationFailed"), LinkState.UNKNOWN, "403 AuthorizationFailed"),
        (None, LinkState.UNKNOWN, "Azure was not asked"),
    ],
    ids=["there", "absent", "changing", "no-host", "refused", "not-asked"],
)
def test_azures_state_of_the_identity(azure: object, state: LinkState, says: str) -> None:
    link = link_of("on Azure", azure=azure)
    assert link.state is state
    assert says in link.says
    assert link.about == "id"


def test_a_service_principal_requires_no_vm() -> None:
    links = explain_pod(
        identities=(identity(type_=1),), assigned=(labelled(assigned_identity(type_=1)),), node=None
    ).links
    assert "host" not in {each.link for each in links}


@pytest.mark.parametrize(
    ("node", "state", "says"),
    [
        (None, LinkState.BROKEN, "no such node"),
        (PlacedNode(metadata=BareMeta(name=NODE)), LinkState.BROKEN, "it has no providerID"),
        (
            PlacedNode(metadata=BareMeta(name=NODE), spec=PlacedNodeSpec(provider_id="kind://x")),
            LinkState.BROKEN,
            "'kind://x'",
        ),
        (ReadFailure("not allowed: nodes"), LinkState.UNKNOWN, "not allowed: nodes"),
    ],
    ids=["gone", "bare", "elsewhere", "unread"],
)
def test_a_node_without_a_vm_is_reported(node: object, state: LinkState, says: str) -> None:
    link = link_of("host", node=node)
    assert link.state is state
    assert says in link.says


def test_a_node_without_nmi_is_reported_if_other_nodes_have_one() -> None:
    assert only(explain_pod(nmi=NmiPods(others=(nmi_pod("node-2"),)))).link == "NMI"


def test_an_nmi_that_is_not_ready_is_reported_with_its_pod() -> None:
    link = only(explain_pod(nmi=NmiPods((nmi_pod(ready=False),))))
    assert (link.link, link.about) == ("NMI", "kube-system/nmi-x")
    assert "kubectl logs -n kube-system nmi-x" in link.next


def test_no_nmi_in_the_cluster_is_a_fault_and_forbidden_pods_are_not() -> None:
    assert only(explain_pod(nmi=NmiPods())).link == "NMI"
    assert link_of("NMI", nmi=ReadFailure("not allowed")).state is LinkState.UNKNOWN


def test_an_unused_identity_is_not_required_on_azure() -> None:
    former = labelled(assigned_identity("old", pod_uid="uid-0"))
    removed = labelled(assigned_identity("gone", deleting=True))
    far = {"bindings": (binding(), binding(namespace="far")), "identities": (identity(), identity(namespace="far"))}
    links = explain_pod(
        **far,
        configuration=rules(force_namespaced=True),
        assigned=(labelled(assigned_identity()), former, removed),
        azure=HostIdentities(attached=ATTACHED),
    ).links
    assert [each.about for each in links if each.link == "on Azure"] == ["id"]


@pytest.mark.parametrize("managed", [False, True], ids=["standard", "managed"])
def test_a_client_id_of_another_identity_is_reported_with_both_ids(managed: bool) -> None:
    other = "0b000000-0000-0000-0000-000000000002"
    azure = HostIdentities(attached={KEY: Attached(resource_id("id"), other)})
    explanation = explain_pod(azure=azure, configuration=rules(managed=managed))
    link = only(explanation)
    assert (link.link, link.about) == ("client id", "ns/id")
    assert other in link.says
    assert CLIENT_ID in link.says
    assert other in explanation.answer.says
    right = HostIdentities(attached={KEY: Attached(resource_id("id"), CLIENT_ID.upper())})
    assert "client id" not in {
        each.link for each in explain_pod(azure=right, configuration=rules(managed=managed)).links
    }
