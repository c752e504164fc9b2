"""Type 3: the pod's service account is a link, and with identity bindings its permission; there is no link for a VM."""

import dataclasses
from io import StringIO
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from podidctl.checks.explanation import explain
from podidctl.commands.explain import show
from podidctl.commands.token import predict
from podidctl.commands.token import show as show_token
from podidctl.evaluation.federated import IDENTITIES_MAX
from podidctl.evaluation.pod import MANAGEMENT_RESOURCE
from podidctl.facts.kinds import PlacedNode
from podidctl.facts.model import Facts, FederatedAccess, ReadFailure
from podidctl.report.documents import Explanation, Link, LinkState, Outcome, TokenPrediction
from podidentity.azure.federation import Exchange
from podidentity.azure.identity_permissions import permission_binding, permission_role
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, binding, identity, pod
from tests.support.podidctl.prediction_inputs import (
    NMI_ACCOUNT,
    WELL,
    broken,
    facts,
    federated,
    labelled,
    only,
    rules,
    states,
    trusted,
)


def explain_federated(**changes: Any) -> Explanation:
    return explain(trusted(**changes))


def predicted(**changes: Any) -> TokenPrediction:
    return predict(trusted(**changes), MANAGEMENT_RESOURCE)


def account_link(explanation: Explanation) -> Link:
    (link,) = [link for link in explanation.links if link.link == "service account"]
    return link


def test_each_link_is_printed_and_none_concerns_the_vm() -> None:
    explanation = explain_federated(node=PlacedNode())
    assert states(explanation) == [
        ("pod", "ok"),
        ("address", "ok"),
        ("exception", "ok"),
        ("label", "ok"),
        ("binding", "ok"),
        ("identity", "ok"),
        ("assigned identity", "ok"),
        ("service account", "ok"),
        ("NMI", "ok"),
    ]
    assert explanation.answer.outcome is Outcome.GRANTED
    explanation = explain_federated(configuration=rules(managed=True, federated_identities=True), assigned=())
    assert ("served", "ok") in states(explanation)
    assert ("service account", "ok") in states(explanation)
    assert explanation.answer.outcome is Outcome.GRANTED


BINDINGS = rules(federated_identities=True, federated_exchange=Exchange.IDENTITY_BINDINGS)


def annotated(exchange: str) -> AzureIdentity:
    made = federated()
    meta = msgspec.structs.replace(made.metadata, annotations={EXCHANGE_ANNOTATION: exchange})
    return msgspec.structs.replace(made, metadata=meta)


def test_with_identity_bindings_the_token_proxy_and_the_permission_are_printed() -> None:
    explanation = explain_federated(configuration=BINDINGS)
    assert explanation.answer.outcome is Outcome.GRANTED
    (assigned,) = [link for link in explanation.links if link.link == "assigned identity"]
    assert "NMI asks the cluster's token proxy (AKS identity bindings), tenant contoso.com" in assigned.says
    assert assigned.says.endswith("service account ns/shop for api://AKSIdentityBinding")
    says = account_link(explanation).says
    assert "audience api://AKSIdentityBinding (exchange identityBindings)" in says
    assert "the service account the permission use-managed-identity" in says
    assert "federated credential" not in says
    assert predicted().exchange == "direct"
    assert predicted(configuration=BINDINGS).exchange == "identityBindings"
    allowed = rules(federated_identities=True, federated_exchange_annotation=True)
    assert predicted(configuration=allowed, identity=annotated("identityBindings")).exchange == "identityBindings"
    assert predicted(configuration=allowed, identity=annotated("direct")).exchange == "direct"


@pytest.mark.parametrize(
    ("chosen", "reason"), [("identityBindings", "does not allow"), ("Direct", "annotation of this identity's")]
)
def test_an_annotation_that_nmi_refuses_is_predicted(chosen: str, reason: str) -> None:
    prediction = predicted(identity=annotated(chosen))
    assert (prediction.outcome, prediction.exchange) == (Outcome.REFUSED, "")
    assert reason in prediction.description
    assert account_link(explain_federated(identity=annotated(chosen))).says


def test_the_sign_in_endpoint_and_the_required_credential_are_printed() -> None:
    explanation = explain_federated()
    (assigned,) = [link for link in explanation.links if link.link == "assigned identity"]
    assert assigned.says.endswith(
        "NMI asks https://login.microsoftonline.com, tenant contoso.com, scope https://management.azure.com//.default, "
        "with a token of service account ns/shop for api://AzureADTokenExchange"
    )
    link = account_link(explanation)
    assert link.about == "ns/shop"
    assert "subject system:serviceaccount:ns:shop, audience api://AzureADTokenExchange" in link.says
    assert f"a federated credential of {CLIENT_ID} must have the same values" in link.says
    token = predicted()
    assert (token.outcome, token.subject) == (Outcome.GRANTED, "system:serviceaccount:ns:shop")
    assert token.type == "3 (federated identity)"
    assert token.asked.endswith("with a token of service account ns/shop for api://AzureADTokenExchange")


