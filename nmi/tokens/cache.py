"""The broker's caches: tokens until they expire, refusals for ten seconds, object ids. All are bounded.

This module neither fetches nor reads a clock.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from math import inf
from typing import Final

from _native.ready_responses import Usage
from nmi.tokens.namespace_table import NamespaceTable
from nmi.tokens.source import FetchedToken, Token, TokenKey
from podidentity.azure.errors import AzureError
from podidentity.telemetry.logs import redacted

SOON_SECONDS: Final = 300.0
"""A token with less remaining lifetime is served only if no fresher one is available: SDKs treat it as expired."""

TOKENS_MAX: Final = 2048
TOKENS_PER_IDENTITY: Final = 64
TOKENS_PER_POD: Final = 16
"""For identities whose tokens belong to one pod: the number of ready responses of a pod."""
REFUSALS_MAX: Final = 512
REFUSAL_SECONDS: Final = 10.0
OBJECT_IDS_MAX: Final = 1024
STATE_MAX: Final = 200
RESOURCE_SHOWN: Final = 128
"""Characters of an audience in the state. Pods choose audiences."""

RETRY_FLOOR_SECONDS: Final = 30.0
"""The minimum time between two refreshes of one token."""

AGAIN_SECONDS: Final = 2.0
"""The lifetime of a ready response whose token is due for a refresh."""


class CachedToken:
    """A token and its times, in seconds of the broker's monotonic clock."""

    __slots__ = (
        "_usage_before",
        "auxiliary",
        "correlation",
        "expires_at",
        "fetched_at",
        "fetched_ns",
        "key",
        "refresh_at",
        "token",
        "usage",
    )

    def __init__(
        self, fetched: FetchedToken, now: float, wall_now: float, jitter: float, usage: Usage, *, now_ns: int = 0
    ) -> None:
        """*jitter* is a factor around 1 for the pause before the refresh. *now_ns* is *now* by the clock of *usage*."""
        self.token: Token = fetched.token
        self.auxiliary: tuple[Token, ...] = fetched.auxiliary
        self.correlation = fetched.correlation
        self.key: TokenKey | None = None
        """The key in the cache; None until the token is in the cache."""
        self.fetched_at = now
        self.fetched_ns = now_ns
        expires_on = min(token.expires_on for token in (fetched.token, *fetched.auxiliary))
        # The earliest expiry counts, so that neither a wrong wall clock nor a response from IMDS's own cache makes a
        # token look younger than it is, and no auxiliary token expires before the cached one.
        self.expires_at = now + min(fetched.expires_in, expires_on - wall_now)
        self.refresh_at = now + _refresh_pause(self.expires_at - now, jitter)
        self.usage = usage
        """Shared with the ready responses of this token, and passed to its successor."""
        self._usage_before = usage.last_ns

    @property
    def used(self) -> bool:
        """Whether a pod has requested the token again since it was fetched."""
        # The time of the last use, because the decision log resets the count.
        return self.usage.last_ns != self._usage_before

    @property
    def last_used_ns(self) -> int:
        """The time of the last request or fetch, by the clock of `usage`. The fast lane's requests count."""
        return max(self.usage.last_ns, self.fetched_ns)

    def left(self, now: float) -> float:
        """Return the remaining lifetime in seconds."""
        return self.expires_at - now

    def fresh_until(self, now: float) -> float:
        """Return the time until which a ready response created now may be served without the broker."""
        briefly = min(now + AGAIN_SECONDS, self.expires_at)
        if self.left(now) <= SOON_SECONDS:
            return briefly
        # The refresh begins at refresh_at: until it ends, a request that left the fast lane would get the same token.
        return max(min(self.refresh_at + RETRY_FLOOR_SECONDS, self.expires_at - SOON_SECONDS), briefly)

    def refresh_in(self, seconds: float, now: float) -> None:
        """Bring the refresh forward to *seconds* from now, 1 at least."""
        self.refresh_at = min(self.refresh_at, now + max(seconds, 1.0))

    def postpone(self, now: float, jitter: float) -> None:
        """Postpone the refresh after a failed one: the shorter the remaining lifetime, the sooner the next attempt."""
        self.refresh_at = now + min(max(self.left(now) / 8, RETRY_FLOOR_SECONDS), SOON_SECONDS) * jitter


