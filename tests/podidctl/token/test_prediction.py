"""Predicted responses: status and text are NMI's own, and no output contains a token."""

from typing import Any

import msgspec
import pytest

from nmi.issuer import UNSUPPORTED_TYPE
from nmi.server.responses import refused
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE, Outcome
from podidctl.diagnosis.input import NmiConfiguration, NmiPods
from podidctl.token.prediction import TokenPrediction, predict
from podidentity.resources import AzureIdentitySpec, SecretReference
from tests.podidctl.prediction_inputs import facts, labelled, nmi_pod, rules
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, binding, exception, pod, resource_id

PRINCIPAL = AzureIdentitySpec(
    type=1, client_id=CLIENT_ID, tenant_id="contoso.com", client_password=SecretReference(name="s", namespace="ns")
)


def ask(
    resource: str = MANAGEMENT_RESOURCE, client_id: str = "", resource_id: str = "", **changes: Any
) -> TokenPrediction:
    return predict(facts(**changes), resource, client_id=client_id, resource_id=resource_id)


def serving(spec: AzureIdentitySpec) -> Any:
    """An assigned identity that holds *spec*."""
    made = labelled(assigned_identity())
    embedded = msgspec.structs.replace(made.spec.azure_identity_ref, spec=spec)
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, azure_identity_ref=embedded))


def test_a_grant_names_identity_audience_and_endpoint() -> None:
    prediction = ask("https://vault.azure.net")
    assert (prediction.outcome, prediction.identity, prediction.audience) == (
        Outcome.GRANTED,
        "ns/id",
        "https://vault.azure.net",
    )
    assert prediction.type == "0 (user-assigned identity)"
    assert prediction.asked == "IMDS of the node, by client id"
    assert CLIENT_ID not in msgspec.json.encode(prediction).decode()


@pytest.mark.parametrize("named", [{"client_id": CLIENT_ID.upper()}, {"resource_id": resource_id("id").upper()}])
def test_an_identity_is_selected_in_any_case(named: dict[str, str]) -> None:
    assert ask(**named).outcome is Outcome.GRANTED


def test_an_identity_of_another_pod_is_refused_after_the_hold() -> None:
    prediction = ask(client_id="another")
    assert (prediction.outcome, prediction.held_seconds, prediction.status, prediction.error) == (
        Outcome.WAITS,
        45.0,
        404,
        "not_found",
    )
    assert prediction.description == "No identity that is assigned to this pod matches the one that the request names."
    assert prediction.why


def test_the_flag_that_changes_the_status_changes_the_prediction() -> None:
    prediction = ask(client_id="another", configuration=rules(set_retry_after_header=True))
    assert prediction.status == 503


def test_parameters_that_nmi_rejects_are_refused_in_nmis_words() -> None:
    both = ask(client_id="a", resource_id="b")
    assert (both.status, both.error) == (400, "invalid_request")
    assert "Only one of" in both.description
    assert "resource is required" in ask("").description


def test_a_pod_without_a_binding_gets_the_answer_that_lets_credential_chains_continue() -> None:
    prediction = ask(pod=pod(label=None), assigned=())
    assert (prediction.status, prediction.error, prediction.description) == (
        400,
        "invalid_request",
        "Identity not found",
    )


def test_without_nmi_on_the_node_the_expected_answer_is_printed_as_unanswered() -> None:
    prediction = ask(nmi=NmiPods(others=(nmi_pod("node-2"),)))
    assert (prediction.outcome, prediction.identity) == (Outcome.UNANSWERED, "ns/id")
    assert prediction.note == (
        "no working NMI was found on its node: no DaemonSet of NMI was found, so IMDS responds to its pods, with every "
        "identity that is attached to its VM or scale set; podidctl explain pod ns/web states the next action"
    )


def test_a_missing_pod_is_not_reported_as_a_missing_nmi() -> None:
    assert ask(pod=None, nmi=NmiPods()).outcome is Outcome.UNSEEN
    assert ask("", pod=None, nmi=NmiPods()).outcome is Outcome.REFUSED


