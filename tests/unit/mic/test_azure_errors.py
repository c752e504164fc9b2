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

SCOPE = "no permission on the linked scope"
ASSIGN = "no permission for 'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on"


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


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "ids"),
    [
        pytest.param(
            403,
            "LinkedAuthorizationFailed",
            f"{SCOPE}(s) '{identity_id('one')},{identity_id('Two')}' or invalid.",
            BadIdentities,
            {"one", "two"},
            id="all scopes of a linked authorization failure",
        ),
        pytest.param(
            400,
            "FailedIdentityOperation",
            f"Identity operation failed: Resource '{identity_id('gone')}' was not found.",
            BadIdentities,
            {"gone"},
            id="the scope in a doubly wrapped message",
        ),
        pytest.param(403, "LinkedAuthorizationFailed", SCOPE, Refused, None, id="a refusal without an identity"),
        pytest.param(400, "FailedIdentityOperation", "went wrong", BadIdentities, set(), id="an operation's failure"),
        pytest.param(
            403,
            "LinkedAuthorizationFailed",
            f"{ASSIGN} '{identity_id('x')}'y'",
            BadIdentities,
            {"x"},
            id="an unreadable identity",
        ),
        pytest.param(
            400, "InvalidParameter", f"about {identity_id('one')}", Refused, None, id="an id in any other error"
        ),
        pytest.param(404, "Code", "", HostNotFound, None, id="404"),
        pytest.param(409, "Code", "", UpdateConflict, None, id="409"),
        pytest.param(412, "Code", "", UpdateConflict, None, id="412"),
        pytest.param(429, "Code", "", Throttled, None, id="429"),
        pytest.param(403, "Code", "", Refused, None, id="403"),
        pytest.param(500, "Code", "", AzureError, None, id="500"),
    ],
)
def test_each_failure_has_its_class_and_names_the_identities_that_caused_it(
    status: int, code: str, message: str, kind: type[AzureError], ids: set[str] | None
) -> None:
    error = answered(status, code, message)
    assert type(error) is kind
    if isinstance(error, BadIdentities):
        assert error.ids == {identity_id(name).lower() for name in ids or ()}


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


def test_throttling_contains_the_retry_after() -> None:
    assert answered(429, Retry_After="17").retry_after == 17.0
    assert answered(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None


def test_a_failure_without_a_response_is_unreachable() -> None:
    assert isinstance(translated(ServiceRequestError("refused")), Unreachable)
    assert isinstance(translated(TimeoutError()), Unreachable)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(502, "<html>bad gateway</html>", AzureError), (400, '{"error":' + "[" * 60_000, Refused)],
    ids=["not JSON", "nested too deeply"],
)
def test_an_unreadable_response_is_still_classified(status: int, body: str, kind: type[AzureError]) -> None:
    response: Any = Answer(status, body)
    assert type(translated(HttpResponseError("because", response=response))) is kind
