"""Failing sign-ins: the retries, their duration, and the errors for the pod and the operator."""

import asyncio
import math
from typing import Any

import pytest
from aiohttp import web

from nmi.error_refusals import refusal_of
from nmi.refusal import Reason
from nmi.tokens.entra import RESPONSE_BYTES_MAX
from nmi.tokens.secrets import CredentialError
from nmi.tokens.sign_in import ATTEMPT_SECONDS, InvalidClient
from nmi.tokens.sign_ins import RETRY_DELAYS
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.resources import AzureIdentity
from podidentity_sandbox.directory import ServicePrincipal
from podidentity_sandbox.kubeapi.statuses import StatusError, forbidden
from podidentity_sandbox.serving import ResponseFault
from tests.support.nmi.tokens.sign_in_bench import API_SERVER, Bench, Hanging
from tests.support.virtual_time import now


@pytest.fixture
def principal(bench: Bench) -> ServicePrincipal:
    bench.put_secret(k=b"right")
    return bench.directory.add_principal(secret="right")


@pytest.fixture
def identity(bench: Bench, principal: ServicePrincipal) -> AzureIdentity:
    return bench.identity(principal)


async def failure(bench: Bench, identity: AzureIdentity, **changed: Any) -> AzureError:
    with pytest.raises(AzureError) as caught:
        await bench.fetch(identity, **changed)
    return caught.value


ERROR = {
    "error": "temporarily_unavailable",
    "error_description": "AADSTS90033: A transient error. Trace ID: a Correlation ID: b Timestamp: c",
    "correlation_id": "0c0ffee0-0000-0000-0000-000000000001",
}
BAD_ANSWER = (AzureError, "bad_answer", Reason.UPSTREAM_UNAVAILABLE)


@pytest.mark.parametrize(
    ("fault", "kind", "code", "reason"),
    [
        (ResponseFault(status=503, document=ERROR), AzureError, "AADSTS90033", Reason.UPSTREAM_UNAVAILABLE),
        (ResponseFault(status=500), AzureError, "", Reason.UPSTREAM_UNAVAILABLE),
        (ResponseFault(status=400, document=ERROR), AzureError, "AADSTS90033", Reason.UPSTREAM_UNAVAILABLE),
        (ResponseFault(status=429, headers={"Retry-After": "2"}), Throttled, "", Reason.UPSTREAM_THROTTLED),
        (ResponseFault(status=408), AzureError, "", Reason.UPSTREAM_UNAVAILABLE),
        (ResponseFault(status=200, document={"token": 1}), *BAD_ANSWER),
        (ResponseFault(status=200, document={"access_token": 5, "expires_in": 5}), *BAD_ANSWER),
        (ResponseFault(status=200, document={"access_token": "a\nb", "expires_in": 5}), *BAD_ANSWER),
        (ResponseFault(status=200, document={"access_token": "a", "expires_in": "soon"}), *BAD_ANSWER),
    ],
    ids=["503", "500", "temporarily", "429", "408", "no-token", "number-for-token", "two-lines", "no-time"],
)
async def test_a_transient_failure_is_tried_five_times(  # noqa: PLR0917
    bench: Bench,
    identity: AzureIdentity,
    fault: ResponseFault,
    kind: type[AzureError],
    code: str,
    reason: Reason,
) -> None:
    retry_after = 2.0 if kind is Throttled else None
    fault.times = math.inf
    bench.aad.faults.add(fault)
    error = await failure(bench, identity)
    assert (type(error), error.code, error.retry_after) == (kind, code, retry_after)
    assert refusal_of(error).reason is reason
    assert [type(seen) for seen in bench.observed] == [kind] * 5
    assert bench.pauses == [max(seconds, retry_after or 0.0) for seconds in (1.0, 2.0, 4.0, 8.0)]
    bench.aad.faults.clear()
    bench.aad.faults.add(ResponseFault(status=503, times=2))
    reads = bench.secret_reads
    await bench.fetch(identity)
    assert bench.secret_reads == reads + 1, "a failure that passes is not returned"


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [
        (400, {"error": "invalid_scope", "error_description": "AADSTS1002012: no."}, "AADSTS1002012"),
        (401, {"error": "unauthorized_client", "error_description": "no number"}, "unauthorized_client"),
        (403, {}, ""),
        (404, {}, ""),
        (302, {}, ""),
    ],
)
async def test_a_refusal_is_returned_immediately(
    bench: Bench, identity: AzureIdentity, status: int, document: dict[str, str], code: str
) -> None:
    bench.aad.faults.add(ResponseFault(status=status, document=document, times=math.inf, headers={"Location": "/x"}))
    error = await failure(bench, identity)
    assert (type(error), error.status, error.code) == (Refused, status, code)
    assert refusal_of(error).reason is Reason.UPSTREAM_REFUSED
    assert (len(bench.observed), bench.pauses) == (1, [])


