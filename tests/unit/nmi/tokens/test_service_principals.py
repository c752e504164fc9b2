"""Tokens by secret and by certificate, from an AAD that verifies them; few sign-ins for many pods, and none for others.

Excluded: refusals before any read (`test_sign_in_policy.py`), and failures (`test_sign_in_failures.py`).
"""

import asyncio
import math

import pytest
from aiohttp import web
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from nmi.identity.request import TokenRequest
from nmi.tokens.broker import TokenBroker
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.governor import Governor
from nmi.tokens.metrics import TokenMetrics
from nmi.tokens.secrets import VERSIONS_MAX, Secrets
from nmi.tokens.sign_in import InvalidClient
from nmi.tokens.sign_ins import PER_NAMESPACE
from podidentity.azure import clouds
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.errors import AzureError
from podidentity.resources import SecretReference
from podidentity_sandbox.serving import ResponseFault
from podidentity_sandbox.tokens import read_claims
from tests.support.nmi.tokens.sign_in_bench import (
    NAMESPACE,
    RESOURCE,
    Bench,
    Hanging,
    certificate_of,
    claims,
    pfx_of,
    rsa_key,
    running,
)
from tests.support.waiting import until


async def test_a_secret_yields_a_token_of_the_principal(bench: Bench) -> None:
    principal = bench.directory.add_principal(secret="s3cret+/=&%")
    # The first key in alphabetical order holds the secret.
    version = bench.put_secret(b=b"wrong", a=b"s3cret+/=&%", c=b"wrong")
    granted = await bench.fetch(bench.identity(principal))
    token_claims = claims(granted)
    assert (token_claims["appid"], token_claims["aud"], token_claims["tid"]) == (
        principal.client_id,
        RESOURCE,
        bench.directory.tenant_id,
    )
    token = granted.token
    assert (token.resource, token.client_id, token.token_type) == (RESOURCE, principal.client_id, "Bearer")
    assert (token.not_before, token.ext_expires_in, granted.expires_in) == (token_claims["nbf"], "3600", 3600)
    assert token.expires_on == token_claims["exp"]
    assert (granted.object_id, granted.credential, granted.auxiliary) == (principal.object_id, version, ())
    assert bench.observed == [None]


async def test_the_resource_is_never_trimmed(bench: Bench) -> None:
    principal = bench.principal("x")
    granted = await bench.fetch(bench.identity(principal), "https://management.azure.com/")
    assert bench.aad.calls[-1].scope == "https://management.azure.com//.default"
    assert claims(granted)["aud"] == "https://management.azure.com/"


@pytest.mark.parametrize("password", [b"", b"p4ss w\xc3\xb6rd"], ids=["open", "with-a-password"])
async def test_a_certificate_signs_in_its_principal(bench: Bench, password: bytes) -> None:
    certificate = certificate_of(rsa_key())
    principal = bench.directory.add_principal(certificate=certificate)
    values = {"certificate": pfx_of(rsa_key(), certificate, password), **({"password": password} if password else {})}
    version = bench.put_secret(**values)
    granted = await bench.fetch(bench.identity(principal, type=2))
    assert claims(granted)["appid"] == principal.client_id
    assert (bench.aad.calls[-1].proof, granted.credential) == ("PS256", version)


async def test_a_renewed_certificate_with_a_trusted_subject_requires_no_registration(bench: Bench) -> None:
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key(), "old"))
    renewed = certificate_of(rsa_key(), "vault.example")
    bench.put_secret(certificate=pfx_of(rsa_key(), renewed))
    application = bench.directory.application(principal.client_id)
    assert application is not None
    application.subjects.add("CN=vault.example")
    assert claims(await bench.fetch(bench.identity(principal, type=2)))["appid"] == principal.client_id


