"""Predicted responses: status and text are NMI's own, and no output contains a token."""

from typing import Any

import msgspec
import pytest

from nmi.identity.decide import BRIEF_HOLD_SECONDS
from nmi.refusal import UNSUPPORTED_TYPE
from nmi.server.responses import refused
from podidctl.commands.token import predict
from podidctl.evaluation.pod import MANAGEMENT_RESOURCE
from podidctl.facts.model import NmiConfiguration
from podidctl.report.documents import Outcome, TokenPrediction
from podidentity.resources import AzureIdentitySpec, SecretReference
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, exception, pod, resource_id
from tests.support.podidctl.prediction_inputs import facts, labelled, nmi_pod, rules

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


def test_a_grant_names_identity_audience_endpoint_and_secret() -> None:
    prediction = ask("https://vault.azure.net")
    assert (prediction.outcome, prediction.identity, prediction.audience) == (
        Outcome.GRANTED,
        "ns/id",
        "https://vault.azure.net",
    )
    assert prediction.type == "0 (user-assigned identity)"
    assert prediction.asked == "IMDS of the node, by client id"
    assert prediction.client_id == CLIENT_ID
    prediction = ask(assigned=(serving(PRINCIPAL),))
    assert prediction.outcome is Outcome.GRANTED
    assert prediction.asked == (
        "https://login.microsoftonline.com, tenant contoso.com, scope https://management.azure.com//.default, with the "
        "secret in Secret ns/s"
    )


@pytest.mark.parametrize("named", [{"client_id": CLIENT_ID.upper()}, {"resource_id": resource_id("id").upper()}])
def test_an_identity_is_selected_in_any_case(named: dict[str, str]) -> None:
    assert ask(**named).outcome is Outcome.GRANTED


def test_an_identity_of_another_pod_is_refused_after_the_hold() -> None:
    prediction = ask(client_id="another")
    assert (prediction.outcome, prediction.held_seconds, prediction.status, prediction.error) == (
        Outcome.WAITS,
        BRIEF_HOLD_SECONDS,
        404,
        "not_found",
    )
    assert prediction.description == "No identity that is assigned to this pod matches the one that the request names."
    assert prediction.why
    prediction = ask(client_id="another", configuration=rules(set_retry_after_header=True))
    assert prediction.status == 503
    prediction = ask(assigned=(), bindings=())
    assert (prediction.held_seconds, prediction.immediate_repeats) == (45.0, True)
    assert ask(client_id="another").immediate_repeats
    assert not ask(assigned=(labelled(assigned_identity(status="Created")),)).immediate_repeats


def test_parameters_that_nmi_rejects_are_refused_in_nmis_words() -> None:
    both = ask(client_id="a", resource_id="b")
    assert (both.status, both.error) == (400, "invalid_request")
    assert "Only one of" in both.description
    assert "resource is required" in ask("").description
    prediction = ask(pod=pod(label=None), assigned=())
    assert (prediction.status, prediction.error, prediction.description) == (
        400,
        "invalid_request",
        "Identity not found",
    )


def test_without_nmi_on_the_node_the_expected_answer_is_printed_as_unanswered() -> None:
    prediction = ask(nmi=(nmi_pod("node-2"),))
    assert (prediction.outcome, prediction.identity) == (Outcome.UNANSWERED, "ns/id")
    assert prediction.note == (
        "no working NMI was found on its node: no DaemonSet of NMI was found, so IMDS responds to its pods, with every "
        "identity that is attached to its VM or scale set; podidctl explain pod ns/web states the next action"
    )
    assert ask(pod=None, nmi=()).outcome is Outcome.UNSEEN
    assert ask("", pod=None, nmi=()).outcome is Outcome.REFUSED


def test_exempt_and_mirror_pods_get_no_identity_of_their_own() -> None:
    prediction = ask(pod=pod(labels={"app": "x"}), exceptions=(exception(labels={"app": "x"}),))
    assert (prediction.outcome, prediction.status) == (Outcome.EXEMPT, None)
    assert "the node's own identities" in prediction.asked
    prediction = ask(pod=pod(mirror=True))
    assert (prediction.outcome, prediction.status, prediction.held_seconds) == (Outcome.REFUSED, 400, 0.0)
    assert prediction.description == "Identity not found"
    assert "mirror pod" in prediction.why


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


def test_managed_mode_does_not_hold_a_request_that_no_assignment_can_satisfy() -> None:
    prediction = ask(configuration=rules(managed=True), bindings=())
    assert (prediction.outcome, prediction.status) == (Outcome.WAITS, 404)
    assert 0.0 < prediction.held_seconds < 2.0
    prediction = ask(configuration=rules(managed=True), assigned=())
    assert (prediction.outcome, prediction.asked) == (Outcome.GRANTED, "IMDS of the node, by resource id")
