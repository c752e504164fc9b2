"""Tokens of type 3: NMI proves a pod's service account to an AAD that verifies it, with assertions of an API server.

The requests for assertions are tested alone first. Excluded: the tokens of a deleted pod (`test_separate_tokens.py`).
"""

import asyncio
import io
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest
from typing_extensions import override

from nmi.error_refusals import refusal_of
from nmi.refusal import Reason
from nmi.tokens.assertions import KEPT_MAX, Assertions, NoAssertionError
from nmi.tokens.federated import FederatedSource, UntrustedError
from nmi.tokens.source import FetchedToken, FetchObserver, PolicyError, Workload
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.azure.federation import Exchange
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity
from podidentity_sandbox.directory import FederatedCredential, ManagedIdentity
from podidentity_sandbox.kubeapi.statuses import StatusError, forbidden
from podidentity_sandbox.tokens import read_claims
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE, RESOURCE, Bench, claims

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
    return [request.path for request in bench.kube.requests if request.path.endswith("/token")]


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
    assert [request.path for request in bench.kube.requests] == [
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


async def test_an_assertion_is_shared_and_reused_for_a_minute(
    bench: Bench, assertions: Assertions, workload: Workload
) -> None:
    first, *others = await asyncio.gather(*(assertions.of(workload) for _ in range(20)))
    assert {later.token for later in others} == {first.token}
    await asyncio.sleep(59.9)
    assert await assertions.of(workload) is first
    await asyncio.sleep(0.2)
    assert (await assertions.of(workload)).token != first.token
    assert len(requests_for_tokens(bench)) == 2


async def test_a_cancelled_request_does_not_prevent_the_next_one(assertions: Assertions, workload: Workload) -> None:
    requesting = asyncio.create_task(assertions.of(workload))
    await asyncio.sleep(0)
    requesting.cancel()
    await asyncio.gather(requesting, return_exceptions=True)
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


def answering(response: bytes) -> Assertions:
    """Return assertions of a server that returns *response* to every request."""
    return Assertions(Mock(spec=Client, request=AsyncMock(return_value=response)), AUDIENCE)


async def test_the_memory_is_bounded_for_any_number_of_pods() -> None:
    assertions = answering(b"")
    for number in range(KEPT_MAX + 10):
        with pytest.raises(AzureError):
            await assertions.of(Workload("ns", "web", f"uid-{number}", "builder"))
    assert len(assertions) == KEPT_MAX


@pytest.mark.parametrize(
    "response",
    [b"", b"[]", b"{", b'{"status": {}}', b'{"status": {"token": "a.b"}}', b'{"status": {"token": "a\\nb.e30.c"}}'],
)
async def test_a_response_without_a_token_is_a_failure_that_quotes_nothing(response: bytes) -> None:
    with pytest.raises(AzureError) as failed:
        await answering(response).of(Workload("ns", "web", "uid-1", "builder"))
    assert failed.value.code == "no_assertion"
    assert not response or response.decode() not in str(failed.value)


class Trust(FetchObserver):
    """A pod with a service account on the bench's API server, and an identity that can be configured to trust it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.managed: ManagedIdentity = bench.directory.add_identity("/subscriptions/s/trusting")
        self.source = self.new_source()
        bench.aad.issuers.fetch = bench.issuer_document
        self.workload = bench.pod("web", "builder")
        self.failures: list[AzureError] = []

    @override
    def retrying(self, error: AzureError) -> None:
        self.failures.append(error)

    def new_source(self, *, enabled: bool = True) -> FederatedSource:
        bench = self.bench
        assertions = {Exchange.DIRECT: Assertions(bench.client, AUDIENCE)}
        return FederatedSource(bench.policy, assertions, bench.sign_ins, enabled=enabled)

    def trust_at_azure(self, account: str = "builder", **changed: Any) -> None:
        subject = f"system:serviceaccount:{NAMESPACE}:{account}"
        credential = replace(FederatedCredential(self.bench.kube.issuer, subject, AUDIENCE), **changed)
        self.bench.directory.federate(self.managed.client_id, credential)

    def identity(self, **changed: Any) -> AzureIdentity:
        return self.bench.identity(self.managed, **{"type": 3, "client_password": None, **changed})

    async def fetch(self, workload: Workload | None = None, **changed: Any) -> FetchedToken:
        identity, workload = self.identity(**changed), workload or self.workload
        return await self.bench.fetch(identity, source=self.source, workload=workload, observer=self)

    def request_counts(self) -> tuple[int, int]:
        """Return the number of assertions requested from the API server, and of requests to AAD."""
        return sum(request.path.endswith("/token") for request in self.bench.kube.requests), len(self.bench.aad.calls)


@pytest.fixture
def trust(bench: Bench) -> Trust:
    return Trust(bench)


async def test_a_trusted_service_account_gets_a_token_of_the_identity(trust: Trust) -> None:
    trust.trust_at_azure()
    granted = await trust.fetch()
    token_claims = claims(granted)
    assert (token_claims["appid"], token_claims["aud"], token_claims["oid"]) == (
        trust.managed.client_id,
        RESOURCE,
        trust.managed.object_id,
    )
    assert (granted.token.resource, granted.token.client_id) == (RESOURCE, trust.managed.client_id)
    assert granted.object_id == trust.managed.object_id
    assert granted.expires_in == token_claims["exp"] - token_claims["iat"]
    assert trust.bench.aad.calls[-1].proof == "federated"
    assert trust.failures == []


async def test_a_subject_that_differs_in_case_is_named_immediately(trust: Trust) -> None:
    trust.trust_at_azure(subject=f"system:serviceaccount:{NAMESPACE}:Builder")
    with pytest.raises(UntrustedError) as refused:
        await trust.fetch()
    assert refused.value.code == "AADSTS7002138"
    assert f"subject system:serviceaccount:{NAMESPACE}:builder" in refusal_of(refused.value).sentence
    assert not trust.failures


async def test_a_credential_that_azure_does_not_know_yet_is_waited_for(trust: Trust) -> None:
    async def later(seconds: float) -> None:
        trust.bench.pauses.append(seconds)
        trust.trust_at_azure()

    trust.bench.sign_ins._sleep = later
    assert claims(await trust.fetch())["appid"] == trust.managed.client_id
    assert [type(failure) for failure in trust.failures] == [UntrustedError]
    assert trust.request_counts()[0] == 1, "the assertion is good for the next try, too"


@pytest.mark.parametrize(
    ("changed", "code", "difference"),
    [
        (None, "AADSTS70025", "the identity has no such federated credential"),
        ({"subject": f"system:serviceaccount:{NAMESPACE}:other"}, "AADSTS700213", "has this subject"),
        ({"audience": "api://other"}, "AADSTS700212", "has this audience"),
        ({"issuer": "https://elsewhere.example"}, "AADSTS700211", "has this issuer"),
    ],
    ids=["none", "subject", "audience", "issuer"],
)
async def test_the_refusal_names_the_credential_to_create(
    trust: Trust, changed: dict[str, str] | None, code: str, difference: str
) -> None:
    if changed is not None:
        trust.trust_at_azure(**changed)
    with pytest.raises(UntrustedError) as refused:
        await trust.fetch()
    assert len(trust.failures) == 4, "it was tried again for as long as there was time"
    assert trust.bench.pauses == [1.0, 2.0, 4.0, 8.0], "ever less often"
    refusal = refusal_of(refused.value)
    named = f"issuer {trust.bench.kube.issuer}, subject system:serviceaccount:{NAMESPACE}:builder, audience {AUDIENCE}"
    assert refusal.reason is Reason.UPSTREAM_REFUSED
    assert named in refusal.sentence
    assert code in refusal.sentence
    assert f"{difference} ({code}): az identity federated-credential create" in refusal.detail
    values = f"--issuer {trust.bench.kube.issuer} --subject system:serviceaccount:{NAMESPACE}:builder "
    assert f"{values}--audiences {AUDIENCE} (" in refusal.detail
    assert trust.managed.client_id not in refusal.sentence + refusal.detail
    assert refusal_of(refused.value.again()) == refusal, "of a cached refusal"


async def test_a_refusal_unrelated_to_trust_is_not_retried(trust: Trust) -> None:
    trust.trust_at_azure()
    with pytest.raises(Refused) as refused:
        await trust.fetch(tenant_id="5a4db0c5-0000-4000-8000-00000000dead")
    assert not isinstance(refused.value, UntrustedError)
    assert not trust.failures
    assert not trust.bench.pauses


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ad_endpoint": "https://evil.example/"}, "--allowed-ad-endpoints"),
        ({"client_id": " "}, "clientID"),
        ({"tenant_id": "../x"}, "tenant"),
        ({"tenant_id": "adfs"}, "adfs"),
        ({"auxiliary_tenant_ids": ["5a4db0c5-0000-4000-8000-000000000001"]}, "auxiliaryTenantIDs"),
    ],
)
async def test_no_call_is_sent_for_a_refused_identity(trust: Trust, changed: dict[str, Any], message: str) -> None:
    trust.trust_at_azure()
    for attempt in (lambda: trust.source.check(trust.identity(**changed)), None):
        with pytest.raises(PolicyError) as refused:
            attempt() if attempt else await trust.fetch(**changed)
        assert message in refused.value.sentence + refused.value.detail
    assert trust.request_counts() == (0, 0)
    trust.source.check(trust.identity())


async def test_no_token_is_requested_unless_the_operator_enabled_federation(trust: Trust) -> None:
    trust.trust_at_azure()
    trust.source = trust.new_source(enabled=False)
    with pytest.raises(PolicyError, match="--federated-identities") as refused:
        await trust.fetch()
    assert "federated.enabled" in refused.value.detail
    assert trust.request_counts() == (0, 0)


async def test_a_deleted_service_account_proves_nothing_and_its_successor_is_trusted_by_name(
    trust: Trust,
) -> None:
    trust.trust_at_azure()
    trust.bench.kube.store.delete("serviceaccounts", "builder", NAMESPACE)
    with pytest.raises(NoAssertionError) as refused:
        await trust.fetch()
    assert refusal_of(refused.value).reason is Reason.UPSTREAM_REFUSED
    assert trust.request_counts()[1] == 0
    trust.bench.kube.store.create("serviceaccounts", {"metadata": {"name": "builder", "namespace": NAMESPACE}})
    trust.source = trust.new_source()  # half a second later
    assert (await trust.fetch()).token.access_token


async def test_a_pods_successor_does_not_use_its_assertion(trust: Trust) -> None:
    trust.trust_at_azure()
    trust.bench.kube.store.delete("pods", "web", NAMESPACE, grace_seconds=0)
    spec = {"serviceAccountName": "builder", "nodeName": "n0", "containers": [{"name": "c", "image": "i"}]}
    trust.bench.kube.store.create("pods", {"metadata": {"name": "web", "namespace": NAMESPACE}, "spec": spec})
    with pytest.raises(NoAssertionError):
        await trust.fetch()
    assert trust.request_counts()[1] == 0


async def test_no_assertion_is_logged_or_shown(trust: Trust, everything_logged: io.StringIO) -> None:
    seen: list[str] = []
    of = trust.source._assertions[Exchange.DIRECT].of

    async def noted(workload: Workload) -> Any:
        assertion = await of(workload)
        seen.append(assertion.token)
        assert assertion.token not in repr(assertion) + str(assertion)
        return assertion

    trust.source._assertions[Exchange.DIRECT].of = noted  # type: ignore[method-assign]
    with pytest.raises(UntrustedError) as refused:
        await trust.fetch()
    trust.trust_at_azure()
    await trust.fetch()
    output = (
        everything_logged.getvalue() + repr(refused.value) + str(vars(refused.value)) + str(refusal_of(refused.value))
    )
    assert len(seen) == 2
    assert all(read_claims(assertion)["sub"] for assertion in seen)
    assert not [assertion for assertion in seen if assertion in output or assertion.split(".")[2] in output]


@pytest.mark.parametrize(("pod", "account"), [("stranger", "stranger"), ("nmi", "aad-pod-identity-nmi")])
async def test_another_pods_service_account_is_not_trusted_for_the_identity(
    trust: Trust, pod: str, account: str
) -> None:
    """AKS's webhook mounts a token of NMI's own service account. No federated credential names that account."""
    trust.trust_at_azure()
    with pytest.raises(UntrustedError) as refused:
        await trust.fetch(trust.bench.pod(pod, account))
    assert "AADSTS700213" in refusal_of(refused.value).sentence
    assert (await trust.fetch()).token.access_token
