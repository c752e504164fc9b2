"""The exchange by AKS identity bindings over TLS: proxies that are hostile or not the right one, and stolen assertions.

Excluded: other tokens and refusals (`test_tokens_by_identity_bindings.py`), and the proxy's address and authority
(`test_exchanges.py`).
"""

import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from nmi.error_refusals import refusal_of
from nmi.refusal import Reason
from nmi.tokens.proxy_refusals import MissingStep
from nmi.tokens.token_proxy import ProxyUnreachable
from podidentity.azure.errors import AzureError
from podidentity.telemetry.logs import VALUE_MAX
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.token_proxy import SERVER_NAME
from tests.support.nmi.tokens.binding_bench import BindingBench, binding_bench, refused
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE, claims


async def test_the_address_of_the_proxy_may_be_of_ipv6(tmp_path: Path) -> None:
    async with binding_bench(tmp_path, "::1", loopback=True) as bound:
        assert bound.settings.url.startswith("https://[::1]:")
        assert claims(await bound.fetch())["appid"] == bound.managed.client_id
        (call,) = bound.proxy.calls
        assert (call.server_name, call.status) == (SERVER_NAME, 200)


async def test_a_token_of_a_deleted_pod_is_refused(bound: BindingBench) -> None:
    await bound.fetch()
    bound.bench.kube.store.delete("pods", "web", NAMESPACE, grace_seconds=0)
    error = await refused(bound)
    assert error.step is MissingStep.ASSERTION, "the assertion in the cache is bound to the pod"


async def test_another_server_name_reaches_the_api_server_and_the_refusal_names_the_variable(
    bound: BindingBench,
) -> None:
    """The front end of the API server routes by the name: a certificate for both shows that the name matters."""
    both = Authority("cluster")
    bound.ca_file.write_text(both.pem)
    await bound.proxy.stop()
    served = both.server_context((SERVER_NAME, "localhost"))
    served.sni_callback = _record_name
    await bound.proxy.start(ssl_context=served)
    bound.source = bound.new_source(bound.settings._replace(server_name="localhost"))
    error = await refused(bound)
    assert error.step is MissingStep.ADDRESS
    assert "AZURE_KUBERNETES_SNI_NAME" in refusal_of(error).detail
    assert "VNet integration" in refusal_of(error).detail
    bound.source = bound.new_source()
    assert (await bound.fetch()).token.access_token


def _record_name(connection: Any, name: str | None, _context: Any) -> None:
    connection.server_name = name


async def test_a_certificate_for_another_name_is_not_accepted(bound: BindingBench) -> None:
    bound.source = bound.new_source(bound.settings._replace(server_name="other.ests.aks"))
    with pytest.raises(ProxyUnreachable, match="certificate is not trusted") as error:
        await bound.fetch()
    assert refusal_of(error.value).reason is Reason.UPSTREAM_UNAVAILABLE
    assert "API server VNet integration" in refusal_of(error.value).detail
    assert bound.proxy.calls == []


async def test_the_machines_authorities_and_entra_ids_are_not_trusted_for_the_proxy(
    bound: BindingBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = tmp_path / "machine.pem"
    machines.write_text(bound.ca_file.read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(machines))  # of OpenSSL's defaults: the machine trusts the proxy
    bound.ca_file.write_text(Authority("another").pem)
    bound.source = bound.new_source()
    with pytest.raises(ProxyUnreachable, match="certificate is not trusted") as error:
        await bound.fetch()
    shown = refusal_of(error.value).detail[:VALUE_MAX]
    assert "its certificate is not trusted" in shown
    assert "AZURE_KUBERNETES_*" in shown
    assert bound.proxy.calls == []


async def test_a_rotated_authority_is_used_by_the_next_exchange_and_the_former_no_longer(bound: BindingBench) -> None:
    await bound.fetch()
    new = Authority("rotated")
    await bound.proxy.stop()
    await bound.proxy.serve(new)
    bound.source = bound.new_source()
    with pytest.raises(ProxyUnreachable):
        await bound.fetch()
    bound.ca_file.write_text(new.pem)
    assert (await bound.fetch()).token.access_token


async def test_a_file_that_is_empty_during_its_rotation_keeps_the_authority(bound: BindingBench) -> None:
    await bound.fetch()
    bound.ca_file.write_text("")
    assert (await bound.fetch()).token.access_token
    bound.ca_file.unlink()
    assert (await bound.fetch()).token.access_token


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(bound: BindingBench, status: int) -> None:
    seen: list[str] = []

    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        # A host with a trusted certificate, so that only the client's own rule prevents a second request.
        return web.Response(status=status, headers={"Location": f"{bound.proxy.url}/elsewhere"})

    bound.proxy.handle = redirect  # type: ignore[method-assign]
    with pytest.raises(AzureError):
        await bound.fetch()
    assert len(seen) == 1


@pytest.mark.parametrize("status", [None, 200, 403, 429, 503])
async def test_a_proxy_that_returns_no_token_never_causes_a_direct_exchange(
    bound: BindingBench, status: int | None
) -> None:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return web.Response(status=status or 200)

    bound.proxy.handle = respond  # type: ignore[method-assign]
    if status is None:
        await bound.proxy.stop()
    with pytest.raises(AzureError) as error:
        await bound.fetch()
    assert (isinstance(error.value, ProxyUnreachable) and "cannot connect" in str(error.value)) is (status is None)
    assert bound.bench.aad.calls == []


async def test_an_expired_assertion_is_refused(bound: BindingBench) -> None:
    now = time.time()
    await bound.fetch()
    for later, accepted in ((600.0, True), (1000.0, False)):
        bound.proxy._clock = lambda later=later: now + later  # type: ignore[misc]
        if accepted:
            assert (await bound.fetch()).token.access_token, "Entra ID and AKS allow five minutes of clock skew"
        else:
            assert (await refused(bound)).step is MissingStep.ASSERTION