@pytest.mark.parametrize("managed", [True, False])
def test_without_nmis_flag_the_request_is_refused_and_flag_and_value_are_named(*, managed: bool) -> None:
    explanation = explain_federated(configuration=rules(managed=managed))
    link = only(explanation)
    assert "--federated-identities" in link.says
    assert "federated.enabled" in link.next
    assert (explanation.answer.outcome, explanation.answer.status) == (Outcome.REFUSED, 403)


@pytest.mark.parametrize(
    ("changes", "code", "says", "then"),
    [
        (
            {"federation": FederatedAccess({"ns": frozenset({"shop"})}, {NMI_ACCOUNT: ("ns/shop",)})},
            "assertion_forbidden",
            "NMI's service account kube-system/nmi may not request tokens of service account ns/shop",
            "federated.namespaces",
        ),
        (
            {"federation": FederatedAccess({"ns": frozenset()}, {NMI_ACCOUNT: ()})},
            "service_account_missing",
            "service account ns/shop does not exist",
            "kubectl create serviceaccount -n ns shop",
        ),
        (
            {"pod": pod(service_account="")},
            "service_account_missing",
            "the pod has no service account",
            "delete and create the pod",
        ),
    ],
    ids=["forbidden", "gone", "none"],
)
def test_a_fault_that_prevents_the_service_account_token_is_printed_and_predicted(
    changes: dict[str, Any], code: str, says: str, then: str
) -> None:
    explanation, token = explain_federated(**changes), predicted(**changes)
    link = only(explanation)
    assert (link.link, link.says) == ("service account", says)
    assert then in link.next
    assert explanation.answer.outcome is token.outcome is Outcome.REFUSED
    assert explanation.answer.status == token.status
    assert f"({code})" in token.description
    assert says in token.why
    assert then in token.why


@pytest.mark.parametrize(
    ("access", "named", "unnamed"),
    [
        (FederatedAccess(), "", "?"),
        (FederatedAccess({"ns": ReadFailure("no")}, {NMI_ACCOUNT: ()}), "get on ", "create on "),
        (FederatedAccess({"ns": frozenset({"shop"})}, ReadFailure("no")), "create on ", "get on "),
        (FederatedAccess({"ns": frozenset({"shop"})}), "", "?"),
    ],
    ids=["not-checked", "account", "review", "no-nmi"],
)
def test_an_unreadable_state_is_unknown_with_the_operators_missing_permission_and_refuses_nothing(
    access: FederatedAccess, named: str, unnamed: str
) -> None:
    explanation = explain_federated(federation=access)
    link = account_link(explanation)
    assert (link.state, broken(explanation)) == (LinkState.UNKNOWN, [])
    assert link.next
    assert named in link.next
    assert unnamed not in link.next
    assert "system:serviceaccount:ns:shop" in link.says
    assert explanation.answer.outcome is Outcome.GRANTED


def test_a_failed_check_states_its_reason_and_needs_no_permission() -> None:
    failed = ReadFailure("500 InternalError", is_forbidden=False)
    link = account_link(explain_federated(federation=FederatedAccess({"ns": failed}, ReadFailure("no"))))
    permissions, server = link.next.split("; ", 1)
    assert permissions.endswith("(create on subjectaccessreviews of authorization.k8s.io)")
    assert server.startswith("try again, with --request-timeout=30s if the API server is slow;")
    (link,) = permission_links(explain(bound(ReadFailure("500 InternalError", is_forbidden=False))))
    assert link.next.startswith("try again, with --request-timeout=30s if the API server is slow;")
    (link,) = permission_links(explain(bound(UNREAD)))
    assert UNREAD.reason in link.says


def test_an_identity_of_another_namespace_is_reported_as_another_namespaces() -> None:
    far = federated(namespace="far")
    explanation = explain_federated(identities=(far,), bindings=(binding(namespace="far"),), assigned=())
    assert "it is federated (type 3)" in broken(explanation)[0].says
    assert "service account" not in dict(states(explanation))
    (made,) = trusted().assigned
    elsewhere = msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, namespace="default"))
    link = only(explain_federated(assigned=(elsewhere,)))
    assert (link.link, link.about) == ("assigned identity", "default/web-ns-id")
    assert "not in namespace ns" in link.says


def test_an_identity_without_a_token_source_is_refused_with_that_reason() -> None:
    for spec in ({"tenant_id": ""}, {"client_id": " "}, {"auxiliary_tenant_ids": ["t"]}):
        token = predicted(identity=federated(**spec))
        assert (token.outcome, token.status) == (Outcome.REFUSED, 403)


FORBIDDEN = {CLIENT_ID: ("ns/shop",)}
ALLOWED: dict[str, tuple[str, ...]] = {CLIENT_ID: ()}
UNREAD = ReadFailure("not allowed: subjectaccessreviews.authorization.k8s.io is forbidden")
OBJECTS = [permission_role(CLIENT_ID), permission_binding(CLIENT_ID, "ns", "shop")]


def bound(permissions: Any, **changes: Any) -> Facts:
    """*permissions*: the service accounts without one, by client id, or why they could not be read; None if unread."""
    access = dataclasses.replace(WELL, unpermitted={} if permissions is None else permissions)
    return trusted(**({"configuration": BINDINGS, "federation": access} | changes))


