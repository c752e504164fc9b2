"""The identities that Azure's error messages name as the cause, and MIC's reaction to each kind of failure.

The messages are recorded from Azure.
"""

from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from mic.azure.errors import (
    OUTCOMES,
    AzureError,
    BadIdentities,
    HostNotFound,
    Refused,
    SignInFailed,
    Throttled,
    Unreachable,
    UpdateConflict,
    outcome_of,
    translated,
)
from tests.support.objects import identity_id


class Answer:
    """The part of an HTTP response that an SDK error keeps."""

    reason = "because"

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}
        self._text = text

    def text(self, *_: Any) -> str:
        return self._text


def answered(status: int, code: str = "", message: str = "", **headers: str) -> AzureError:
    text = '{"error":{"code":"%s","message":"%s"}}' % (code, message)  # noqa: UP031  braces all over
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Any = Answer(status, text, sent)
    return translated(HttpResponseError(response=response))


def test_all_scopes_of_a_linked_authorization_failure_are_named() -> None:
    scopes = f"{identity_id('one')},{identity_id('Two')}"
    error = answered(403, "LinkedAuthorizationFailed", f"no permission on the linked scope(s) '{scopes}' or invalid.")
    assert isinstance(error, BadIdentities)
    assert error.ids == {identity_id("one").lower(), identity_id("two").lower()}


def test_the_scope_in_a_doubly_wrapped_message_is_named() -> None:
    inner = f"Resource '{identity_id('gone')}' was not found."
    error = answered(400, "FailedIdentityOperation", f"Identity operation failed: {inner}")
    assert isinstance(error, BadIdentities)
    assert error.ids == {identity_id("gone").lower()}


def test_a_refusal_without_an_identity_blames_no_identity() -> None:
    error = answered(403, "LinkedAuthorizationFailed", "no permission on the linked scope")
    assert isinstance(error, Refused)
    assert not isinstance(error, BadIdentities)


def test_a_failed_identity_operation_concerns_identities_whatever_its_message() -> None:
    error = answered(400, "FailedIdentityOperation", "something went wrong")
    assert isinstance(error, BadIdentities)
    assert error.ids == frozenset()


def test_a_failed_sign_in_does_not_concern_the_requested_operation() -> None:
    response: Any = Answer(400, '{"error":"invalid_client","error_description":"the secret has expired"}')
    error = translated(ClientAuthenticationError("the secret has expired", response=response))
    assert isinstance(error, SignInFailed)
    assert "the secret has expired" in error.message
    assert isinstance(translated(ClientAuthenticationError("no IMDS here")), SignInFailed)


def test_a_failed_sign_in_is_reported_without_the_client_id_and_with_the_facts_for_support() -> None:
    client, trace = "11112222-3333-4444-5555-666677778888", "99990000-aaaa-bbbb-cccc-ddddeeeeffff"
    text = f"AADSTS7000215: Invalid client secret provided for a secret added to app '{client}'. Trace ID: {trace}"
    message = translated(ClientAuthenticationError(text)).message
    assert client not in message
    assert "'1111…8888'" in message
    assert trace in message


def test_every_outcome_has_a_name() -> None:
    failures = [answered(status) for status in (404, 409, 429, 400, 500)]
    outcomes = [outcome_of(each) for each in [None, *failures, translated(TimeoutError())]]
    assert outcomes == ["ok", "not_found", "conflict", "throttled", "refused", "failed", "unreachable"]
    assert set(outcomes) == set(OUTCOMES)


def test_a_refusal_with_an_unreadable_identity_still_concerns_identities() -> None:
    odd = identity_id("x") + "'y"
    message = f"no permission for 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on '{odd}'"
    error = answered(403, "LinkedAuthorizationFailed", message)
    assert isinstance(error, BadIdentities)
    assert odd.lower() not in error.ids


def test_an_id_in_any_other_error_is_not_blamed() -> None:
    assert not isinstance(answered(400, "InvalidParameter", f"about {identity_id('one')}"), BadIdentities)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, HostNotFound),
        (409, UpdateConflict),
        (412, UpdateConflict),
        (429, Throttled),
        (403, Refused),
        (500, AzureError),
    ],
)
def test_each_status_has_its_own_error_class(status: int, kind: type[AzureError]) -> None:
    assert type(answered(status, "Code")) is kind


def test_throttling_contains_the_retry_after() -> None:
    assert answered(429, Retry_After="17").retry_after == 17.0
    assert answered(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None


def test_a_failure_without_a_response_is_unreachable() -> None:
    assert isinstance(translated(ServiceRequestError("refused")), Unreachable)
    assert isinstance(translated(TimeoutError()), Unreachable)


def test_a_response_that_is_not_json_is_still_classified() -> None:
    response: Any = Answer(502, "<html>bad gateway</html>")
    assert type(translated(HttpResponseError(response=response))) is AzureError


def test_a_body_nested_too_deeply_is_still_classified() -> None:
    answer: Any = Answer(400, '{"error":' + "[" * 60_000)
    error = HttpResponseError("because", response=answer)
    assert isinstance(translated(error), Refused)