def _refresh_pause(left: float, jitter: float) -> float:
    """Return half of the remaining lifetime, at least five minutes, but before the last five minutes if possible."""
    pause = max(left / 2, SOON_SECONDS) * jitter
    latest = max(left - SOON_SECONDS - RETRY_FLOOR_SECONDS, min(RETRY_FLOOR_SECONDS, left / 2))
    return max(min(pause, latest), 1.0)


def shown_identity(key: TokenKey) -> str:
    """Return the identity of *key* for operators: its type, and the redacted client id or the resource's name."""
    return f"type {key.type} {redacted(key.client_id) if key.client_id else key.resource_id.rpartition('/')[2][:64]}"


class TokenCache:
    """Tokens by key, with a limit in total and per identity. The least recently used token of one or the other goes.

    Because of the limit per identity, a pod that requests many audiences or capabilities evicts only tokens of its own
    identities; because the namespace with the most loses a token at the limit in total, the author of many identities
    evicts only tokens of its own namespace.
    """

    def __init__(self, most: int = TOKENS_MAX, most_per_identity: int = TOKENS_PER_IDENTITY) -> None:
        """*most_per_identity*: the limit for an identity that all its pods share."""
        self._most_per_identity = most_per_identity
        self._table: NamespaceTable[TokenKey, CachedToken] = NamespaceTable(most, last_used=_last_used_ns)
        self._tokens = self._table.view
        self._keys: dict[tuple[object, ...], dict[TokenKey, None]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, key: TokenKey, now: float) -> CachedToken | None:
        """Return the token; drop an expired one and return None. Not a use."""
        cached = self._tokens.get(key)
        if cached is None:
            return None
        if cached.left(now) <= 0.0:
            self.forget(key)
            return None
        return cached

    def use(self, key: TokenKey, namespace: str) -> None:
        """Note a use of the token of *key* by a pod with an AzureIdentity of *namespace*."""
        cached = self._tokens.get(key)
        if cached is not None:
            # The broker's own hits count like those of the fast lane, which notes them in `usage` only.
            cached.usage.touch()
            self._table.use(key, namespace)

    def predecessor(self, key: TokenKey, now: float) -> CachedToken | None:
        """Return a valid token of another version of the same Secret; None for identities without one."""
        if not key.credential:
            return None
        for sibling in self._keys.get(key.identity, ()):
            cached = self._tokens[sibling]
            # The Secret's version is the only difference, so the token is of the same identity and audience.
            if sibling != key and sibling.lasting == key.lasting and cached.left(now) > 0.0:
                return cached
        return None

    def of_pod(self, uid: str) -> list[TokenKey]:
        """Return the keys of the tokens of this pod only; for an empty *uid*, those of shared tokens."""
        # A scan: a pod is removed rarely, and the cache has TOKENS_MAX tokens at most.
        return [key for keys in self._keys.values() for key in keys if key.pod == uid]

    def soonest_expiry(self, now: float, used_since_ns: int) -> float:
        """Return the seconds to the first expiry of a token in use, at least 0; infinity if none is in use.

        A token without a second request is not refreshed, and one whose pods are gone cannot be: so a token is in use
        if it was requested again, and at *used_since_ns* of the ready responses' clock or later.
        """
        return min((max(cached.left(now), 0.0) for cached in self._in_use(used_since_ns)), default=inf)

    def oldest_age(self, now: float, used_since_ns: int) -> float:
        """Return the seconds since the fetch of the oldest token in use, as in `soonest_expiry`; 0 if none is."""
        return max((now - cached.fetched_at for cached in self._in_use(used_since_ns)), default=0.0)

    def _in_use(self, used_since_ns: int) -> Iterator[CachedToken]:
        return (cached for cached in self._tokens.values() if cached.used and cached.usage.last_ns >= used_since_ns)

    def state(self, now: float) -> list[dict[str, object]]:
        """Return the state for /debug/state: JSON-able, at most STATE_MAX tokens, the most recently used first."""
        return [
            {
                "identity": shown_identity(key),
                "resource": key.resource[:RESOURCE_SHOWN],
                "age_seconds": round(now - cached.fetched_at),
                "left_seconds": round(cached.left(now)),
                "refresh_in_seconds": round(cached.refresh_at - now),
                "used": cached.used,
            }
            for key, cached in islice(self.newest(), STATE_MAX)
        ]

    def peek(self, key: TokenKey) -> CachedToken | None:
        """Return the token, valid or expired, without counting a use."""
        return self._tokens.get(key)

    def newest(self) -> list[tuple[TokenKey, CachedToken]]:
        """Return all tokens, the most recently used first."""
        return sorted(self._tokens.items(), key=lambda item: item[1].last_used_ns, reverse=True)

    def shared_key(self, key: TokenKey) -> TokenKey:
        """Return the cache's own object equal to *key* if a token has this key, so that callers share its memory."""
        cached = self._tokens.get(key)
        return key if cached is None or cached.key is None else cached.key

    def keep(self, key: TokenKey, cached: CachedToken, namespace: str) -> list[TokenKey]:
        """Store *cached*, fetched for an AzureIdentity of *namespace*; it replaces tokens of older versions of its
        Secret. Return the dropped keys.
        """
        key = self.shared_key(key)
        self._table.put(key, cached, namespace)
        cached.key = key
        # By identity, so that a pod with many audiences evicts tokens of its own identities only.
        siblings = self._keys.setdefault(key.identity, {})
        siblings[key] = None
        gone = (
            [sibling for sibling in siblings if sibling != key and sibling.lasting == key.lasting]
            if key.credential
            else []
        )
        for sibling in gone:
            self.forget(sibling)
        crowded = self._table.surplus()
        if len(siblings) > (TOKENS_PER_POD if key.pod else self._most_per_identity):
            # Only one token was added, so removing this one is also enough for the limit in total.
            crowded = min(siblings, key=lambda sibling: self._tokens[sibling].last_used_ns)
        if crowded is not None:
            self.forget(crowded)
            gone.append(crowded)
        return gone

    def forget(self, key: TokenKey) -> None:
        if self._table.pop(key) is None:
            return
        siblings = self._keys[key.identity]
        del siblings[key]
        if not siblings:
            del self._keys[key.identity]


