"""Without a fault every link is ok, and a state that only Azure knows is not reported as ok."""

import msgspec

from mic.azure.identities import Attached, HostIdentities
from podidctl.diagnosis.decision import Outcome
from tests.podidctl.prediction_inputs import broken, explain_pod, rules, states
from tests.support.nmi_objects import CLIENT_ID, resource_id

THERE = HostIdentities(type="UserAssigned", attached={resource_id("id").lower(): Attached(resource_id("id"))})


def test_each_link_is_printed_in_order() -> None:
    explanation = explain_pod(azure=THERE)
    assert states(explanation) == [
        ("pod", "ok"),
        ("address", "ok"),
        ("exception", "ok"),
        ("label", "ok"),
        ("binding", "ok"),
        ("identity", "ok"),
        ("assigned identity", "ok"),
        ("host", "ok"),
        ("on Azure", "ok"),
        ("NMI", "ok"),
    ]
    assert broken(explanation) == []
    assert (explanation.answer.outcome, explanation.answer.identity) == (Outcome.GRANTED, "ns/id")


def test_without_azure_its_part_is_unknown_and_nothing_is_broken() -> None:
    explanation = explain_pod()
    assert ("on Azure", "unknown") in states(explanation)
    assert broken(explanation) == []


def test_a_client_id_is_printed_recognisably_and_redacted() -> None:
    document = msgspec.json.encode(explain_pod()).decode()
    assert CLIENT_ID not in document
    assert f"{CLIENT_ID[:4]}…{CLIENT_ID[-4:]}" in document


def test_in_managed_mode_no_assigned_identity_is_required() -> None:
    explanation = explain_pod(configuration=rules(managed=True), assigned=())
    assert ("served", "ok") in states(explanation)
    assert "assigned identity" not in dict(states(explanation))
    assert explanation.answer.outcome is Outcome.GRANTED
