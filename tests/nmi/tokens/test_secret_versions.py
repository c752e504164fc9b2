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


async def test_a_rotation_replaces_token_and_timer_at_the_next_fetch(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    first = await fake.token()
    assert await fake.token() == first
    fake.source.stored_version = "uid/2"
    assert await fake.token() == first
    second = await fake.token(FORCE_REFRESH)
    assert second != first
    assert await fake.token() == second
    assert [key.credential for key in fake.broker._timers] == ["uid/2"]
    assert len(fake.broker._tokens) == 1
    assert fake.broker.key_of(identity(), RESOURCE, "").credential == "uid/2"


async def test_a_refresh_during_a_rotation_leaves_nothing_of_the_old_version(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    await fake.token()
    await fake.token()
    fake.source.stored_version = "uid/2"
    await asyncio.sleep(12.5 * HOUR)
    assert [key.credential for key in fake.broker._timers] == ["uid/2"]
    assert len(fake.broker._tokens) == 1
    sent = fake.source.sent
    await fake.token()
    assert fake.source.sent == sent


async def test_after_a_rotation_each_audience_is_fetched_once_with_the_new_version(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    await fake.token()
    old = await fake.token(OTHER)
    fake.source.stored_version = "uid/2"
    await fake.token(FORCE_REFRESH)
    assert await fake.token(OTHER) != old
    assert fake.source.sent == 4
    await fake.token()
    await fake.token(OTHER)
    assert fake.source.sent == 4
    assert {key.credential for key in fake.broker._timers} == {"uid/2"}


async def test_requests_during_the_first_fetch_after_a_rotation_share_it(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    fake.source.gate.clear()
    first = asyncio.create_task(fake.token())
    await settle()
    # The source knows the version by now, so the key that a request computes is another than the flight's.
    assert fake.source.version == "uid/1"
    second = asyncio.create_task(fake.token(pod="ns/b"))
    await settle()
    fake.source.gate.set()
    assert await first == await second
    assert fake.source.sent == 1


async def test_while_the_endpoint_is_down_a_token_of_the_old_version_is_still_served(fake: Bench) -> None:
    fake.source.stored_version = "uid/1"
    old = await fake.token()
    fake.source.version = "uid/2"
    fake.source.stored_version = "uid/2"
    fake.source.failures = [Unreachable("down"), Refused("the new secret is wrong", status=401)]
    assert await fake.token() == old
    assert fake.measures.stale_served == 1
    with pytest.raises(Refused):
        await fake.token()


async def test_the_policy_is_checked_first_for_each_request(fake: Bench) -> None:
    await fake.token()
    fake.source.forbidden = PolicyError("not here", "see --some-flag")
    with pytest.raises(PolicyError):
        await fake.token()
    assert fake.source.sent == 1
    fake.source.forbidden = None
    assert await fake.token() == "token-1"


async def test_a_result_of_several_tenants_expires_with_its_first_token(fake: Bench) -> None:
    further = Token("further", int(wall()) + 1200, 0, RESOURCE, "c")
    fake.source.auxiliary = (further,)
    cached = await fake.broker.token(identity(), REQUEST, "ns/a")
    assert cached.auxiliary == (further,)
    assert cached.left(cached.fetched_at) == pytest.approx(1200.0, abs=1.0)
    assert cached.correlation == "call-1"
