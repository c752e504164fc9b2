"""The exchange by AKS identity bindings: NMI's requests to a token proxy that checks them as AKS's does.

Excluded: the choice of the exchange (`test_exchanges.py`), and proxies that are hostile or not the right one
(`test_identity_bindings.py`).
"""

from unittest.mock import Mock

import pytest
from aiohttp import web

from nmi.error_refusals import refusal_of
from nmi.refusal import Reason
from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.source import NULL_OBSERVER
from nmi.tokens.token_proxy import ProxyFailed, ProxyThrottled, ProxyUnreachable
from podidentity.azure.errors import AzureError, Refused
from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity.telemetry.logs import VALUE_MAX
from podidentity_sandbox.serving import ResponseFault, json_response
from podidentity_sandbox.token_proxy import PREFIX, SERVER_NAME
from tests.support.nmi.tokens.binding_bench import BindingBench, refused
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE, RESOURCE, claims


async def test_a_permitted_service_account_gets_a_token_through_the_proxy_alone(bound: BindingBench) -> None:
    granted = await bound.fetch()
    got = claims(granted)
    assert (got["appid"], got["aud"], got["oid"]) == (bound.managed.client_id, RESOURCE, bound.managed.object_id)
    (call,) = bound.proxy.calls
    assert call.path == f"{PREFIX}/{bound.bench.directory.tenant_id}/oauth2/v2.0/token"
    assert (call.server_name, call.pod) == (SERVER_NAME, f"{NAMESPACE}/web")
    assert bound.bench.aad.calls == [], "no request to Entra ID"
    assert bound.bench.hosts == [], "no proxy and no other host"


async def test_the_permission_is_found_for_a_client_id_in_capitals(bound: BindingBench) -> None:
    identity = bound.identity(client_id=bound.managed.client_id.upper())
    granted = await bound.fetch(identity=identity)
    assert granted.token.client_id == bound.managed.client_id.upper(), "the response has the identity's spelling"
    assert bound.proxy.calls[0].client_id == bound.managed.client_id.lower()


async def test_any_number_of_service_accounts_share_one_federated_credential(bound: BindingBench) -> None:
    bound.permit(group=f"system:serviceaccounts:{NAMESPACE}")
    for number in range(25):
        assert (await bound.fetch(bound.bench.pod(f"pod-{number}", f"account-{number}"))).token.access_token
    assert len(bound.bench.directory.federated(bound.managed.client_id, float("inf"))) == 1


async def test_a_service_account_without_the_permission_is_refused_with_the_command_that_prints_the_objects(
    bound: BindingBench,
) -> None:
    error = await refused(bound, workload=bound.bench.pod("stranger", "stranger"))
    refusal = refusal_of(error)
    assert error.step is MissingStep.PERMISSION
    assert (refusal.reason, refusal.retry_after) == (Reason.UPSTREAM_REFUSED, None)
    assert "use-managed-identity" in refusal.sentence
    assert "podidctl explain pod prints" in refusal.sentence
    for part in (f"{NAMESPACE}/stranger", "ClusterRole", "podidctl explain pod prints"):
        assert part in refusal.detail[:VALUE_MAX]
    assert bound.managed.client_id not in refusal.sentence + refusal.detail
    assert len(bound.proxy.calls) == 1, "it was not tried again"


def test_the_log_names_the_command_for_the_longest_service_account() -> None:
    cause = Refused("no permission", status=403, sentence="x" * 999)
    error = NotBoundError(cause, MissingStep.PERMISSION, "client", f"{'n' * 63}/{'a' * 253}")
    refusal = refusal_of(error)
    assert "podidctl explain pod prints" in refusal.detail[:VALUE_MAX]
    assert len(refusal.sentence) < 600


async def test_a_removed_permission_is_refused_at_the_next_exchange(bound: BindingBench) -> None:
    await bound.fetch()
    bound.forbid("builder")
    assert (await refused(bound)).step is MissingStep.PERMISSION
    bound.bench.kube.store.delete("clusterroles.rbac.authorization.k8s.io", "use-builder")
    bound.permit("builder")
    assert (await bound.fetch()).token.access_token


async def test_an_identity_without_a_binding_is_held_and_then_refused_with_the_command(bound: BindingBench) -> None:
    bound.proxy.unbind(bound.managed.client_id)
    error = await refused(bound)
    assert error.step is MissingStep.IDENTITY_BINDING
    assert "az aks identity-binding create" in refusal_of(error).detail
    assert len(bound.proxy.calls) == 5, "it was tried again for as long as there was time"


async def test_a_credential_of_the_binding_that_entra_id_does_not_know_yet_is_waited_for(bound: BindingBench) -> None:
    bound.proxy.unbind(bound.managed.client_id)
    bound.proxy.bind(bound.managed.client_id, delay_seconds=3600)
    error = await refused(bound)
    assert (error.step, error.code) == (MissingStep.IDENTITY_BINDING, "AADSTS700211")


