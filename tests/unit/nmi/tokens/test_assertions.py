"""Assertions of pods: NMI's request to the API server, and its reaction to each response."""

import asyncio
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from nmi.tokens.assertions import KEPT_MAX, Assertions, NoAssertionError
from nmi.tokens.source import Workload
from podidentity.azure.errors import AzureError, Unreachable
from podidentity.kube.client import Client
from podidentity_sandbox.kubeapi.statuses import StatusError, forbidden
from podidentity_sandbox.tokens import read_claims
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE, Bench

AUDIENCE = "api://AzureADTokenExchange"
NOT_PERMITTED = forbidden("serviceaccounts", "", "builder", "no")
POLICY = "ValidatingAdmissionPolicy {0} with binding {0} denied request: "
WEBHOOK = "admission webhook {0} of a cluster's own, which is called something longer, denied the request: "
LONG = (
    "NMI may ask for tokens of exactly one audience, api://AzureADTokenExchange, which is the chart's value "
    "federated.audience; if NMI is to ask for another, set that value"
)


@pytest.fixture
def workload(bench: Bench) -> Workload:
    return bench.pod("web", "builder")


@pytest.fixture
def assertions(bench: Bench) -> Assertions:
    return Assertions(bench.client, AUDIENCE)


def refuse(bench: Bench, status: StatusError) -> None:
    bench.kube.intercept = lambda request: status if request.path.endswith("/token") else None


async def refused(assertions: Assertions, workload: Workload) -> NoAssertionError:
    with pytest.raises(NoAssertionError) as error:
        await assertions.of(workload)
    return error.value


def requests_for_tokens(bench: Bench) -> list[str]:
    return [each.path for each in bench.kube.requests if each.path.endswith("/token")]


async def test_an_assertion_is_bound_to_the_pod_for_one_audience_and_ten_minutes(
    bench: Bench, assertions: Assertions, workload: Workload
) -> None:
    assertion = await assertions.of(workload)
    claims = read_claims(assertion.token)
    assert claims["aud"] == [AUDIENCE]
    assert claims["exp"] - claims["iat"] == 600
    assert claims["kubernetes.io"]["pod"] == {"name": "web", "uid": workload.uid}
    assert (assertion.issuer, assertion.subject) == (claims["iss"], f"system:serviceaccount:{NAMESPACE}:builder")
    assert assertion.audience == AUDIENCE
    assert assertion.token not in repr(assertion)
    assert [each.path for each in bench.kube.requests] == [
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/builder/token"
    ], "no other request"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [("pods", "web", "pod team-a/web"), ("serviceaccounts", "builder", "service account team-a/builder")],
)
async def test_a_deleted_pod_or_service_account_gets_no_assertion(  # noqa: PLR0917
    bench: Bench, assertions: Assertions, workload: Workload, kind: str, name: str, message: str
) -> None:
    bench.kube.store.delete(kind, name, NAMESPACE, grace_seconds=0)
    error = await refused(assertions, workload)
    assert error.code == "service_account_missing"
    assert message in error.message


@pytest.mark.parametrize("name", ["", "../pods/web", "a/b"])
async def test_an_invalid_service_account_name_sends_no_request(
    bench: Bench, assertions: Assertions, workload: Workload, name: str
) -> None:
    await refused(assertions, msgspec.structs.replace(workload, service_account=name))
    assert not bench.kube.requests


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (NOT_PERMITTED, "assertion_forbidden", "federated.namespaces"),
        (StatusError(422, "Invalid", POLICY + "only ten minutes"), "assertion_refused", "only ten minutes"),
        *(
            (
                StatusError(403, "Forbidden", f'serviceaccounts "builder" is forbidden: {text}'),
                "assertion_forbidden",
                LONG,
            )
            for text in (POLICY.format("'a-long-name-of-a-policy'") + LONG, WEBHOOK.format("'a-name'") + LONG)
        ),
    ],
    ids=["no permission: the chart value that grants it", "policy", "a policy's whole message", "a webhook's"],
)
async def test_a_refusal_quotes_what_the_operator_needs(  # noqa: PLR0917
    bench: Bench, assertions: Assertions, workload: Workload, status: StatusError, code: str, message: str
) -> None:
    refuse(bench, status)
    error = await refused(assertions, workload)
    assert error.code == code
    assert message in error.message


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_transient_failure_is_no_refusal(bench: Bench, workload: Workload, status: int) -> None:
    counted: list[None] = []
    refuse(bench, StatusError(status, "Odd", "busy"))
    with pytest.raises(Unreachable) as failed:
        await Assertions(bench.client, AUDIENCE, count_failure=lambda: counted.append(None)).of(workload)
    assert (failed.value.code, len(counted)) == ("assertion_unavailable", 1)


async def test_an_assertion_is_reused_for_a_minute(bench: Bench, assertions: Assertions, workload: Workload) -> None:
    first = await assertions.of(workload)
    await asyncio.sleep(59.9)
    assert await assertions.of(workload) is first
    await asyncio.sleep(0.2)
    assert (await assertions.of(workload)).token != first.token
    assert len(requests_for_tokens(bench)) == 2


async def test_concurrent_requests_share_one_token_request(
    bench: Bench, assertions: Assertions, workload: Workload
) -> None:
    assert len({each.token for each in await asyncio.gather(*(assertions.of(workload) for _ in range(20)))}) == 1
    assert len(requests_for_tokens(bench)) == 1


async def test_a_cancelled_request_does_not_prevent_the_next_one(assertions: Assertions, workload: Workload) -> None:
    asking = asyncio.create_task(assertions.of(workload))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await assertions.of(workload)).token


async def test_an_assertion_is_dropped_with_the_pod(assertions: Assertions, workload: Workload) -> None:
    await assertions.of(workload)
    assertions.forget(workload.uid)
    assertions.forget("another pod's")
    assert len(assertions) == 0


async def test_a_failure_for_a_pod_is_not_retried_immediately(
    bench: Bench, assertions: Assertions, workload: Workload
) -> None:
    refuse(bench, NOT_PERMITTED)
    for _ in range(50):
        await refused(assertions, workload)
    assert len(requests_for_tokens(bench)) == 1
    bench.kube.intercept = None
    await asyncio.sleep(0.5)
    assert (await assertions.of(workload)).token


def answering(answer: bytes) -> Assertions:
    """Return assertions of a server that returns *answer* to every request."""
    return Assertions(Mock(spec=Client, request=AsyncMock(return_value=answer)), AUDIENCE)


async def test_the_memory_is_bounded_for_any_number_of_pods() -> None:
    assertions = answering(b"")
    for number in range(KEPT_MAX + 10):
        with pytest.raises(AzureError):
            await assertions.of(Workload("ns", "web", f"uid-{number}", "builder"))
    assert len(assertions) == KEPT_MAX


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{", b'{"status": {}}', b'{"status": {"token": "a.b"}}', b'{"status": {"token": "a\\nb.e30.c"}}'],
)
async def test_a_response_without_a_token_is_a_failure_that_quotes_nothing(answer: bytes) -> None:
    with pytest.raises(AzureError) as failed:
        await answering(answer).of(Workload("ns", "web", "uid-1", "builder"))
    assert failed.value.code == "no_assertion"
    assert not answer or answer.decode() not in str(failed.value)
