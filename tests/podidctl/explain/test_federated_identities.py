"""Type 3: the pod's service account is a separate link, and there is no link for Azure's VM."""

from typing import Any

import msgspec
import pytest

from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, Outcome
from podidctl.diagnosis.input import ReadFailure, ServiceAccountAccess
from podidctl.diagnosis.node_placement import PlacedNode
from podidctl.explain.explanation import explain
from podidctl.explain.schema import Explanation, Link, LinkState
from podidctl.token.prediction import TokenPrediction, predict
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity
from tests.podidctl.federated import NMI_ACCOUNT, federated, trusted
from tests.podidctl.prediction_inputs import broken, only, rules, states
from tests.support.nmi_objects import CLIENT_ID, binding, pod


def explain_federated(**changes: Any) -> Explanation:
    return explain(trusted(**changes))


def predicted(**changes: Any) -> TokenPrediction:
    return predict(trusted(**changes), MANAGEMENT_RESOURCE)


def account_link(explanation: Explanation) -> Link:
    (link,) = [each for each in explanation.links if each.link == "service account"]
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


BINDINGS = rules(federated_identities=True, federated_exchange=Exchange.IDENTITY_BINDINGS)


def annotated(exchange: str) -> AzureIdentity:
    made = federated()
    meta = msgspec.structs.replace(made.metadata, annotations={EXCHANGE_ANNOTATION: exchange})
    return msgspec.structs.replace(made, metadata=meta)


def test_with_identity_bindings_the_token_proxy_and_the_permission_are_printed() -> None:
    explanation = explain_federated(configuration=BINDINGS)
    assert explanation.answer.outcome is Outcome.GRANTED
    (assigned,) = [each for each in explanation.links if each.link == "assigned identity"]
    assert "NMI asks the cluster's token proxy (AKS identity bindings), tenant contoso.com" in assigned.says
    assert assigned.says.endswith("service account ns/shop for api://AKSIdentityBinding")
    says = account_link(explanation).says
    assert "audience api://AKSIdentityBinding (exchange identityBindings)" in says
    assert "the service account the permission use-managed-identity" in says
    assert "federated credential" not in says


def test_the_prediction_names_the_exchange() -> None:
    assert predicted().exchange == "direct"
    assert predicted(configuration=BINDINGS).exchange == "identityBindings"


def test_an_allowed_annotation_chooses_the_exchange() -> None:
    allowed = rules(federated_identities=True, federated_exchange_annotation=True)
    assert predicted(configuration=allowed, identity=annotated("identityBindings")).exchange == "identityBindings"
    assert predicted(configuration=allowed, identity=annotated("direct")).exchange == "direct"


@pytest.mark.parametrize(
    ("chosen", "why"), [("identityBindings", "does not allow"), ("Direct", "annotation of this identity's")]
)
def test_an_annotation_that_nmi_refuses_is_predicted(chosen: str, why: str) -> None:
    prediction = predicted(identity=annotated(chosen))
    assert (prediction.outcome, prediction.exchange) == (Outcome.REFUSED, "")
    assert why in prediction.description
    assert account_link(explain_federated(identity=annotated(chosen))).says


def test_the_sign_in_endpoint_and_the_required_credential_are_printed() -> None:
    explanation = explain_federated()
    (assigned,) = [each for each in explanation.links if each.link == "assigned identity"]
    assert assigned.says.endswith(
        "NMI asks https://login.microsoftonline.com, tenant contoso.com, scope https://management.azure.com//.default, "
        "with a token of service account ns/shop for api://AzureADTokenExchange"
    )
    link = account_link(explanation)
    assert link.about == "ns/shop"
    assert "subject system:serviceaccount:ns:shop, audience api://AzureADTokenExchange" in link.says
    assert CLIENT_ID not in msgspec.json.encode(explanation).decode()