async def test_a_token_with_entra_ids_audience_is_refused_by_name(bound: BindingBench) -> None:
    bound.source = bound.new_source(audience=DIRECT_AUDIENCE)
    assert (await refused(bound)).step is MissingStep.AUDIENCE


@pytest.mark.parametrize(
    ("status", "kind", "reason", "sentence"),
    [
        (500, ProxyFailed, Reason.UPSTREAM_UNAVAILABLE, "The cluster's token proxy did not return a token; try again"),
        (429, ProxyThrottled, Reason.UPSTREAM_THROTTLED, "The cluster's token proxy limits token requests now"),
    ],
)
async def test_a_failure_is_reported_as_the_proxys_and_not_as_imds_s(
    bound: BindingBench, status: int, kind: type[AzureError], reason: Reason, sentence: str
) -> None:
    document = {"error": "internal", "error_description": "no capacity"}
    bound.proxy.faults.add(ResponseFault(status=status, document=document, headers={"Retry-After": "9"}, times=9))
    with pytest.raises(kind) as error:
        await bound.fetch(within=8.0)  # less than Retry-After
    refusal = refusal_of(error.value)
    assert (refusal.reason, refusal.retry_after) == (reason, 9.0)
    assert refusal.sentence.startswith(sentence)
    assert "token proxy" in refusal.detail
    assert "no capacity" in refusal.detail
    assert "IMDS" not in refusal.detail
    bound.proxy.faults.clear()
    bound.proxy.faults.add(ResponseFault(status=200, document={"token_type": "Bearer"}, times=9))
    with pytest.raises(ProxyFailed):
        await bound.fetch()
    bound.proxy.faults.clear()
    bound.proxy.faults.add(ResponseFault(status=503))
    assert (await bound.fetch()).token.access_token, "a transient failure is retried"


async def test_a_request_whose_time_ends_before_the_response_learns_that_the_proxy_is_silent(
    bound: BindingBench,
) -> None:
    waiter = Mock(wraps=NULL_OBSERVER)
    await bound.fetch(observer=waiter)
    waiter.awaiting.assert_called_once()
    (silence,) = waiter.awaiting.call_args.args
    assert isinstance(silence, ProxyUnreachable)
    assert refusal_of(silence).sentence.startswith("The cluster's token proxy did not respond")
    assert bound.proxy.host in refusal_of(silence).detail


@pytest.mark.parametrize(
    ("status", "body", "step"),
    [
        (403, b"denied by policy", MissingStep.PERMISSION),
        (404, b"<html>nothing</html>", MissingStep.IDENTITY_BINDING),
        (400, b"no identity binding for this identity", MissingStep.IDENTITY_BINDING),
        (401, b'{"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}', MissingStep.ADDRESS),
        (401, b'{"error": "invalid_client", "error_description": "bad audience"}', MissingStep.AUDIENCE),
        (401, b"\xff\xfe\x00", MissingStep.ASSERTION),
        (400, b'{"error": "invalid_scope", "error_description": "AADSTS1002012: scope"}', MissingStep.OTHER),
    ],
)
async def test_each_refusal_has_its_step(bound: BindingBench, status: int, body: bytes, step: MissingStep) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return web.Response(status=status, body=body)

    bound.proxy.handle = refuse  # type: ignore[method-assign]
    error = await refused(bound)
    assert error.step is step
    detail = refusal_of(error).detail
    assert detail.isprintable()
    assert ("type 0" in detail) is (step is MissingStep.ASSERTION), "AKS may accept no token that NMI requests"
    assert refusal_of(error.again()) == refusal_of(error)


async def test_a_refusal_that_repeats_the_assertion_does_not_reveal_it(bound: BindingBench) -> None:
    sent: list[str] = []

    async def repeat(request: web.BaseRequest) -> web.StreamResponse:
        sent.append(str((await request.post())["client_assertion"]))
        return json_response({"error": "invalid_client", "error_description": f"bad {sent[-1]}"}, status=401)

    bound.proxy.handle = repeat  # type: ignore[method-assign]
    with pytest.raises(Refused) as error:
        await bound.fetch()
    assert sent[0]
    assert sent[0] not in str(error.value) + str(refusal_of(error.value))


async def test_a_token_of_nmis_own_service_account_may_use_no_identity(bound: BindingBench) -> None:
    """AKS's webhook mounts such a token into NMI's pods. The permission of a whole namespace would include it."""
    nmi = bound.bench.pod("nmi", "aad-pod-identity-nmi")
    assert (await refused(bound, workload=nmi)).step is MissingStep.PERMISSION
    bound.permit(group=f"system:serviceaccounts:{NAMESPACE}")
    assert (await bound.fetch(nmi)).token.access_token, "so the chart refuses such a permission in NMI's namespace"
