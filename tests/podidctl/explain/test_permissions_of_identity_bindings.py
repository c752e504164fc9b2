"""With identity bindings the service account needs a permission, which is checked before any request of the pod."""

import dataclasses
from io import StringIO
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, Outcome
from podidctl.diagnosis.identity_permissions import IDENTITIES_MAX
from podidctl.diagnosis.input import DiagnosisInput, IdentityPermissions, ReadFailure
from podidctl.explain.explanation import explain
from podidctl.explain.schema import Explanation, Link, LinkState
from podidctl.explain.show import show
from podidctl.token import command
from podidctl.token.prediction import predict
from podidentity.azure.federation import Exchange
from podidentity.azure.identity_permissions import permission_binding, permission_role
from tests.podidctl.federated import federated, trusted
from tests.podidctl.prediction_inputs import facts, labelled, only, rules
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, binding, identity, pod

BINDINGS = rules(federated_identities=True, federated_exchange=Exchange.IDENTITY_BINDINGS)
FORBIDDEN = IdentityPermissions({CLIENT_ID: False})
ALLOWED = IdentityPermissions({CLIENT_ID: True})
UNREAD = ReadFailure("not allowed: subjectaccessreviews.authorization.k8s.io is forbidden")
OBJECTS = [permission_role(CLIENT_ID), permission_binding(CLIENT_ID, "ns", "shop")]


def bound(permissions: Any, **changes: Any) -> DiagnosisInput:
    return trusted(**({"configuration": BINDINGS, "permissions": permissions} | changes))


def permission_links(explanation: Explanation) -> list[Link]:
    return [each for each in explanation.links if each.link == "permission"]


def test_a_missing_permission_is_the_broken_link_and_the_objects_are_printed() -> None:
    explanation = explain(bound(FORBIDDEN))
    link = only(explanation)
    assert (link.link, link.about) == ("permission", "ns/shop, client id c11e…000a")
    assert "use-managed-identity" in link.says
    assert "kubectl apply" in explanation.next
    assert list(yaml.safe_load_all(explanation.manifest)) == OBJECTS


def test_a_missing_permission_is_the_predicted_refusal() -> None:
    answer, token = explain(bound(FORBIDDEN)).answer, predict(bound(FORBIDDEN), MANAGEMENT_RESOURCE)
    assert answer.outcome is token.outcome is Outcome.REFUSED
    assert answer.status == token.status == 403
    assert token.description.startswith("This pod's service account has no permission (use-managed-identity)")
    assert list(yaml.safe_load_all(token.manifest)) == OBJECTS


def test_a_refusal_for_a_permission_does_not_depend_on_a_file_of_nmi() -> None:
    configuration = dataclasses.replace(BINDINGS, cloud_file="/etc/azure/cloud.json")
    assert predict(bound(FORBIDDEN, configuration=configuration), MANAGEMENT_RESOURCE).note == ""


def test_an_existing_permission_is_a_link_and_no_object_is_printed() -> None:
    explanation, token = explain(bound(ALLOWED)), predict(bound(ALLOWED), MANAGEMENT_RESOURCE)
    (link,) = permission_links(explanation)
    assert link.state is LinkState.OK
    assert explanation.answer.outcome is token.outcome is Outcome.GRANTED
    assert (explanation.manifest, token.manifest, token.note) == ("", "", "")
    assert CLIENT_ID not in msgspec.json.encode(explanation).decode()


@pytest.mark.parametrize("permissions", [UNREAD, None], ids=["forbidden", "not-read"])
def test_an_unchecked_permission_is_unknown_and_refuses_nothing(permissions: ReadFailure | None) -> None:
    explanation, token = explain(bound(permissions)), predict(bound(permissions), MANAGEMENT_RESOURCE)
    (link,) = permission_links(explanation)
    assert link.state is LinkState.UNKNOWN
    assert "create on subjectaccessreviews of authorization.k8s.io" in link.next
    assert explanation.answer.outcome is token.outcome is Outcome.GRANTED
    assert token.note.startswith("it is not known whether its service account may use the identity: ")
    assert list(yaml.safe_load_all(explanation.manifest)) == list(yaml.safe_load_all(token.manifest)) == OBJECTS