@pytest.mark.parametrize("path", ["", "/adfs"], ids=["bare", "as-a-stack-describes-itself"])
async def test_a_sign_in_at_adfs_uses_the_algorithm_that_adfs_supports(path: str) -> None:
    own = clouds.Cloud("Stack", f"https://login.microsoftonline.us{path}", "", "", frozenset())
    certificate = certificate_of(rsa_key())
    async with running(Bench(cloud=own)) as bench:
        principal = bench.directory.add_principal(certificate=certificate)
        bench.directory.add_tenant("adfs")
        bench.directory.consent(principal.client_id, "adfs")
        bench.put_secret(certificate=pfx_of(rsa_key(), certificate))
        await bench.fetch(bench.identity(principal, type=2, tenant_id="adfs", ad_endpoint=""))
        call = bench.aad.calls[-1]
        assert (call.path, call.tenant, call.proof) == ("/adfs/oauth2/token", "adfs", "RS256")


@pytest.mark.parametrize("type_", [1, 2], ids=["secret", "certificate"])
async def test_each_auxiliary_tenant_yields_a_token_after_the_primary_one(bench: Bench, type_: int) -> None:
    certificate = certificate_of(rsa_key())
    principal = bench.directory.add_principal(secret="x", certificate=certificate)
    others = [bench.directory.add_tenant(), bench.directory.add_tenant(domain="contoso.example")]
    for other in others:
        bench.directory.consent(principal.client_id, other)
    bench.put_secret(**({"k": b"x"} if type_ == 1 else {"certificate": pfx_of(rsa_key(), certificate)}))
    respond, together = bench.aad.handle, asyncio.Barrier(3)
    lives = {bench.directory.tenant_id: 3600, others[0]: 1200, "contoso.example": 2400}

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        await together.wait()  # passes only when all three are asked at once
        bench.aad.token_seconds = lives[request.path.split("/")[1]]
        return await respond(request)

    bench.aad.handle = hold  # type: ignore[method-assign]
    named = [others[0], "contoso.example"]
    granted = await bench.fetch(bench.identity(principal, type=type_, auxiliary_tenant_ids=named))
    tenants = [read_claims(token.access_token)["tid"] for token in (granted.token, *granted.auxiliary)]
    assert tenants == [bench.directory.tenant_id, *others]
    assert granted.expires_in == 1200
    assert bench.secret_reads == 1


async def test_client_capabilities_are_sent_to_azure(bench: Bench) -> None:
    principal = bench.principal("x")
    granted = await bench.fetch(bench.identity(principal), xms_cc="cp1, protapi")
    assert (claims(granted)["xms_cc"], granted.expires_in) == (["cp1", "protapi"], 86_400)
    assert "xms_cc" not in claims(await bench.fetch(bench.identity(principal)))
    assert (len(bench.aad.calls), bench.secret_reads) == (2, 2), "every fetch signs in"


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("", "login.microsoftonline.com"),
        ("HTTPS://Login.microsoftonline.US", "login.microsoftonline.us"),
    ],
    ids=["the-clouds-own", "government-in-odd-case"],
)
async def test_the_authority_is_the_clouds_or_the_named_one(bench: Bench, endpoint: str, host: str) -> None:
    principal = bench.principal("x")
    await bench.fetch(bench.identity(principal, ad_endpoint=endpoint))
    assert bench.hosts == [host]


REQUEST = TokenRequest(RESOURCE)


def broker_of(bench: Bench) -> TokenBroker:
    return TokenBroker({1: bench.source, 2: bench.source}, Governor(), TokenMetrics(CollectorRegistry()))


def named(name: str) -> SecretReference:
    return SecretReference(name=name, namespace=NAMESPACE)


async def test_a_hundred_requests_read_the_secret_once_and_sign_in_once(bench: Bench) -> None:
    principal = bench.principal("x")
    broker, identity = broker_of(bench), bench.identity(principal)
    tokens = await asyncio.gather(*(broker.token(identity, REQUEST, f"team-a/{pod}") for pod in range(100)))
    assert len({cached.token.access_token for cached in tokens}) == 1
    assert (bench.secret_reads, len(bench.aad.calls)) == (1, 1)
    assert (await broker.token(identity, REQUEST, "team-a/late")).token == tokens[0].token
    assert (bench.secret_reads, len(bench.aad.calls)) == (1, 1)


