"""Each difference from the Go implementation is found, and unaffected neighbours are not reported."""

from typing import Any

import pytest

from podidctl.migration.differences import (
    Difference,
    DifferenceLevel,
    Installation,
    find_differences,
    manifest_differences,
)
from tests.migration.objects import ID, binding, exception, identity, pod

SECRETS = "Secrets of AzureIdentities of type 1 and 2"
FINE = [identity(), binding()]


def found(*documents: dict[str, Any], **more: Any) -> list[Difference]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    return find_differences(Installation(by_kind, **more))


def only(*documents: dict[str, Any], **more: Any) -> Difference:
    (one,) = found(*documents, **more)
    return one


def test_equal_behaviour_is_not_reported() -> None:
    assert found(*FINE, pods=[pod()]) == []


def test_old_field_names_are_rewritten_by_mic_once() -> None:
    old = identity()
    old["spec"]["ClientID"] = old["spec"].pop("clientID")
    one = only(old, binding())
    assert (one.level, one.about) == (DifferenceLevel.NO_ACTION, "azureidentities: shop/demo")
    assert "1 object in field spellings from before v1.6.0" in one.what


def test_old_field_names_recorded_as_rewritten_must_be_reviewed() -> None:
    old = identity()
    old["spec"]["ClientID"] = old["spec"].pop("clientID")
    one = only(old, binding(), record="v1.8.17", record_at="key k of ConfigMap ns/c")
    assert one.level is DifferenceLevel.REVIEW
    assert "key k of ConfigMap ns/c records that version v1.8.17" in one.what
    assert "NMI and MIC ignore these fields" in one.what


def test_definitions_that_drop_old_field_names_are_reported() -> None:
    one = only(*FINE, dropped=["AzureIdentity"])
    assert (one.level, one.about) == (DifferenceLevel.REVIEW, "azureidentities")
    assert "deploy/crds" in one.do


@pytest.mark.parametrize(
    ("spec", "level", "what"),
    [
        ({"resourceID": "/subscriptions/x"}, DifferenceLevel.FIX, "is not of the form"),
        ({"type": 7}, DifferenceLevel.FIX, "is not 0, 1, 2 or 3"),
        ({"clientID": " "}, DifferenceLevel.REVIEW, "has no clientID"),
        (
            {"type": 1, "tenantID": "t", "clientPassword": {"name": "n", "namespace": "other"}},
            DifferenceLevel.REVIEW,
            "--allow-cross-namespace-secrets",
        ),
        (
            {"type": 1, "tenantID": "t", "clientPassword": {"name": "n"}, "adEndpoint": "https://example.org/"},
            DifferenceLevel.REVIEW,
            "--allowed-ad-endpoints",
        ),
        ({"type": 2, "tenantID": "t"}, DifferenceLevel.REVIEW, "its owner must correct it"),
    ],
)
def test_an_identity_that_is_served_differently_is_reported(
    spec: dict[str, Any], level: DifferenceLevel, what: str
) -> None:
    (one,) = [each for each in found(identity(**spec), binding()) if each.about != SECRETS]
    assert (one.level, one.about) == (level, "AzureIdentity shop/demo")
    assert what in one.what


def test_a_service_principal_with_its_secret_in_its_namespace_is_served_if_nmi_may_read_it() -> None:
    principal = identity(
        type=1, tenantID="t", clientPassword={"name": "n"}, adEndpoint="https://login.microsoftonline.com/"
    )
    one = only(principal, binding())
    assert (one.level, one.about) == (DifferenceLevel.REVIEW, SECRETS)
    assert "nmi.servicePrincipals=true" in one.do


def test_a_binding_without_its_identity_is_reported_also_if_another_namespace_has_one_of_that_name() -> None:
    one = only(identity(namespace="elsewhere"), binding())
    assert one.level is DifferenceLevel.FIX
    assert one.what == "AzureIdentity shop/demo does not exist"


def test_two_bindings_for_the_same_label_are_reported_and_two_for_different_labels_are_not() -> None:
    one = only(identity(), binding(), binding("again", azureIdentity="demo", selector="demo"))
    assert one.about == "AzureIdentityBindings shop/again, demo"
    assert found(identity(), binding(), binding("other", azureIdentity="demo", selector="other")) == []


def test_of_several_identities_the_one_for_an_unspecified_request_is_reported() -> None:
    one = only(*FINE, identity("b"), binding("a", azureIdentity="b", selector="demo"))
    assert one.about == "label aadpodidbinding=demo"
    assert "gets shop/b (the first by binding name)" in one.what


