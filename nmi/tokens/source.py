"""What a source of tokens is, one per type of AzureIdentity. `user_assigned` is type 0; others come beside it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nmi.tokens.token import Token
from podidentity.resources import AzureIdentity

Slot = Callable[[], AbstractAsyncContextManager[object]]
"""Entered for each call to IMDS that the fetch makes; sources that do not call IMDS leave it alone."""


class TokenKey(NamedTuple):
    """Whatever makes two requests get the same token. No resource version: an annotation must not empty caches."""

    type: int
    client_id: str
    resource_id: str
    tenant: str
    endpoint: str
    resource: str
    xms_cc: str

    @property
    def identity(self) -> tuple[object, ...]:
        """The part that does not depend on the request."""
        return self[:5]


def key_of(identity: AzureIdentity, resource: str, xms_cc: str) -> TokenKey:
    """The key under which a token of *identity* is kept. Azure compares ids case-insensitively, audiences exactly."""
    spec = identity.spec
    return TokenKey(
        spec.type,
        spec.client_id.lower(),
        spec.resource_id.lower(),
        spec.tenant_id.lower(),
        spec.ad_endpoint.lower(),
        resource,
        xms_cc,
    )


@dataclass(frozen=True, slots=True)
class Granted:
    """A token as it came from its source."""

    token: Token
    expires_in: int
    """Seconds from now, as the source said: a node whose wall clock is wrong still knows how long it has."""
    object_id: str = ""
    """The identity's object id where the source told it, else empty."""


class TokenSource(Protocol):
    """Fetches tokens of one type of identity, from nowhere but upstream."""

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str,
        *,
        xms_cc: str,
        bypass_cache: bool,
        within: float,
        lag_seconds: float,
        slot: Slot,
    ) -> Granted:
        """A token, *within* so many seconds, retried as its endpoint's guidance has it.

        For *lag_seconds* "no such identity" may be taken for an endpoint that has not heard of it yet. Raises
        AzureError.
        """