async def test_concurrently_requested_principals_each_get_their_own_token(bench: Bench) -> None:
    broker, client_ids, fetching = broker_of(bench), [], []
    for number in range(20):
        principal = bench.directory.add_principal(secret=f"secret {number}")
        bench.put_secret(f"sp-{number}", k=f"secret {number}".encode())
        identity = bench.identity(principal, client_password=named(f"sp-{number}"))
        client_ids.append(principal.client_id)
        fetching.append(broker.token(identity, REQUEST, f"team-a/{number}"))
    tokens = await asyncio.gather(*fetching)
    assert [read_claims(cached.token.access_token)["appid"] for cached in tokens] == client_ids


async def test_a_namespace_with_many_secrets_forgets_only_its_own_versions(bench: Bench) -> None:
    principal = bench.directory.add_principal(secret="x")
    application = SignInPolicy(PUBLIC).application(bench.identity(principal, ad_endpoint=""))
    secrets = Secrets(bench.client)
    secrets.accept(application, "uid/1")
    for number in range(VERSIONS_MAX + 10):
        evil = replace(application, namespace="evil", secret_namespace="evil", secret_name=f"sp-{number}")
        secrets.accept(evil, "uid/2")
    assert secrets.accepted_version(application) == "uid/1"
    assert secrets.accepted_version(evil) == "uid/2"
    assert len(secrets._versions) == VERSIONS_MAX


async def test_a_foreign_client_id_neither_joins_its_sign_in_nor_uses_its_token_in_an_outage(
    bench: Bench,
) -> None:
    principal = bench.principal("x")
    bench.put_secret("guess", k=b"guessed")
    bench.source = bench.new_source(retry_delays=())
    broker = broker_of(bench)
    own, guessing = bench.identity(principal), bench.identity(principal, client_password=named("guess"))
    async with Hanging(bench):
        owner, guesser = (
            asyncio.create_task(broker.token(identity, REQUEST, f"team-a/{pod}"))
            for identity, pod in ((own, "owner"), (guessing, "guesser"))
        )
        await asyncio.sleep(1.0)
    assert (await owner).token.access_token
    with pytest.raises(InvalidClient, match="team-a/guess"):
        await guesser
    request = TokenRequest("https://storage.azure.com")
    await broker.token(own, request, "team-a/owner")
    bench.aad.faults.add(ResponseFault(status=503, times=math.inf))
    with pytest.raises(AzureError):
        await broker.token(guessing, request, "team-a/guesser")
    assert (await broker.token(own, request, "team-a/owner")).token.access_token


async def test_one_namespace_holds_at_most_its_share_of_the_limit(bench: Bench) -> None:
    """The endpoint hangs; an identity of another namespace is still served."""
    principal = bench.principal("x")
    respond, go_on, waiting = bench.aad.handle, asyncio.Event(), 0

    async def hanging_for_some(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal waiting
        if "slow" in str((await request.post()).get("scope")):
            waiting += 1
            await go_on.wait()
        return await respond(request)

    bench.aad.handle = hanging_for_some  # type: ignore[method-assign]
    identity = bench.identity(principal)
    slow = [
        asyncio.create_task(bench.fetch(identity, f"https://slow/{number}", charged=f"team-a/{number}"))
        for number in range(3 * 4)
    ]
    await until(lambda: waiting >= PER_NAMESPACE)
    bench.put_secret("sp", "team-b", k=b"x")
    other = bench.identity(principal, client_password=SecretReference(name="sp"))
    of_another_team = type(other)(metadata=type(other.metadata)(name="id", namespace="team-b"), spec=other.spec)
    assert (await bench.fetch(of_another_team)).token.access_token
    assert waiting == PER_NAMESPACE
    go_on.set()
    assert len({(await task).token.access_token for task in slow}) == 12