async def test_the_log_contains_azures_error_number_message_and_correlation_id(
    bench: Bench, identity: AzureIdentity, principal: ServicePrincipal
) -> None:
    bench.put_secret(k=b"wrong-one")
    error = await failure(bench, identity)
    assert isinstance(error, InvalidClient)
    assert (error.code, len(error.correlation_id)) == ("AADSTS7000215", 36)
    assert "team-a/sp" in error.message
    assert "Invalid client secret" in error.message
    assert "Trace ID" not in error.message
    assert principal.client_id not in error.message
    refusal = refusal_of(error)
    assert (refusal.reason, refusal.detail) == (Reason.UPSTREAM_REFUSED, refusal.detail)
    assert "AADSTS7000215" in refusal.sentence
    assert error.correlation_id in refusal.sentence
    assert bench.secret_reads == 2
    bench.put_secret(k=b"right\n", l=b"")
    error = await failure(bench, identity)
    assert "blank or a newline" in error.message
    assert "several keys" in error.message


async def test_an_unknown_application_and_an_unknown_tenant_are_refused(bench: Bench, identity: AzureIdentity) -> None:
    stranger = bench.identity(ServicePrincipal("c11e0000-0000-0000-0000-0000000000ff", "", "", ""))
    assert (await failure(bench, stranger)).code == "AADSTS700016"
    astray = bench.identity(ServicePrincipal(identity.spec.client_id, "", "", ""), tenant_id="nowhere.example")
    assert (await failure(bench, astray)).code == "AADSTS90002"


async def test_the_first_failing_auxiliary_tenant_is_named_and_ends_the_fetch(
    bench: Bench, principal: ServicePrincipal
) -> None:
    good = bench.directory.add_tenant()
    bench.directory.consent(principal.client_id, good)
    async with Hanging(bench, good):
        error = await failure(bench, bench.identity(principal, auxiliary_tenant_ids=[good, "nowhere.example"]))
    assert error.message.startswith("tenant nowhere.example: ")
    assert (type(error), error.code) == (Refused, "AADSTS90002")


async def test_a_secret_replaced_during_the_sign_in_is_read_again(bench: Bench, principal: ServicePrincipal) -> None:
    """AAD has dropped the old one already, and Kubernetes has the new one by the time the refusal arrives."""
    bench.put_secret(k=b"old")
    respond = bench.aad.handle
    versions: list[str] = []

    async def rotated_during_sign_in(request: web.BaseRequest) -> web.StreamResponse:
        if not versions:
            versions.append(bench.put_secret(k=b"right"))
        return await respond(request)

    bench.aad.handle = rotated_during_sign_in  # type: ignore[method-assign]
    granted = await bench.fetch(bench.identity(principal))
    assert [granted.credential] == versions
    assert bench.source.key(bench.identity(principal)).credential == versions[0]
    assert (bench.secret_reads, [call.status for call in bench.aad.calls]) == (2, [401, 200])


async def test_a_new_secret_unknown_to_azure_keeps_the_last_accepted_version(
    bench: Bench, principal: ServicePrincipal, identity: AzureIdentity
) -> None:
    proven = (await bench.fetch(identity)).credential
    application = bench.directory.application(principal.client_id)
    assert application is not None
    application.secrets["new"] = math.inf
    version = bench.put_secret(k=b"new")
    assert isinstance(await failure(bench, identity), InvalidClient)
    assert bench.source.key(identity).credential == proven
    application.secrets["new"] = 0.0
    assert (await bench.fetch(identity)).credential == version == bench.source.key(identity).credential


async def test_a_retry_after_that_exceeds_the_request_is_not_waited_for(bench: Bench, identity: AzureIdentity) -> None:
    bench.aad.faults.add(ResponseFault(status=429, headers={"Retry-After": "60"}))
    error = await failure(bench, identity)
    assert (type(error), error.retry_after, bench.pauses) == (Throttled, 60.0, [])


async def test_a_fetch_ends_at_its_time_limit(bench: Bench, identity: AzureIdentity) -> None:
    begun = now()
    async with Hanging(bench):
        error = await failure(bench, identity, timeout_seconds=5.0)
    assert (type(error), error.code, now() - begun) == (Unreachable, "timeout", 5.0)


async def test_one_attempt_has_its_own_time_limit(bench: Bench, identity: AzureIdentity) -> None:
    begun = now()
    async with Hanging(bench, times=1):
        await bench.fetch(identity)
    assert [type(seen) for seen in bench.observed] == [Unreachable, type(None)]
    assert now() - begun == ATTEMPT_SECONDS + RETRY_DELAYS[0]


async def test_a_cancelled_fetch_leaves_no_connection_open_and_the_next_one_succeeds(
    bench: Bench, identity: AzureIdentity
) -> None:
    async with Hanging(bench, times=1) as hanging:
        fetching = asyncio.create_task(bench.fetch(identity))
        await hanging.arrived.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert len(bench.sign_ins._limiter) == 0
    assert bench.observed == []
    assert (await bench.fetch(identity)).token.access_token
    assert not bench.session.closed