def test_in_managed_mode_the_same_is_printed_without_an_assigned_identity() -> None:
    explanation = explain_federated(configuration=rules(managed=True, federated_identities=True), assigned=())
    assert ("served", "ok") in states(explanation)
    assert ("service account", "ok") in states(explanation)
    assert explanation.answer.outcome is Outcome.GRANTED


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
            {"account": ServiceAccountAccess(exists=True, nmi_may_request=False, nmi=NMI_ACCOUNT)},
            "assertion_forbidden",
            "NMI's service account kube-system/nmi may not request tokens of service account ns/shop",
            "federated.namespaces",
        ),
        (
            {"account": ServiceAccountAccess(exists=False, nmi_may_request=True, nmi=NMI_ACCOUNT)},
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
    "account",
    [
        None,
        ServiceAccountAccess(exists=ReadFailure("not allowed: serviceaccounts"), nmi_may_request=True, nmi=NMI_ACCOUNT),
        ServiceAccountAccess(
            exists=True, nmi_may_request=ReadFailure("not allowed: subjectaccessreviews"), nmi=NMI_ACCOUNT
        ),
        ServiceAccountAccess(exists=True, nmi_may_request=None),
    ],
    ids=["not-checked", "account", "review", "no-nmi"],
)
def test_an_unreadable_state_is_unknown_and_refuses_nothing(account: ServiceAccountAccess | None) -> None:
    explanation = explain_federated(account=account)
    link = account_link(explanation)
    assert (link.state, broken(explanation)) == (LinkState.UNKNOWN, [])
    assert link.next
    assert "system:serviceaccount:ns:shop" in link.says
    assert explanation.answer.outcome is Outcome.GRANTED


@pytest.mark.parametrize(
    ("account", "named", "unnamed"),
    [
        (ServiceAccountAccess(ReadFailure("no"), nmi_may_request=True, nmi=NMI_ACCOUNT), "get", "create"),
        (ServiceAccountAccess(exists=True, nmi_may_request=ReadFailure("no"), nmi=NMI_ACCOUNT), "create", "get"),
    ],
    ids=["account", "review"],
)
def test_exactly_the_operators_missing_permission_is_named(
    account: ServiceAccountAccess, named: str, unnamed: str
) -> None:
    link = account_link(explain_federated(account=account))
    assert f"{named} on " in link.next
    assert f"{unnamed} on " not in link.next


def test_a_read_that_the_api_server_failed_needs_no_permission() -> None:
    failed = ReadFailure("500 InternalError", is_forbidden=False)
    link = account_link(explain_federated(account=ServiceAccountAccess(failed, ReadFailure("no"), nmi=NMI_ACCOUNT)))
    permissions, server = link.next.split("; ", 1)
    assert permissions.endswith("(create on subjectaccessreviews of authorization.k8s.io)")
    assert server.startswith("try again; if it fails again, check the API server")


def test_an_identity_of_another_namespace_is_reported_as_another_namespaces() -> None:
    far = federated(namespace="far")
    explanation = explain_federated(identities=(far,), bindings=(binding(namespace="far"),), assigned=())
    assert "it is federated (type 3)" in broken(explanation)[0].says
    assert "service account" not in dict(states(explanation))


def test_an_object_outside_the_namespace_is_named_with_its_namespace() -> None:
    (made,) = trusted().assigned
    elsewhere = msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, namespace="default"))
    link = only(explain_federated(assigned=(elsewhere,)))
    assert (link.link, link.about) == ("assigned identity", "default/web-ns-id")
    assert "not in namespace ns" in link.says


def test_the_prediction_of_a_token_contains_its_subject() -> None:
    token = predicted()
    assert (token.outcome, token.subject) == (Outcome.GRANTED, "system:serviceaccount:ns:shop")
    assert token.type == "3 (federated identity)"
    assert token.asked.endswith("with a token of service account ns/shop for api://AzureADTokenExchange")


def test_an_identity_without_a_token_source_is_refused_with_that_reason() -> None:
    for spec in ({"tenant_id": ""}, {"client_id": " "}, {"auxiliary_tenant_ids": ["t"]}):
        token = predicted(identity=federated(**spec))
        assert (token.outcome, token.status) == (Outcome.REFUSED, 403)
