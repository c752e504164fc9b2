"""Many pods with one service principal: few reads and sign-ins, and a limit for each namespace."""

import asyncio

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
from nmi.tokens.source import PolicyError
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.errors import AzureError
from podidentity.resources import SecretReference
from tests.nmi.tokens.sign_in_bench import NAMESPACE, RESOURCE, Bench
from tests.support.waiting import until

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


async def test_a_foreign_client_id_without_its_secret_gets_nothing(bench: Bench) -> None:
    principal = bench.principal("x")
    bench.put_secret("guess", k=b"guessed")
    broker = broker_of(bench)
    await broker.token(bench.identity(principal), REQUEST, "team-a/owner")
    with pytest.raises(InvalidClient, match="team-a/guess"):
        await broker.token(bench.identity(principal, client_password=named("guess")), REQUEST, "team-a/guesser")
    with pytest.raises(PolicyError):
        await broker.token(bench.identity(principal, client_password=None), REQUEST, "team-a/lazy")


async def test_identities_that_differ_only_in_what_the_type_ignores_share_one_sign_in(bench: Bench) -> None:
    principal = bench.principal("x")
    broker = broker_of(bench)
    own = bench.identity(principal)
    changed: tuple[dict[str, str], ...] = (
        *({"resource_id": f"/subscriptions/s/{number}"} for number in range(3)),
        {"client_id": f" {own.spec.client_id.upper()} "},
        {"tenant_id": f"{own.spec.tenant_id}\n"},
        {"ad_endpoint": bench.aad.url},
    )
    for each in changed:
        await broker.token(bench.identity(principal, **each), REQUEST, "team-a/one")
    assert len(bench.aad.calls) == 1


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
    answer, go_on, asked = bench.aad.handle, asyncio.Event(), 0

    async def waiting(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await go_on.wait()
        return await answer(request)

    async def down(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503)

    bench.source = bench.new_source(retry_delays=())
    broker = broker_of(bench)
    guessing = bench.identity(principal, client_password=named("guess"))
    bench.aad.handle = waiting  # type: ignore[method-assign]
    owner = asyncio.create_task(broker.token(bench.identity(principal), REQUEST, "team-a/owner"))
    guesser = asyncio.create_task(broker.token(guessing, REQUEST, "team-a/guesser"))
    await until(lambda: asked >= 2)
    go_on.set()
    assert (await owner).token.access_token
    with pytest.raises(InvalidClient):
        await guesser
    other = TokenRequest("https://vault.azure.net")
    await broker.token(bench.identity(principal), other, "team-a/owner")
    bench.aad.handle = down  # type: ignore[method-assign]
    with pytest.raises(AzureError):
        await broker.token(guessing, other, "team-a/guesser")
    assert (await broker.token(bench.identity(principal), other, "team-a/owner")).token.access_token


async def test_one_namespace_holds_at_most_its_share_of_the_limit(bench: Bench) -> None:
    """The endpoint hangs; an identity of another namespace is still served."""
    principal = bench.principal("x")
    answer, go_on, waiting = bench.aad.handle, asyncio.Event(), 0

    async def hanging_for_some(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal waiting
        if "slow" in str((await request.post()).get("scope")):
            waiting += 1
            await go_on.wait()
        return await answer(request)

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
    assert len({(await each).token.access_token for each in slow}) == 12
