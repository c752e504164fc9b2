"""Bindings of the cluster's own identity, which the cloud config names by client id or resource id."""

from typing import Any

import pytest

from mic.azure.identities import USER, Attached, HostIdentities
from podidctl.access.cluster_objects import AzureState
from podidctl.access.differences import compare
from podidctl.access.html.model import model
from podidctl.access.schema import AccessReview, Explained
from podidctl.access.violations import RuleResult
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.resources import AzureIdentity
from tests.podidctl.access.small_cluster import (
    KUBELET,
    SCALE_SET,
    binding,
    identity,
    pod,
    printed,
    reviewed,
    rule_result,
    small_cluster,
)

CLIENT_ID = "6f2c0000-0000-0000-0000-000000000001"
POOL = parse_provider_id(SCALE_SET)
assert POOL is not None
READ = {POOL.key: HostIdentities(type=USER, attached={KUBELET.lower(): Attached(KUBELET, CLIENT_ID)})}
BY_RESOURCE_ID = AzureState(READ, KUBELET.upper())
BY_CLIENT_ID = AzureState(READ, CLIENT_ID.upper())
UNREAD = AzureState({}, CLIENT_ID)
NOT_NAMED = AzureState(READ, "")


def bound(named: AzureIdentity, azure: AzureState | None, **changes: Any) -> AccessReview:
    return reviewed(
        identities=(named,), bindings=(binding("it", identity=named.metadata.name),), azure=azure, **changes
    )


def is_critical(found: AccessReview) -> bool:
    (one,) = found.bindings
    return bool(one.critical)


def result(found: AccessReview, more: str = "") -> RuleResult:
    return rule_result(f"rule: no-cluster-identity{more}", found)


@pytest.mark.parametrize(
    ("azure", "named"),
    [
        (BY_RESOURCE_ID, identity("own", resource_id=KUBELET)),
        (BY_RESOURCE_ID, identity("own", client_id=f" {CLIENT_ID.upper()} ")),
        (BY_CLIENT_ID, identity("own", resource_id=KUBELET, client_id="")),
        (BY_CLIENT_ID, identity("own", client_id=CLIENT_ID)),
        (BY_CLIENT_ID, identity("own", kind=3, client_id=CLIENT_ID)),
        (UNREAD, identity("own", client_id=CLIENT_ID)),
    ],
)
def test_a_binding_of_it_is_critical_by_either_of_its_names(azure: AzureState, named: AzureIdentity) -> None:
    assert is_critical(bound(named, azure))


@pytest.mark.parametrize(
    ("azure", "named"),
    [
        (BY_RESOURCE_ID, identity("payments")),
        (BY_CLIENT_ID, identity("payments", client_id="")),
        (BY_CLIENT_ID, identity("legacy", kind=1, resource_id=KUBELET)),
        (NOT_NAMED, identity("payments", client_id="")),
        (None, identity("own", resource_id=KUBELET)),
    ],
)
def test_a_binding_of_another_or_an_unknown_identity_is_not(azure: AzureState | None, named: AzureIdentity) -> None:
    assert not is_critical(bound(named, azure))


def test_the_outputs_name_it_with_the_next_action() -> None:
    found = bound(identity("own", resource_id=KUBELET), BY_RESOURCE_ID)
    assert "critical: binding shop/it (selector 'it') is for the cluster's own identity" in printed(found)
    assert "delete it" in printed(found)
    assert model(found)["bindings"][0]["problem"].startswith("critical: it is for the cluster's own identity")
    before = bound(identity("own"), BY_RESOURCE_ID)
    assert any(each.sign == "+" and "the cluster's own" in each.says for each in compare(before, found).differences)
    assert "critical" not in printed(before)


@pytest.mark.parametrize("azure", [None, NOT_NAMED])
def test_without_a_cloud_config_that_names_it_the_review_says_so(azure: AzureState | None) -> None:
    found = reviewed(azure=azure)
    assert found.cluster_identity == ""
    assert "bindings of it are not recognized" in printed(found)
    assert "bindings of it are not recognized" not in printed(reviewed(azure=BY_CLIENT_ID))


def test_the_rule_finds_it_and_permits_exceptions() -> None:
    found = bound(identity("own", resource_id=KUBELET), small_cluster().azure)
    ((name, says),) = [(each.object, each.says) for each in result(found).violations]
    assert name == "AzureIdentityBinding shop/it"
    assert says.startswith("is for the cluster's own identity")
    assert result(found, ", exceptBindings: [shop/it]").violations == []
    assert (result(reviewed()).violations, result(reviewed()).undecided) == ([], [])


@pytest.mark.parametrize(
    ("azure", "advice"), [(None, "pass --cloudconfig"), (NOT_NAMED, "pass the azure.json"), (UNREAD, "azure: ")]
)
def test_the_rule_is_not_decided_where_a_binding_of_it_may_be_hidden(azure: AzureState | None, advice: str) -> None:
    found = result(bound(identity("own", resource_id=KUBELET, client_id=""), azure))
    assert found.violations == []
    assert any(advice in each for each in found.undecided)


def test_a_host_keeps_it_also_where_pods_use_it() -> None:
    found = bound(identity("own", resource_id=KUBELET), BY_RESOURCE_ID, pods=(pod("web", label="it", node="node-1"),))
    (attached,) = [each for host in found.hosts if host.id == SCALE_SET for each in host.attached]
    assert (attached.explained, attached.pods) == (Explained.CLUSTER, 1)
