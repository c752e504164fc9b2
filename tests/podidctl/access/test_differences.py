"""Changes between two reviews."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from podidctl.access.differences import DocumentError, compare, read_document
from podidctl.access.review import review
from podidctl.access.schema import Scope
from podidctl.diagnosis.input import ReadFailure, readable
from podidentity.resources import GROUP
from tests.podidctl.access.small_cluster import (
    KUBELET,
    attached,
    binding,
    bound,
    exception,
    identity,
    identity_id,
    on_azure,
    pod,
    rbac,
    reviewed,
    role,
    rule,
    small_cluster,
    with_pods,
)


def changes(**new: Any) -> list[tuple[str, str, str]]:
    found = compare(reviewed(), reviewed(**new))
    assert found.unknown == []
    return [(each.sign, each.subject, each.says) for each in found.differences]


def test_equal_reviews_have_no_differences() -> None:
    assert changes() == []


def test_a_pod_that_gains_an_identity_is_reported_by_its_workload() -> None:
    assert changes(pods=with_pods(pod("new", "ops", label="payments"))) == [
        ("+", "workload ops/Pod new", "can use identity shop/payments through binding shop/payments")
    ]


def test_a_replaced_pod_of_the_same_workload_is_no_difference() -> None:
    web, *others = with_pods()
    renamed = msgspec.structs.replace(
        web, metadata=msgspec.structs.replace(web.metadata, name="web-7d4b-zz", uid="another")
    )
    assert changes(pods=(renamed, *others)) == []


def test_a_lost_identity_is_reported() -> None:
    kept = (binding("reports"), binding("legacy", "ops"))
    found = changes(bindings=kept, assigned=())
    assert ("-", "binding shop/payments", "gives shop/payments to the selector 'payments'") in found
    assert (
        "-",
        "workload shop/Deployment web",
        "can use identity shop/payments through binding shop/payments",
    ) in found


def test_host_access_and_attached_identities_are_compared() -> None:
    found = changes(
        pods=with_pods(pod("bad", "ops", privileged=True)),
        azure=on_azure(vm=attached(identity_id("payments"), KUBELET), pool=attached(KUBELET)),
    )
    assert ("+", "workload ops/Pod bad", "reaches its node's identities by privileged") in found
    assert [(sign, says.rpartition("/")[2]) for sign, subject, says in found if subject.startswith("host ")] == [
        ("-", "backup attached (explained by nothing)"),
        ("-", "has a system-assigned identity"),
    ]


def test_new_subjects_and_changed_identities_are_compared() -> None:
    more = rbac(
        cluster=(role("extra", rule("create", GROUP, "azureidentities")),), bindings=(bound("extra", "User eve"),)
    )
    assert ("+", "User eve", "may write identities (create) in all namespaces") in changes(rbac=more)
    other = (identity("payments", client_id="client-other"), *readable(small_cluster().identities)[1:])
    about = [says for _, subject, says in changes(identities=other) if subject == "identity shop/payments"]
    assert len(about) == 2
    assert "client id client-other" in about[0]


def test_a_new_exception_is_reported_even_without_a_pod() -> None:
    assert changes(exceptions=(exception(app="old"),)) == [
        ("+", "exception shop/legacy", "exempts pods with one of the labels app=old")
    ]


def test_unread_parts_of_either_review_are_named() -> None:
    unread = compare(reviewed(rbac=ReadFailure("no")), reviewed(azure=None))
    assert unread.unknown == ["azure (before: read, after: not read)", "rbac"]


def test_reviews_of_different_scopes_cannot_be_compared() -> None:
    one = review(small_cluster(), Scope(kind="namespace", name="shop"))
    with pytest.raises(DocumentError, match="different scopes"):
        compare(one, reviewed())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an access review"),
        (b"{}", "schema version 0"),
        (b'{"schemaVersion": 2}', "schema version 2"),
        (b'{"schemaVersion": 1}', "not an access review .*missing required field"),
        (b"\xff", "not an access review"),
        (b"[" * 100_000, "not an access review"),
    ],
)
def test_another_file_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        read_document(data)


def test_only_the_time_of_the_read_differs_without_a_change() -> None:
    later = review(replace(small_cluster(), read_at="2026-11-28T12:00:00Z"))
    found = compare(reviewed(), later)
    assert (found.differences, found.before, found.after) == ([], "2026-11-27T12:00:00Z", "2026-11-28T12:00:00Z")