def test_an_exempt_pod_gets_the_nodes_own_identity() -> None:
    prediction = ask(pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert (prediction.outcome, prediction.status) == (Outcome.EXEMPT, None)
    assert "the node's own identities" in prediction.asked


def test_a_service_principal_is_printed_with_its_endpoint_and_the_name_of_its_secret() -> None:
    prediction = ask(assigned=(serving(PRINCIPAL),))
    assert prediction.outcome is Outcome.GRANTED
    assert prediction.asked == (
        "https://login.microsoftonline.com, tenant contoso.com, scope https://management.azure.com//.default, with the "
        "secret in Secret ns/s"
    )


@pytest.mark.parametrize(
    ("spec", "status", "says"),
    [
        (
            msgspec.structs.replace(PRINCIPAL, client_password=SecretReference(name="s", namespace="far")),
            403,
            "another namespace",
        ),
        (msgspec.structs.replace(PRINCIPAL, ad_endpoint="https://evil.example/"), 403, "--allowed-ad-endpoints"),
        (msgspec.structs.replace(PRINCIPAL, tenant_id="a/b"), 403, "its owner must correct it"),
        (AzureIdentitySpec(type=0), 403, "identity_incomplete"),
        (AzureIdentitySpec(type=0, client_id="\x00"), 403, "its owner must correct it"),
    ],
    ids=["foreign-secret", "endpoint", "tenant", "nothing-named", "no-id"],
)
def test_an_identity_for_which_nmi_would_send_no_request_is_refused_with_that_reason(
    spec: AzureIdentitySpec, status: int, says: str
) -> None:
    prediction = ask(assigned=(serving(spec),))
    assert (prediction.outcome, prediction.status, prediction.identity) == (Outcome.REFUSED, status, "ns/id")
    assert says in prediction.description


def test_a_flag_of_nmi_permits_what_it_names() -> None:
    spec = msgspec.structs.replace(PRINCIPAL, client_password=SecretReference(name="s", namespace="far"))
    assert (
        ask(assigned=(serving(spec),), configuration=rules(allow_cross_namespace_secrets=True)).outcome
        is Outcome.GRANTED
    )


def test_an_unknown_type_is_refused_like_in_nmi() -> None:
    prediction = ask(assigned=(serving(AzureIdentitySpec(type=7)),))
    assert prediction.status == refused(UNSUPPORTED_TYPE).status == 403
    assert prediction.description == UNSUPPORTED_TYPE.sentence


def test_a_cloud_file_that_only_nmi_can_read_is_named_if_it_could_change_the_result() -> None:
    spec = msgspec.structs.replace(PRINCIPAL, ad_endpoint="https://adfs.stack.example/")
    own = rules()
    prediction = ask(
        assigned=(serving(spec),), configuration=NmiConfiguration(own.settings, own.source, "/etc/azure/cloud.json")
    )
    assert "/etc/azure/cloud.json" in prediction.note
    assert ask(assigned=(serving(spec),)).note == ""


def test_the_first_identity_by_name_is_used_for_a_request_without_an_id() -> None:
    second = labelled(assigned_identity("other", binding="a", client_id="second"))
    prediction = ask(bindings=(binding(), binding("a", "other")), assigned=(labelled(assigned_identity()), second))
    assert prediction.identity == "ns/other"


def test_a_mirror_pod_is_refused_immediately_with_the_cause() -> None:
    prediction = ask(pod=pod(mirror=True))
    assert (prediction.outcome, prediction.status, prediction.held_seconds) == (Outcome.REFUSED, 400, 0.0)
    assert prediction.description == "Identity not found"
    assert "mirror pod" in prediction.why


def test_managed_mode_does_not_hold_a_request_that_no_assignment_can_satisfy() -> None:
    prediction = ask(configuration=rules(managed=True), bindings=())
    assert (prediction.outcome, prediction.status) == (Outcome.WAITS, 404)
    assert 0.0 < prediction.held_seconds < 2.0


def test_managed_mode_requests_by_resource_id() -> None:
    prediction = ask(configuration=rules(managed=True), assigned=())
    assert (prediction.outcome, prediction.asked) == (Outcome.GRANTED, "IMDS of the node, by resource id")


def test_repeats_are_answered_immediately_unless_an_identity_is_being_assigned() -> None:
    prediction = ask(assigned=(), bindings=())
    assert (prediction.held_seconds, prediction.immediate_repeats) == (45.0, True)
    assert ask(client_id="another").immediate_repeats
    assert not ask(assigned=(labelled(assigned_identity(status="Created")),)).immediate_repeats