def test_a_check_that_the_api_server_failed_needs_no_permission() -> None:
    (link,) = permission_links(explain(bound(ReadFailure("500 InternalError", is_forbidden=False))))
    assert link.next.startswith("try again; if it fails again, check the API server")


def test_the_reason_of_an_unchecked_permission_is_printed() -> None:
    (link,) = permission_links(explain(bound(UNREAD)))
    assert UNREAD.why in link.says


def test_the_direct_exchange_needs_no_permission() -> None:
    data = trusted(permissions=None)
    assert permission_links(explain(data)) == []
    assert (explain(data).manifest, predict(data, MANAGEMENT_RESOURCE).manifest) == ("", "")


@pytest.mark.parametrize("type_", [0, 1, 2])
def test_an_identity_that_is_not_federated_needs_no_permission_and_no_object_grants_it(type_: int) -> None:
    plain = facts(
        configuration=BINDINGS,
        pod=pod(service_account="shop"),
        identities=(identity(type_=type_),),
        assigned=(labelled(assigned_identity(type_=type_)),),
    )
    token = predict(plain, MANAGEMENT_RESOURCE)
    assert (token.manifest, token.note) == ("", "")


def test_a_client_id_in_upper_case_is_the_same_permission() -> None:
    explanation = explain(bound(FORBIDDEN, identity=federated(client_id=f" {CLIENT_ID.upper()}")))
    assert only(explanation).link == "permission"
    assert list(yaml.safe_load_all(explanation.manifest)) == OBJECTS


@pytest.mark.parametrize("client_id", ["*", "c", f"{CLIENT_ID}\nkind"])
def test_a_client_id_that_is_no_guid_gets_no_role(client_id: str) -> None:
    explanation = explain(bound(IdentityPermissions({client_id: False}), identity=federated(client_id=client_id)))
    assert explanation.manifest == ""
    assert only(explanation).next.startswith("set clientID of AzureIdentity ns/id to ")


def test_a_pod_without_a_service_account_gets_no_role() -> None:
    explanation = explain(bound(None, pod=pod(service_account="")))
    assert permission_links(explanation) == []
    assert explanation.manifest == ""


def test_identities_beyond_the_limit_are_unknown_and_the_objects_are_bounded() -> None:
    clients = [f"c11e0000-0000-0000-0000-{number:012}" for number in range(3 * IDENTITIES_MAX)]
    identities = tuple(federated(f"id-{each}", client_id=each) for each in clients)
    bindings = tuple(binding(f"b-{each}", f"id-{each}") for each in clients)
    checked = IdentityPermissions(dict.fromkeys(clients[:IDENTITIES_MAX], True))
    explanation = explain(bound(checked, identities=identities, bindings=bindings))
    states = [each.state for each in permission_links(explanation)]
    assert states.count(LinkState.OK) == IDENTITIES_MAX
    assert "one run checks at most" in permission_links(explanation)[-1].says
    assert len(list(yaml.safe_load_all(explanation.manifest))) == 2 * IDENTITIES_MAX


def printed_by(report: Any, show_by: Any) -> str:
    text = StringIO()
    show_by(report, Console(file=text, width=60, highlight=False))
    return text.getvalue()


def test_the_table_has_the_objects_unchanged() -> None:
    explanation, token = explain(bound(FORBIDDEN)), predict(bound(FORBIDDEN), MANAGEMENT_RESOURCE)
    assert explanation.manifest in printed_by(explanation, show)
    assert token.manifest in printed_by(token, command.show)


def test_the_objects_warn_that_a_tenant_chooses_the_client_id() -> None:
    text = explain(bound(FORBIDDEN)).manifest
    assert text.startswith("# Anyone with permission to create an AzureIdentity chooses its clientID")
    assert '{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccounts:ns"}' in text