def permission_links(explanation: Explanation) -> list[Link]:
    return [link for link in explanation.links if link.link == "permission"]


def test_a_missing_permission_is_the_broken_link_and_the_predicted_refusal() -> None:
    explanation = explain(bound(FORBIDDEN))
    link = only(explanation)
    assert (link.link, link.about) == ("permission", f"ns/shop, client id {CLIENT_ID}")
    assert "use-managed-identity" in link.says
    assert "kubectl apply" in explanation.next
    assert list(yaml.safe_load_all(explanation.manifest)) == OBJECTS
    answer, token = explain(bound(FORBIDDEN)).answer, predict(bound(FORBIDDEN), MANAGEMENT_RESOURCE)
    assert answer.outcome is token.outcome is Outcome.REFUSED
    assert answer.status == token.status == 403
    assert token.description.startswith("This pod's service account has no permission (use-managed-identity)")
    assert list(yaml.safe_load_all(token.manifest)) == OBJECTS
    configuration = dataclasses.replace(BINDINGS, cloud_file="/etc/azure/cloud.json")
    assert predict(bound(FORBIDDEN, configuration=configuration), MANAGEMENT_RESOURCE).note == ""


@pytest.mark.parametrize("permissions", [UNREAD, None], ids=["forbidden", "not-read"])
def test_an_unchecked_permission_is_unknown_and_refuses_nothing(permissions: ReadFailure | None) -> None:
    explanation, token = explain(bound(permissions)), predict(bound(permissions), MANAGEMENT_RESOURCE)
    (link,) = permission_links(explanation)
    assert link.state is LinkState.UNKNOWN
    assert "create on subjectaccessreviews of authorization.k8s.io" in link.next
    assert explanation.answer.outcome is token.outcome is Outcome.GRANTED
    assert token.note.startswith("it is not known whether its service account may use the identity: ")
    assert list(yaml.safe_load_all(explanation.manifest)) == list(yaml.safe_load_all(token.manifest)) == OBJECTS


def test_the_direct_exchange_needs_no_permission() -> None:
    data = trusted()
    assert permission_links(explain(data)) == []
    assert (explain(data).manifest, predict(data, MANAGEMENT_RESOURCE).manifest) == ("", "")
    explanation = explain(bound(None, pod=pod(service_account="")))
    assert permission_links(explanation) == []
    assert explanation.manifest == ""


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


def test_an_existing_permission_is_a_link_and_case_does_not_matter() -> None:
    explanation = explain(bound(FORBIDDEN, identity=federated(client_id=f" {CLIENT_ID.upper()}")))
    assert only(explanation).link == "permission"
    assert list(yaml.safe_load_all(explanation.manifest)) == OBJECTS
    explanation, token = explain(bound(ALLOWED)), predict(bound(ALLOWED), MANAGEMENT_RESOURCE)
    (link,) = permission_links(explanation)
    assert link.state is LinkState.OK
    assert explanation.answer.outcome is token.outcome is Outcome.GRANTED
    assert (explanation.manifest, token.manifest, token.note) == ("", "", "")


@pytest.mark.parametrize("client_id", ["*", "c", f"{CLIENT_ID}\nkind"])
def test_a_client_id_that_is_no_guid_gets_no_role(client_id: str) -> None:
    explanation = explain(bound({client_id: ("ns/shop",)}, identity=federated(client_id=client_id)))
    assert explanation.manifest == ""
    assert only(explanation).next.startswith("set clientID of AzureIdentity ns/id to ")


def test_identities_beyond_the_limit_are_unknown_and_the_objects_are_bounded() -> None:
    clients = [f"c11e0000-0000-0000-0000-{number:012}" for number in range(3 * IDENTITIES_MAX)]
    identities = tuple(federated(f"id-{client_id}", client_id=client_id) for client_id in clients)
    bindings = tuple(binding(f"b-{client_id}", f"id-{client_id}") for client_id in clients)
    checked = dict.fromkeys(clients[:IDENTITIES_MAX], ())
    explanation = explain(bound(checked, identities=identities, bindings=bindings))
    states = [link.state for link in permission_links(explanation)]
    assert states.count(LinkState.OK) == IDENTITIES_MAX
    assert "one run checks at most" in permission_links(explanation)[-1].says
    assert len(list(yaml.safe_load_all(explanation.manifest))) == 2 * IDENTITIES_MAX


def printed_by(report: Any, show_by: Any) -> str:
    text = StringIO()
    show_by(report, Console(file=text, width=60, highlight=False))
    return text.getvalue()


def test_the_objects_warn_that_a_tenant_chooses_the_client_id() -> None:
    text = explain(bound(FORBIDDEN)).manifest
    assert text.startswith("# Anyone with permission to create an AzureIdentity chooses its clientID")
    assert '{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccounts:ns"}' in text
    explanation, token = explain(bound(FORBIDDEN)), predict(bound(FORBIDDEN), MANAGEMENT_RESOURCE)
    assert explanation.manifest in printed_by(explanation, show)
    assert token.manifest in printed_by(token, show_token)
