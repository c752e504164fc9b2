"""Assertions of pods: NMI's request to the API server, and its reaction to each response."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from typing_extensions import override

from nmi.tokens.assertions import KEPT_MAX, Assertions, NoAssertionError
from nmi.tokens.source import Workload
from podidentity.azure.errors import AzureError, Unreachable
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox.kubeapi.statuses import StatusError, forbidden
from podidentity_sandbox.tokens import read_claims
from tests.nmi.tokens.sign_in_bench import NAMESPACE, Bench

AUDIENCE = "api://AzureADTokenExchange"
WEBHOOK = "admission webhook {0} of a cluster's own, which is called something longer, denied the request: "


@pytest.fixture
def workload(bench: Bench) -> Workload:
    bench.kube.store.create("serviceaccounts", {"metadata": {"name": "builder", "namespace": NAMESPACE}})
    pod = {
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"serviceAccountName": "builder", "nodeName": "n0", "containers": [{"name": "c", "image": "i"}]},
    }
    made = bench.kube.store.create("pods", pod)
    return Workload(NAMESPACE, "web", made["metadata"]["uid"], "builder")


async def asked_of(bench: Bench, workload: Workload) -> NoAssertionError:
    with pytest.raises(NoAssertionError) as refused:
        await Assertions(bench.client, AUDIENCE).of(workload)
    return refused.value


async def test_an_assertion_is_bound_to_the_pod_for_one_audience_and_ten_minutes(
    bench: Bench, workload: Workload
) -> None:
    assertion = await Assertions(bench.client, AUDIENCE).of(workload)
    claims = read_claims(assertion.token)
    assert claims["aud"] == [AUDIENCE]
    assert claims["exp"] - claims["iat"] == 600
    assert claims["kubernetes.io"]["pod"] == {"name": "web", "uid": workload.uid}
    assert (assertion.issuer, assertion.subject) == (claims["iss"], f"system:serviceaccount:{NAMESPACE}:builder")
    assert assertion.audience == AUDIENCE
    assert assertion.token not in repr(assertion)


async def test_a_deleted_pod_gets_no_assertion(bench: Bench, workload: Workload) -> None:
    bench.kube.store.delete("pods", "web", NAMESPACE, grace_seconds=0)
    error = await asked_of(bench, workload)
    assert error.code == "service_account_missing"
    assert "pod team-a/web" in error.message


async def test_a_pod_whose_service_account_is_deleted_gets_none_either(bench: Bench, workload: Workload) -> None:
    bench.kube.store.delete("serviceaccounts", "builder", NAMESPACE)
    assert "service account team-a/builder" in (await asked_of(bench, workload)).message


@pytest.mark.parametrize("name", ["", "../pods/web", "a/b"])
async def test_an_invalid_service_account_name_sends_no_request(bench: Bench, workload: Workload, name: str) -> None:
    before = len(bench.kube.requests)
    await asked_of(bench, msgspec.structs.replace(workload, service_account=name))
    assert len(bench.kube.requests) == before


async def test_a_missing_permission_is_reported_with_the_chart_value_that_grants_it(
    bench: Bench, workload: Workload
) -> None:
    bench.kube.intercept = lambda request: (
        forbidden("serviceaccounts", "", "builder", "no") if request.path.endswith("/token") else None
    )
    error = await asked_of(bench, workload)
    assert (error.code, "federated.namespaces" in error.message) == ("assertion_forbidden", True)


async def test_an_admission_policys_message_is_quoted(bench: Bench, workload: Workload) -> None:
    denied = StatusError(422, "Invalid", "ValidatingAdmissionPolicy 'p' denied request: only ten minutes")
    bench.kube.intercept = lambda request: denied if request.path.endswith("/token") else None
    error = await asked_of(bench, workload)
    assert (error.code, "only ten minutes" in error.message) == ("assertion_refused", True)


@pytest.mark.parametrize("template", ["ValidatingAdmissionPolicy {0} with binding {0} denied request: ", WEBHOOK])
async def test_the_policys_message_is_not_truncated_after_its_names(
    bench: Bench, workload: Workload, template: str
) -> None:
    words = (
        "NMI may ask for tokens of exactly one audience, api://AzureADTokenExchange, which is the chart's value "
        "federated.audience; if NMI is to ask for another, set that value"
    )
    named = template.format("'podid-aad-pod-identity-federated'")
    denied = StatusError(403, "Forbidden", f'serviceaccounts "builder" is forbidden: {named}{words}')
    bench.kube.intercept = lambda request: denied if request.path.endswith("/token") else None
    error = await asked_of(bench, workload)
    assert (error.code, error.message.endswith(words)) == ("assertion_forbidden", True)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_transient_failure_is_no_refusal(bench: Bench, workload: Workload, status: int) -> None:
    counted: list[None] = []
    bench.kube.intercept = lambda request: (
        StatusError(status, "Odd", "busy") if request.path.endswith("/token") else None
    )
    with pytest.raises(Unreachable) as failed:
        await Assertions(bench.client, AUDIENCE, count_failure=lambda: counted.append(None)).of(workload)
    assert (failed.value.code, len(counted)) == ("assertion_unavailable", 1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def requests_for_tokens(bench: Bench) -> int:
    return sum(each.path.endswith("/token") for each in bench.kube.requests)


async def test_an_assertion_is_reused_for_a_minute(bench: Bench, workload: Workload) -> None:
    clock = Clock()
    assertions = Assertions(bench.client, AUDIENCE, clock=clock)
    first = await assertions.of(workload)
    clock.now += 59.9
    assert await assertions.of(workload) is first
    clock.now += 0.2
    assert (await assertions.of(workload)).token != first.token
    assert requests_for_tokens(bench) == 2


async def test_concurrent_requests_share_one_token_request(bench: Bench, workload: Workload) -> None:
    assertions = Assertions(bench.client, AUDIENCE)
    assert len({each.token for each in await asyncio.gather(*(assertions.of(workload) for _ in range(20)))}) == 1
    assert requests_for_tokens(bench) == 1


async def test_a_cancelled_request_does_not_prevent_the_next_one(bench: Bench, workload: Workload) -> None:
    assertions = Assertions(bench.client, AUDIENCE)
    asking = asyncio.create_task(assertions.of(workload))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await assertions.of(workload)).token


async def test_an_assertion_is_dropped_with_the_pod(bench: Bench, workload: Workload) -> None:
    assertions = Assertions(bench.client, AUDIENCE)
    await assertions.of(workload)
    assertions.forget(workload.uid)
    assertions.forget("another pod's")
    assert len(assertions) == 0


async def test_a_failure_for_a_pod_is_not_retried_immediately(bench: Bench, workload: Workload) -> None:
    clock = Clock()
    bench.kube.intercept = lambda request: (
        forbidden("serviceaccounts", "", "builder", "no") if request.path.endswith("/token") else None
    )
    assertions = Assertions(bench.client, AUDIENCE, clock=clock)
    for _ in range(50):
        with pytest.raises(NoAssertionError):
            await assertions.of(workload)
    assert requests_for_tokens(bench) == 1
    bench.kube.intercept = None
    clock.now += 0.5
    assert (await assertions.of(workload)).token


async def test_the_memory_is_bounded_for_any_number_of_pods() -> None:
    assertions = Assertions(ScriptedTokenServer(b""), AUDIENCE)
    for number in range(KEPT_MAX + 10):
        with pytest.raises(AzureError):
            await assertions.of(Workload("ns", "web", f"uid-{number}", "builder"))
    assert len(assertions) == KEPT_MAX


class ScriptedTokenServer(Client):
    """A server that returns *answer* to every request and records the requests."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(ClusterAccess("https://nowhere.invalid"), user_agent="test")
        self._told = answer
        self.asked: list[tuple[str, str, Any]] = []

    @override
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_seconds: float | None = None,
    ) -> bytes:
        self.asked.append((method, path, json.loads(body or b"null")))
        return self._told


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{", b'{"status": {}}', b'{"status": {"token": "a.b"}}', b'{"status": {"token": "a\\nb.e30.c"}}'],
)
async def test_a_response_without_a_token_is_a_failure_that_quotes_nothing(answer: bytes) -> None:
    with pytest.raises(AzureError) as failed:
        await Assertions(ScriptedTokenServer(answer), AUDIENCE).of(Workload("ns", "web", "uid-1", "builder"))
    assert failed.value.code == "no_assertion"
    assert not answer or answer.decode() not in str(failed.value)


async def test_no_other_request_is_sent() -> None:
    client = ScriptedTokenServer(b"")
    with pytest.raises(AzureError):
        await Assertions(client, AUDIENCE).of(Workload("ns", "web", "uid-1", "builder"))
    ((method, path, asked),) = client.asked
    assert (method, path) == ("POST", "/api/v1/namespaces/ns/serviceaccounts/builder/token")
    assert asked["spec"] == {
        "audiences": [AUDIENCE],
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-1"},
    }
