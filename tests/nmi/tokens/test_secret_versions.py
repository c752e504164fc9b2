"""Tokens of identities with a Secret: cached by its version, and rotated with it. Excluded: reading the Secret."""

import asyncio

import pytest

from nmi.identity.request import TokenRequest
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from nmi.tokens.token import Token
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.errors import Refused, Unreachable
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from tests.nmi.tokens.fakes import FORCE_REFRESH, REQUEST, RESOURCE, Bench, identity, wall
from tests.virtual_time import settle

HOUR = 3600.0
OTHER = TokenRequest(RESOURCE + "/other")


def principal(
    named: str = "sp", *, namespace: str = "", auxiliary: list[str] | None = None, own: str = "ns"
) -> AzureIdentity:
    return AzureIdentity(
        metadata=Meta(name="sp", namespace=own),
        spec=AzureIdentitySpec(
            type=1,
            client_id="c11e0000-0000-0000-0000-00000000000a",
            tenant_id="7e2a0000-0000-0000-0000-000000000000",
            client_password=SecretReference(name=named, namespace=namespace),
            auxiliary_tenant_ids=auxiliary,
        ),
    )


@pytest.mark.parametrize(
    "other",
    [
        principal("other"),
        principal(namespace="other"),
        principal(own="other"),
        principal(auxiliary=["7e2a0000-0000-0000-0000-000000000001"]),
    ],
    ids=["secret", "secret's-namespace", "own-namespace", "auxiliary-tenant"],
)
def test_the_same_client_with_another_secret_or_tenant_shares_no_token(other: AzureIdentity) -> None:
    policy = SignInPolicy(PUBLIC, allow_cross_namespace=True)
    key, another = policy.application(principal()).key(""), policy.application(other).key("")
    assert another != key
    assert policy.application(principal(namespace="ns")).key("") == key


async def test_a_rotation_replaces_token_and_timer_at_the_next_fetch() -> None:
    bench = Bench()
    bench.source.stored_version = "uid/1"
    first = await bench.token()
    assert await bench.token() == first
    bench.source.stored_version = "uid/2"
    assert await bench.token() == first
    second = await bench.token(FORCE_REFRESH)
    assert second != first
    assert await bench.token() == second
    assert [key.credential for key in bench.broker._timers] == ["uid/2"]
    assert len(bench.broker._tokens) == 1
    assert bench.broker.key_of(identity(), RESOURCE, "").credential == "uid/2"


async def test_a_refresh_during_a_rotation_leaves_nothing_of_the_old_version() -> None:
    bench = Bench()
    bench.source.stored_version = "uid/1"
    await bench.token()
    await bench.token()
    bench.source.stored_version = "uid/2"
    await asyncio.sleep(12.5 * HOUR)
    assert [key.credential for key in bench.broker._timers] == ["uid/2"]
    assert len(bench.broker._tokens) == 1
    sent = bench.source.sent
    await bench.token()
    assert bench.source.sent == sent


async def test_after_a_rotation_each_audience_is_fetched_once_with_the_new_version() -> None:
    bench = Bench()
    bench.source.stored_version = "uid/1"
    await bench.token()
    old = await bench.token(OTHER)
    bench.source.stored_version = "uid/2"
    await bench.token(FORCE_REFRESH)
    assert await bench.token(OTHER) != old
    assert bench.source.sent == 4
    await bench.token()
    await bench.token(OTHER)
    assert bench.source.sent == 4
    assert {key.credential for key in bench.broker._timers} == {"uid/2"}


async def test_requests_during_the_first_fetch_after_a_rotation_share_it() -> None:
    bench = Bench()
    bench.source.stored_version = "uid/1"
    bench.source.gate.clear()
    first = asyncio.create_task(bench.token())
    await settle()
    # The source knows the version by now, so the key that a request computes is another than the flight's.
    assert bench.source.version == "uid/1"
    second = asyncio.create_task(bench.token(pod="ns/b"))
    await settle()
    bench.source.gate.set()
    assert await first == await second
    assert bench.source.sent == 1


async def test_while_the_endpoint_is_down_a_token_of_the_old_version_is_still_served() -> None:
    bench = Bench()
    bench.source.stored_version = "uid/1"
    old = await bench.token()
    bench.source.version = "uid/2"
    bench.source.stored_version = "uid/2"
    bench.source.failures = [Unreachable("down"), Refused("the new secret is wrong", status=401)]
    assert await bench.token() == old
    assert bench.measures.stale_served == 1
    with pytest.raises(Refused):
        await bench.token()


async def test_the_policy_is_checked_first_for_each_request() -> None:
    bench = Bench()
    await bench.token()
    bench.source.forbidden = PolicyError("not here", "see --some-flag")
    with pytest.raises(PolicyError):
        await bench.token()
    assert bench.source.sent == 1
    bench.source.forbidden = None
    assert await bench.token() == "token-1"


async def test_a_result_of_several_tenants_expires_with_its_first_token() -> None:
    bench = Bench()
    further = Token("further", int(wall()) + 1200, 0, RESOURCE, "c")
    bench.source.auxiliary = (further,)
    cached = await bench.broker.token(identity(), REQUEST, "ns/a")
    assert cached.auxiliary == (further,)
    assert cached.left(cached.fetched_at) == pytest.approx(1200.0, abs=1.0)
    assert cached.correlation == "call-1"