def _last_used_ns(cached: CachedToken) -> int:
    return cached.last_used_ns


class Refusals:
    """Recent refusals: a pod that repeats a refused request in a loop causes no further calls."""

    def __init__(self, most: int = REFUSALS_MAX, seconds: float = REFUSAL_SECONDS) -> None:
        self._seconds = seconds
        self._refusals: NamespaceTable[TokenKey, tuple[float, AzureError]] = NamespaceTable(most)

    def __len__(self) -> int:
        return len(self._refusals)

    def find(self, key: TokenKey, now: float, not_before: float) -> AzureError | None:
        """Return the refusal unless it is too old, or older than *not_before* (when the identity became usable)."""
        refused_at, error = self._refusals.view.get(key, (0.0, None))
        # IMDS refuses an identity that it does not know yet, so an earlier refusal proves nothing.
        if error is None or now - refused_at >= self._seconds or refused_at < not_before:
            return None
        return error.again()

    def keep(self, key: TokenKey, now: float, error: AzureError, namespace: str) -> None:
        """Store *error*, the refusal of a fetch for an AzureIdentity of *namespace*."""
        self._refusals.put(key, (now, error.again()), namespace)
        self._refusals.trim()

    def forget(self, key: TokenKey) -> None:
        self._refusals.pop(key)


class ObjectIds:
    """Object ids by lower-case client id, learnt from tokens."""

    def __init__(self, most: int = OBJECT_IDS_MAX) -> None:
        self._ids: NamespaceTable[str, str] = NamespaceTable(most)
        self.view: Mapping[str, str] = self._ids.view

    def learn(self, client_id: str, object_id: str, namespace: str) -> None:
        """Store *object_id*, learnt from a token of an AzureIdentity of *namespace*."""
        if client_id and object_id:
            key = client_id.lower()
            if self._ids.use(key, namespace) != object_id:
                self._ids.put(key, object_id, namespace)
                self._ids.trim()