async def test_an_endless_response_is_not_read_to_its_end(bench: Bench, identity: AzureIdentity) -> None:
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while sent < 1000 * RESPONSE_BYTES_MAX:
            await response.write(b" " * RESPONSE_BYTES_MAX)
            sent += RESPONSE_BYTES_MAX
        return response

    bench.aad.handle = endless  # type: ignore[method-assign]
    assert isinstance(await failure(bench, identity), Unreachable)
    assert sent < 5 * 4 * RESPONSE_BYTES_MAX, "a few buffers in each attempt"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>busy</html>", "text/html"),
        (b"<a><b/></a>", "application/xml"),
        (b"<a>", "application/xml"),
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"", "application/json"),
        (b"{}", "image/png"),
        (b'"x"', "application/json"),
        (b"null", "application/json"),
    ],
)
@pytest.mark.parametrize("status", [200, 502])
async def test_a_response_of_another_content_type_is_an_error(
    bench: Bench, identity: AzureIdentity, body: bytes, content_type: str, status: int
) -> None:
    bench.source = bench.new_source(retry_delays=())

    async def odd(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type})

    bench.aad.handle = odd  # type: ignore[method-assign]
    error = await failure(bench, identity)
    assert type(error) is AzureError
    assert error.status == status


async def test_an_unreachable_endpoint_is_retried(bench: Bench, identity: AzureIdentity) -> None:
    bench.network.cut(bench.aad.url)
    error = await failure(bench, identity)
    assert (type(error), error.code, len(bench.observed)) == (Unreachable, "no_answer", 5)
    assert "unreachable" not in refusal_of(error).sentence.lower()


async def test_connections_are_returned_in_each_case(bench: Bench, identity: AzureIdentity) -> None:
    bench.source = bench.new_source(retry_delays=())
    for status in (200, 401, 503):
        bench.aad.faults.add(ResponseFault(status=status, document={"error": "x"}))
        await failure(bench, identity)
    await bench.fetch(identity)
    connector = bench.session.connector
    assert connector is not None
    assert not connector._acquired


@pytest.mark.parametrize(
    ("values", "type_", "word"),
    [
        ({}, 1, "empty"),
        ({"k": b""}, 1, "0 bytes"),
        ({"k": b"x" * 5000}, 1, "5000 bytes"),
        ({"k": b"\xff\xfe"}, 1, "text"),
        ({"k": b"x"}, 2, "no key `certificate`"),
        ({"certificate": b""}, 2, "no key `certificate`"),
        ({"Certificate": b"x"}, 2, "no key `certificate`"),
    ],
)
async def test_a_secret_without_the_required_key_is_named(
    bench: Bench, principal: ServicePrincipal, values: dict[str, bytes], type_: int, word: str
) -> None:
    bench.put_secret(**values)
    error = await failure(bench, bench.identity(principal, type=type_))
    assert (type(error), error.code) == (CredentialError, "secret_unfit")
    assert "team-a/sp" in error.message
    assert word in error.message
    assert bench.aad.calls == []


async def test_a_missing_secret_is_named(bench: Bench, identity: AzureIdentity) -> None:
    bench.kube.store.delete("secrets", "sp", "team-a")
    error = await failure(bench, identity)
    assert (type(error), error.code) == (CredentialError, "secret_missing")
    assert "team-a/sp does not exist" in error.message
    refusal = refusal_of(error)
    assert (refusal.reason, refusal.detail) == (Reason.UPSTREAM_REFUSED, error.message)
    assert "no request was sent to Azure (secret_missing)" in refusal.sentence
    assert "team-a" not in refusal.sentence
    assert (bench.failed_reads, bench.secret_reads) == (1, 1)


async def test_a_forbidden_secret_is_named_with_the_permission_to_grant(bench: Bench, identity: AzureIdentity) -> None:
    bench.kube.intercept = lambda _request: forbidden("secrets", "", "sp", "no role")
    error = await failure(bench, identity)
    assert (type(error), error.code) == (CredentialError, "secret_forbidden")
    assert "verb get" in error.message
    assert "adding namespace team-a to the chart's rbac.secretNamespaces" in error.message
    assert "nmi.servicePrincipals=true" in error.message


async def test_a_transient_failure_of_the_api_server_is_retried(bench: Bench, identity: AzureIdentity) -> None:
    errors = [StatusError(503, "ServiceUnavailable", "busy"), StatusError(429, "TooManyRequests", "slow"), None]
    bench.kube.intercept = lambda _request: errors.pop(0) if errors else None
    assert (await bench.fetch(identity)).token.access_token
    assert (bench.failed_reads, bench.secret_reads) == (2, 3)
    bench.network.cut(API_SERVER)
    error = await failure(bench, identity)
    assert (type(error), error.code) == (Unreachable, "secret_unavailable")
    assert "team-a/sp" in error.message
