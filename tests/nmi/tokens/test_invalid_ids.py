"""An AzureIdentity of type 0 with invalid ids causes no request to IMDS."""

import pytest

from nmi.tokens.source import PolicyError
from nmi.tokens.user_assigned import CLIENT_ID_MAX, RESOURCE_ID_MAX, UserAssignedSource
from podidentity.azure.imds import ImdsSource
from podidentity.http_client.session import HttpSession
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta

IDENTITY = (
    "/subscriptions/s/resourcegroups/\N{LATIN SMALL LETTER O WITH DIAERESIS}st/providers/"
    "Microsoft.ManagedIdentity/userAssignedIdentities/demo"
)


def named(client_id: str = "c", resource_id: str = "/r") -> AzureIdentity:
    spec = AzureIdentitySpec(client_id=client_id, resource_id=resource_id)
    return AzureIdentity(metadata=Meta(namespace="ns", name="i"), spec=spec)


async def test_an_overlong_or_malformed_id_is_refused_before_a_call_to_imds() -> None:
    async with HttpSession(connections=16, headers={}) as session:
        source = UserAssignedSource(ImdsSource(session, "http://127.0.0.1:1"), by_resource_id=False)
        for fine in (
            named(),
            named(client_id=" c\n"),
            named(client_id="c" * CLIENT_ID_MAX),
            named(resource_id="/" * RESOURCE_ID_MAX),
            named(resource_id=f" {IDENTITY}"),
        ):
            source.check(fine)
        for odd in (
            named(client_id="x\r\nHost: evil"),
            named(client_id="c\u0131"),
            named(client_id="c" * (CLIENT_ID_MAX + 1)),
            named(resource_id="/r\0"),
            named(resource_id=f"{IDENTITY}\u2044"),
            named(resource_id=IDENTITY.replace("st/", "st\u2028/")),
            named(resource_id="/" * (RESOURCE_ID_MAX + 1)),
        ):
            with pytest.raises(PolicyError) as raised:
                source.check(odd)
            assert "AzureIdentity ns/i has a" in raised.value.detail
            assert "evil" not in raised.value.detail
