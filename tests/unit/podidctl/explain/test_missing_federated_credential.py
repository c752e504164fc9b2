"""The command that creates the missing federated credential: complete, safe to run, and only from NMI's own log."""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from nmi.error_refusals import refusal_of
from nmi.identity.decide import none_matches
from nmi.identity.request import SelectorKind
from nmi.tokens.federated import UntrustedError
from podidctl.checks.explanation import explain
from podidctl.evaluation.federated_credentials import correction
from podidctl.facts.kinds import Event
from podidctl.facts.model import RecentRefusal
from podidctl.report.documents import LoggedDecision
from podidentity.azure.errors import Refused
from podidentity.resources import AzureIdentity
from tests.support.nmi_objects import CLIENT_ID, pod, resource_id
from tests.support.podidctl.doctor_inputs import examined, objects
from tests.support.podidctl.prediction_inputs import federated, only, trusted

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
ISSUER, AUDIENCE = "https://oidc.example/0000/", "api://AzureADTokenExchange"
SUBJECT = "system:serviceaccount:ns:shop"


def text(issuer: str = ISSUER, *, code: str = "AADSTS700213", **changes: str) -> str:
    cause = Refused(f"{code}: no match", status=400, code=code)
    usual = {"client_id": CLIENT_ID, "subject": SUBJECT, "audience": AUDIENCE}
    return refusal_of(UntrustedError(cause, issuer=issuer, **(usual | changes))).detail


def refusal(message: str = "", **changes: Any) -> RecentRefusal:
    usual: dict[str, Any] = {"reason": "upstream_refused", "identity": "ns/id"}
    return RecentRefusal(NOW, message or text(), **(usual | changes))


def command_for(identity: AzureIdentity, refused: RecentRefusal) -> str:
    return correction(identity, refused, SUBJECT, AUDIENCE)


def with_resource(identity: AzureIdentity, resource: str) -> AzureIdentity:
    return replace(identity, spec=replace(identity.spec, resource_id=resource))


def test_the_command_has_all_values() -> None:
    command = command_for(with_resource(federated(), resource_id("shop-id")), refusal())
    words = shlex.split(command)
    assert words[:4] == ["az", "identity", "federated-credential", "create"]
    values = dict(zip(words[4::2], words[5::2], strict=True))
    assert values.pop("--name").startswith("ns-shop-")
    assert resource_id("shop-id").endswith(values.pop("--identity-name"))
    assert f"/{values.pop('--subscription')}/" in resource_id("shop-id")
    assert f"/{values.pop('--resource-group')}/" in resource_id("shop-id")
    assert values == {"--issuer": ISSUER, "--subject": SUBJECT, "--audiences": AUDIENCE}


def test_clusters_get_credentials_of_different_names() -> None:
    names = {command_for(federated(), refusal(text(issuer))).split("--name ")[1].split()[0] for issuer in ("a", "b")}
    assert len(names) == 2


def test_a_credential_with_another_audience_is_updated() -> None:
    """Azure permits one credential for an issuer and a subject."""
    command = command_for(with_resource(federated(), resource_id("shop-id")), refusal(text(code="AADSTS700212")))
    owner = "--subscription s --resource-group g --identity-name shop-id"
    assert command.startswith(
        f'az identity federated-credential update {owner} --name "$(az identity federated-credential list {owner} '
        f"--query \"[?issuer=='{ISSUER}' && subject=='{SUBJECT}'].name\" -o tsv)\" --issuer "
    )


def test_without_a_resource_id_the_command_finds_the_identity_by_its_client_id() -> None:
    upper = CLIENT_ID.upper()
    command = command_for(federated(client_id=f" {upper}"), refusal(text(client_id=upper)))
    assert f"[?clientId=='{CLIENT_ID}'].name" in command
    assert f"[?clientId=='{CLIENT_ID}'].resourceGroup" in command


@pytest.mark.parametrize("client_id", ["'; rm -rf /; '", "$(reboot)", "", "not-a-guid"])
def test_a_client_id_that_is_no_guid_is_not_part_of_a_command(client_id: str) -> None:
    assert command_for(federated(client_id=client_id), refusal()) == ""


@pytest.mark.parametrize(
    "message",
    [
        text("https://x/'$(reboot)"),
        text("https://x/ --subject other"),
        text(subject="system:serviceaccount:ns:another"),
        text(audience="api://another"),
        f"x {text()}",
        f"{text()} x",
        text()[:-20] + "…",
        none_matches("ns", SelectorKind.RESOURCE_ID, text(), [federated()]).detail,
        refusal_of(Refused(text(), status=400, code="AADSTS700213", sentence=text())).detail,
    ],
    ids=[
        "an issuer with shell syntax",
        "an issuer with a flag",
        "another service account",
        "another audience",
        "text before",
        "text after",
        "cut",
        "the pod's request",
        "Azure's sentence",
    ],
)
def test_a_text_that_is_not_exactly_nmis_own_gives_no_command(message: str) -> None:
    assert command_for(federated(), refusal(message)) == ""
    assert command_for(federated(), refusal()) != ""


def test_the_text_of_an_event_or_another_reason_gives_no_command() -> None:
    assert command_for(federated(), refusal(reason="")) == ""
    assert command_for(federated(), refusal(reason="no_matching_identity")) == ""


def test_only_a_federated_identity_gets_a_command() -> None:
    assert command_for(federated(type=0), refusal()) == ""


def test_the_command_for_an_application_is_given_too_if_no_resource_id_tells_them_apart() -> None:
    command = command_for(federated(), refusal())
    words = shlex.split(command.partition("; or, for an application: ")[2])
    assert words[:7] == ["az", "ad", "app", "federated-credential", "create", "--id", CLIENT_ID]
    assert json.loads(words[8])["subject"] == SUBJECT
    assert "application" not in command_for(with_resource(federated(), resource_id("shop-id")), refusal())


def test_doctor_prints_the_command_if_the_log_of_one_of_the_pods_has_it() -> None:
    of_event, of_log = RecentRefusal(NOW, text()), refusal()
    for refused in ({"ns/other": of_event, "ns/web": of_log}, {"ns/web": of_log, "ns/other": of_event}):
        state = trusted(pod=pod(service_account="shop"))
        cluster = objects(pods=state.pods, identities=state.identities, assigned=state.assigned)
        (line,) = [line for line in examined(refused=refused, objects=cluster).findings if line.check == "tokens"]
        assert line.next.startswith("az identity federated-credential create ")


def test_explain_prints_the_command_and_what_differs() -> None:
    logged = LoggedDecision(
        at="01-01 00:04:00",
        decided_at="01-01 00:04:00",
        outcome="upstream_refused",
        status=403,
        identity="ns/id",
        error=text(),
    )
    link = only(explain(trusted(now=NOW, decisions=(logged,))))
    assert link.next.startswith("az identity federated-credential create ")
    assert "no federated credential of the identity has this subject (AADSTS700213)" in link.says
    event = Event(type="Warning", reason="TokenRefused", message=text(), last_timestamp="2026-01-01T00:04:00Z")
    assert only(explain(trusted(now=NOW, events=(event,)))).next == text()
