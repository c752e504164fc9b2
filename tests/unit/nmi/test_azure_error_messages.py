"""Texts about a failed fetch: Azure's sentence for the pod, without foreign ids, and the service for the operator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.azure_error_text import REMOVED, for_pod
from nmi.error_refusals import Service, refusal_of, service_of
from nmi.refusal import Reason
from nmi.tokens.secrets import SignerError
from podidentity.azure.errors import (
    MESSAGE_MAX,
    AzureError,
    Throttled,
    Unreachable,
    correlation_in,
    scrubbed,
    sentence_in,
)
from tests.support.nmi_objects import identity

CLIENT = "c11e0000-1111-2222-3333-00000000000a"
TENANT = "7e4a0000-1111-2222-3333-00000000000b"
OTHER = "0dd00000-1111-2222-3333-00000000000c"
RESOURCE = "https://vault.azure.net"
OWN = (CLIENT, TENANT, "contoso.example", RESOURCE, "")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("AADSTS7000215: Invalid client secret provided.", "AADSTS7000215: Invalid client secret provided."),
        ("Identity not found", "Identity not found"),
        (
            f"AADSTS700016: Application with identifier '{CLIENT}' was not found in the directory 'Fabrikam Ltd'.",
            f"AADSTS700016: Application with identifier '{CLIENT}' was not found in the directory {REMOVED}.",
        ),
        (f"no access for {OTHER.upper()} in {TENANT.upper()}", f"no access for {REMOVED} in {TENANT.upper()}"),
        (f"principal named {RESOURCE} was not found", f"principal named {RESOURCE} was not found"),
        ("principal named https://other.example/x was", f"principal named {REMOVED} was"),
        ("in the tenant named Fabrikam Ltd. Ask its owner.", f"in the tenant named {REMOVED}. Ask its owner."),
        ("in the tenant contoso.example or fabrikam.example", f"in the tenant contoso.example or {REMOVED}"),
        ("at /subscriptions/s/resourceGroups/g/x, denied", f"at {REMOVED}, denied"),
        ("user ann@fabrikam.example at 10.1.2.3 or fd00::1:2", f"user {REMOVED} at {REMOVED} or {REMOVED}"),
        ("secret Zx8Q~th1s-is.the_secret-of40characters-x leaked", f"secret {REMOVED} leaked"),
        ("of 'Fabrikam's own' name", f"of {REMOVED} name"),
        ('cut in "a name with bla', f"cut in {REMOVED}"),
        ("the client's secret and the user's name", "the client's secret and the user's name"),
        ("Host UNREACHABLE", "Host not answering"),
        ("two\nlines\tand\u202e odd \u00fc", "two lines and? odd ?"),
        ("", ""),
    ],
)
def test_foreign_ids_and_names_are_removed(message: str, expected: str) -> None:
    assert for_pod(message, OWN) == expected


def test_a_truncated_id_is_removed() -> None:
    message = scrubbed("x " * (MESSAGE_MAX // 2 - 6) + OTHER)
    assert OTHER[:8] in message
    assert OTHER[:4] not in for_pod(message, OWN)


@given(st.lists(st.sampled_from([OTHER, CLIENT, "'Fabrikam'", " ", ".", "(", "unreachable", "\n", "a", "\u2019"])))
def test_no_foreign_id_is_returned_in_any_surrounding_text(parts: list[str]) -> None:
    message = for_pod(scrubbed("".join(parts)), OWN)
    assert OTHER not in message
    assert "unreachable" not in message.lower()
    assert message.isascii()
    assert "\n" not in message


@pytest.mark.parametrize(
    ("description", "sentence", "correlation"),
    [
        (f"no. Trace ID: {OTHER} Correlation ID: {CLIENT} Timestamp: now", "no.", CLIENT),
        (f"no.\r\nTrace ID: {OTHER}\r\nTimestamp: now", "no.", OTHER),
        ("no. Correlation ID: none", "no.", ""),
        ("no.", "no.", ""),
    ],
)
def test_the_correlation_id_is_extracted_and_removed_from_the_message(
    description: str, sentence: str, correlation: str
) -> None:
    assert (sentence_in(description), correlation_in(description)) == (sentence, correlation)


@pytest.mark.parametrize(
    ("type_", "service"), [(0, Service.IMDS), (1, Service.ENTRA_ID), (2, Service.ENTRA_ID), (3, Service.ENTRA_ID)]
)
def test_only_tokens_of_user_assigned_identities_are_from_imds(type_: int, service: Service) -> None:
    assert service_of(identity(type_=type_)) is service


@pytest.mark.parametrize("error", [Unreachable("no response"), Throttled("slow down")])
@pytest.mark.parametrize(("service", "other"), [(Service.IMDS, "Entra"), (Service.ENTRA_ID, "IMDS")])
def test_the_text_names_only_this_service_and_ends_with_the_cause(
    error: AzureError, service: Service, other: str
) -> None:
    detail = refusal_of(error, service=service).detail
    assert str(service) in detail
    assert other not in detail
    assert detail.endswith(f": {error.message}")
    assert detail.startswith(("check that", "find what")), "the next action"


def test_a_failure_of_the_signer_blames_neither_azure_nor_the_certificate() -> None:
    error = SignerError("the signing program did not end within 10 s: raise NMI's CPU limit", code="signer_timeout")
    refusal = refusal_of(error, service=Service.ENTRA_ID)
    assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE
    assert refusal.detail == error.message
    assert "This node could not sign" in refusal.sentence
    assert "signer_timeout" in refusal.sentence
