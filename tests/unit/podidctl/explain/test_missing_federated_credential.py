"""The command that creates the missing federated credential: complete, safe to run, and only from NMI's own log."""

import shlex
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from nmi.error_refusals import refusal_of
from nmi.tokens.federated import UntrustedError
from podidctl.checks.explanation import explain
from podidctl.evaluation.federated_credentials import correction
from podidctl.facts.kinds import Event
from podidctl.facts.model import RecentRefusal
from podidctl.report.documents import LoggedDecision
from podidentity.azure.errors import Refused
from podidentity.resources import AzureIdentity
from tests.support.nmi_objects import CLIENT_ID, resource_id
from tests.support.podidctl.prediction_inputs import federated, only, trusted

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
ISSUER, AUDIENCE = "https://oidc.example/0000/", "api://AzureADTokenExchange"
SUBJECT = "system:serviceaccount:ns:shop"


def text(issuer: str = ISSUER, code: str = "AADSTS700213") -> str:
    cause = Refused(f"{code}: no match", status=400, code=code)
    return refusal_of(UntrustedError(cause, CLIENT_ID, issuer, SUBJECT, AUDIENCE)).detail


def refusal(issuer: str = ISSUER, code: str = "AADSTS700213", **changes: Any) -> RecentRefusal:
    return RecentRefusal(NOW, text(issuer, code), **({"reason": "upstream_refused", "identity": "ns/id"} | changes))


def with_resource(identity: AzureIdentity, resource: str) -> AzureIdentity:
    return replace(identity, spec=replace(identity.spec, resource_id=resource))


def test_the_command_has_all_values() -> None:
    command = correction(with_resource(federated(), resource_id("shop-id")), refusal())
    words = shlex.split(command)
    assert words[:4] == ["az", "identity", "federated-credential", "create"]
    values = dict(zip(words[4::2], words[5::2], strict=True))
    assert values.pop("--name").startswith("ns-shop-")
    assert resource_id("shop-id").endswith(values.pop("--identity-name"))
    assert f"/{values.pop('--subscription')}/" in resource_id("shop-id")
    assert f"/{values.pop('--resource-group')}/" in resource_id("shop-id")
    assert values == {"--issuer": ISSUER, "--subject": SUBJECT, "--audiences": AUDIENCE}


def test_clusters_get_credentials_of_different_names() -> None:
    names = {correction(federated(), refusal(issuer)).split("--name ")[1].split()[0] for issuer in ("a", "b")}
    assert len(names) == 2


def test_a_credential_with_another_audience_is_updated() -> None:
    """Azure permits one credential for an issuer and a subject."""
    command = correction(with_resource(federated(), resource_id("shop-id")), refusal(code="AADSTS700212"))
    owner = "--subscription s --resource-group g --identity-name shop-id"
    assert command.startswith(
        f'az identity federated-credential update {owner} --name "$(az identity federated-credential list {owner} '
        f"--query \"[?issuer=='{ISSUER}' && subject=='{SUBJECT}'].name\" -o tsv)\" --issuer "
    )
    assert correction(federated(), refusal("https://x/'$(reboot)", "AADSTS700212")) == ""


def test_without_a_resource_id_the_command_finds_the_identity_by_its_client_id() -> None:
    command = correction(federated(client_id=f" {CLIENT_ID.upper()}"), refusal())
    assert f"[?clientId=='{CLIENT_ID}'].name" in command
    assert f"[?clientId=='{CLIENT_ID}'].resourceGroup" in command


@pytest.mark.parametrize("client_id", ["'; rm -rf /; '", "$(reboot)", "", "not-a-guid"])
def test_a_client_id_that_is_no_guid_is_not_part_of_a_command(client_id: str) -> None:
    assert correction(federated(client_id=client_id), refusal()) == ""


def test_a_value_cannot_add_a_word_to_the_command() -> None:
    command = correction(federated(), refusal("https://x/;$(reboot)`id`"))
    assert "'https://x/;$(reboot)`id`'" in command


def test_the_text_of_an_event_gives_no_command() -> None:
    assert correction(federated(), refusal(reason="")) == ""
    assert correction(federated(), replace_text(refusal(), "another cause")) == ""


def replace_text(refused: RecentRefusal, other: str) -> RecentRefusal:
    return RecentRefusal(refused.at, other, refused.reason, refused.status, refused.identity)


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