def test_of_identities_of_several_namespaces_the_one_for_an_unspecified_request_depends_on_the_pods() -> None:
    every = found(*FINE, identity("b", namespace="ids"), binding("a", "ids", azureIdentity="b", selector="demo"))
    (one,) = (each for each in every if each.about == "label aadpodidbinding=demo")
    assert "gets one of the pod's namespace, else ids/b (the first by binding name)" in one.what


def test_identities_of_one_name_for_one_label_are_reported() -> None:
    every = found(*FINE, identity(namespace="b", resourceID=ID + "x", clientID="x"), binding(namespace="b"))
    assert [each.level for each in every] == [DifferenceLevel.REVIEW, DifferenceLevel.NO_ACTION]
    assert every[1].about == "AzureIdentities b/demo, shop/demo"


def test_two_names_of_one_azure_identity_are_reported_however_spelled() -> None:
    one = only(*FINE, identity("b", resourceID=(ID + "DEMO"), clientID="Client-demo "), binding("b"))
    assert (one.level, one.about) == (DifferenceLevel.NO_ACTION, "AzureIdentities shop/b, shop/demo")


@pytest.mark.parametrize(
    ("labels", "level"), [({"app": "mic"}, DifferenceLevel.NO_ACTION), ({"app": "x"}, DifferenceLevel.REVIEW)]
)
def test_exceptions_are_reported_and_the_charts_own_require_nothing(
    labels: dict[str, str], level: DifferenceLevel
) -> None:
    one = only(*FINE, exception(**labels))
    assert one.level is level
    assert next(f"{k}={v}" for k, v in labels.items()) in one.what


def test_pods_with_an_unselected_label_are_reported_unless_they_have_ended() -> None:
    one = only(*FINE, pods=[pod(), pod("lost", "typo"), pod("done", "typo", "Succeeded")])
    assert one.about == "pods shop/lost"


@pytest.mark.parametrize(("holder", "message"), [("mic-1", "is held by mic-1"), ("", "has no holder")])
def test_the_go_implementations_lock_is_reported(holder: str, message: str) -> None:
    one = only(*FINE, lock=holder, lock_at="default/aad-pod-identity-mic")
    assert (one.level, one.about) == (DifferenceLevel.NO_ACTION, "Endpoints default/aad-pod-identity-mic")
    assert message in one.what


def test_an_unreadable_object_is_reported_and_hides_no_other() -> None:
    broken = identity("broken", type="zero")
    every = found(broken, identity(), binding("demo", azureIdentity="gone"))
    assert [(each.level, each.about) for each in every] == [
        (DifferenceLevel.FIX, "AzureIdentity shop/broken"),
        (DifferenceLevel.FIX, "AzureIdentityBinding shop/demo"),
    ]


def test_a_failed_read_is_reported() -> None:
    one = only(*FINE, unread={"daemonsets": "forbidden"})
    assert (one.level, one.about, one.what) == (DifferenceLevel.REVIEW, "daemonsets", "could not be read: forbidden")


def test_of_manifests_only_their_own_content_is_reported() -> None:
    assert manifest_differences([binding("lonely")]) == []
    (one,) = manifest_differences([identity(resourceID="x"), binding("lonely")])
    assert one.level is DifferenceLevel.FIX


def test_many_objects_are_counted_and_the_first_are_named() -> None:
    old = [identity(f"i{number:03}") for number in range(30)]
    for each in old:
        each["spec"]["ClientID"] = each["spec"].pop("clientID")
    one = only(*old)
    assert one.about.endswith("shop/i019 and 10 more")
    assert "30 objects" in one.what


def test_mirror_pods_that_get_nothing_here_are_reported() -> None:
    pods = [pod(), pod("static", mirror=True), pod("ended", mirror=True, phase="Failed")]
    difference = only(identity(), binding(), pods=pods)
    assert difference.level is DifferenceLevel.REVIEW
    assert difference.about == "mirror pods shop/static"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"resourceID": ID + "DEMO"}, "have the same resourceID and different clientIDs"),
        ({"clientID": " CLIENT-demo"}, "have the same clientID and different resourceIDs"),
    ],
    ids=["one-resource-id", "one-client-id"],
)
def test_contradictory_client_ids_are_reported(spec: dict[str, str], says: str) -> None:
    differences = [
        each for each in found(*FINE, identity("b", **spec), binding("b")) if each.level is DifferenceLevel.FIX
    ]
    assert [each.about for each in differences] == ["AzureIdentities shop/b, shop/demo"]
    assert differences[0].what.startswith(says)
