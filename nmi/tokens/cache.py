"""What the broker remembers: tokens while they live, refusals for ten seconds, object ids. All of it bounded.

Values and bookkeeping only: nothing here fetches, and nothing here reads a clock.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from math import inf
from types import MappingProxyType
from typing import Final

from _native.answers import Usage
from nmi.tokens.source import Granted, TokenKey
from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError
from podidentity.telemetry.logs import redacted

SOON_SECONDS: Final = 300.0
"""A token with less than this to live is served only when no fresher one can be had: SDKs treat it as expired."""

TOKENS_MAX: Final = 2048
TOKENS_PER_IDENTITY: Final = 64
TOKENS_PER_POD: Final = 16
"""Of an identity whose tokens are each pod's own: as many as a pod has ready answers."""
REFUSALS_MAX: Final = 512
REFUSAL_SECONDS: Final = 10.0
OBJECT_IDS_MAX: Final = 1024
STATE_MAX: Final = 200
RESOURCE_SHOWN: Final = 128
"""Characters of an audience, which a pod chooses, that are shown."""

RETRY_FLOOR_SECONDS: Final = 30.0
"""The shortest pause between two refreshes of one token ahead of need."""

AGAIN_SECONDS: Final = 2.0
"""How soon a ready answer asks again that is made of a token whose successor is due."""


class CachedToken:
    """A token and its times, by the broker's monotonic clock, in seconds."""

    __slots__ = (
        "_usage_before",
        "auxiliary",
        "correlation",
        "expires_at",
        "fetched_at",
        "key",
        "refresh_at",
        "token",
        "usage",
    )

    def __init__(self, granted: Granted, now: float, wall_now: float, jitter: float, usage: Usage) -> None:
        """*jitter* is a factor around 1 for the pause before the refresh.

        The nearest of all the expiries that an answer gives counts, so that neither a wrong wall clock nor an answer
        out of IMDS's own cache makes a token look younger than it is, and no auxiliary token dies before the answer.
        """
        self.token: Token = granted.token
        self.auxiliary: tuple[Token, ...] = granted.auxiliary
        self.correlation = granted.correlation
        self.key: TokenKey | None = None
        """Under which the cache keeps it; None until it does."""
        self.fetched_at = now
        expires_on = min(token.expires_on for token in (granted.token, *granted.auxiliary))
        self.expires_at = now + min(granted.expires_in, expires_on - wall_now)
        self.refresh_at = now + _refresh_pause(self.expires_at - now, jitter)
        self.usage = usage
        """Shared with the ready answers made of this token, and handed on to its successor."""
        self._usage_before = usage.last_ns

    @property
    def used(self) -> bool:
        """Whether anybody has asked for it again since it was fetched.

        By the time of the last use, not by the count: that one is the decision log's to take.
        """
        return self.usage.last_ns != self._usage_before

    def left(self, now: float) -> float:
        """Seconds to live."""
        return self.expires_at - now

    def fresh_until(self, now: float) -> float:
        """Until when a ready answer made of it now may be served without asking the broker again."""
        briefly = min(now + AGAIN_SECONDS, self.expires_at)
        if self.left(now) <= SOON_SECONDS:
            return briefly
        return max(min(self.refresh_at + RETRY_FLOOR_SECONDS, self.expires_at - SOON_SECONDS), briefly)

    def postpone(self, now: float, jitter: float) -> None:
        """Fetching a fresher one failed: the next attempt comes later, sooner the less is left."""
        self.refresh_at = now + min(max(self.left(now) / 8, RETRY_FLOOR_SECONDS), SOON_SECONDS) * jitter


def _refresh_pause(left: float, jitter: float) -> float:
    """Half of what is left, at least five minutes; but before the last five minutes where that can be helped."""
    pause = max(left / 2, SOON_SECONDS) * jitter
    latest = max(left - SOON_SECONDS - RETRY_FLOOR_SECONDS, min(RETRY_FLOOR_SECONDS, left / 2))
    return max(min(pause, latest), 1.0)


def told(key: TokenKey) -> str:
    """The identity of *key* as an operator may read it: its type, and its client id redacted or its resource's name."""
    return f"type {key.type} {redacted(key.client_id) if key.client_id else key.resource_id.rpartition('/')[2][:64]}"


class TokenCache:
    """Tokens by key, bounded in all and for each identity; the least lately asked for go first.

    Because of the bound for each identity a pod that asks for ever new audiences or capabilities pushes out only tokens
    of the identities that are its own.
    """

    def __init__(self, most: int = TOKENS_MAX, most_per_identity: int = TOKENS_PER_IDENTITY) -> None:
        """*most_per_identity*: of one that all its pods share."""
        self._most = most
        self._most_per_identity = most_per_identity
        self._tokens: OrderedDict[TokenKey, CachedToken] = OrderedDict()
        self._keys: dict[tuple[object, ...], OrderedDict[TokenKey, None]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, key: TokenKey, now: float) -> CachedToken | None:
        """The token if it still lives; one that does not is forgotten."""
        cached = self._tokens.get(key)
        if cached is None:
            return None
        if cached.left(now) <= 0.0:
            self.forget(key)
            return None
        self._tokens.move_to_end(key)
        self._keys[key.identity].move_to_end(key)
        return cached

    def predecessor(self, key: TokenKey, now: float) -> CachedToken | None:
        """A living token of another version of the same Secret; None for identities without one."""
        if not key.credential:
            return None
        for other in self._keys.get(key.identity, ()):
            cached = self._tokens[other]
            if other != key and other.lasting == key.lasting and cached.left(now) > 0.0:
                return cached
        return None

    def of_pod(self, uid: str) -> list[TokenKey]:
        """The keys of the tokens that are this pod's alone; of an empty *uid*, those that are no pod's alone."""
        return [key for keys in self._keys.values() for key in keys if key.pod == uid]

    def soonest_expiry(self, now: float, asked_since_ns: int) -> float:
        """Seconds left to the token in use which expires first, at least 0; infinitely many where none is in use.

        One that nobody has asked for again is left to run out, and one whose pods are gone cannot be renewed: so those
        count that were asked for again, and not before *asked_since_ns* of the ready answers' clock.
        """
        in_use = (each for each in self._tokens.values() if each.used and each.usage.last_ns >= asked_since_ns)
        return min((max(each.left(now), 0.0) for each in in_use), default=inf)

    def state(self, now: float) -> list[dict[str, object]]:
        """For the operator: JSON-able, at most STATE_MAX of them, the most lately used first."""
        return [
            {
                "identity": told(key),
                "resource": key.resource[:RESOURCE_SHOWN],
                "age_seconds": round(now - cached.fetched_at),
                "left_seconds": round(cached.left(now)),
                "refresh_in_seconds": round(cached.refresh_at - now),
                "used": cached.used,
            }
            for key, cached in islice(reversed(self._tokens.items()), STATE_MAX)
        ]

    def peek(self, key: TokenKey) -> CachedToken | None:
        """The token, dead or alive, without that counting as a use."""
        return self._tokens.get(key)

    def known(self, key: TokenKey) -> TokenKey:
        """*key*, as the one object that all may share who note it, where a token is kept under it."""
        cached = self._tokens.get(key)
        return key if cached is None or cached.key is None else cached.key

    def keep(self, key: TokenKey, cached: CachedToken) -> list[TokenKey]:
        """Keep *cached* in place of any other, also of an older version of its Secret; the keys that had to go."""
        self.forget(key)
        self._tokens[key] = cached
        cached.key = key
        siblings = self._keys.setdefault(key.identity, OrderedDict())
        siblings[key] = None
        gone = [each for each in siblings if each != key and each.lasting == key.lasting] if key.credential else []
        for each in gone:
            self.forget(each)
        crowded: TokenKey | None = None
        if len(siblings) > (TOKENS_PER_POD if key.pod else self._most_per_identity):
            crowded = next(iter(siblings))
        elif len(self._tokens) > self._most:
            crowded = next(iter(self._tokens))
        if crowded is not None:
            self.forget(crowded)
            gone.append(crowded)
        return gone

    def forget(self, key: TokenKey) -> None:
        if self._tokens.pop(key, None) is None:
            return
        siblings = self._keys[key.identity]
        del siblings[key]
        if not siblings:
            del self._keys[key.identity]


class Refusals:
    """What was refused a moment ago, so that asking again in a loop costs nobody a call."""

    def __init__(self, most: int = REFUSALS_MAX, seconds: float = REFUSAL_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._refusals: OrderedDict[TokenKey, tuple[float, AzureError]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._refusals)

    def find(self, key: TokenKey, now: float, not_before: float) -> AzureError | None:
        """The refusal, unless it is too old, or older than *not_before* (the identity became usable only then)."""
        when, error = self._refusals.get(key, (0.0, None))
        if error is None or now - when >= self._seconds or when < not_before:
            return None
        return error.again()

    def keep(self, key: TokenKey, now: float, error: AzureError) -> None:
        self._refusals[key] = (now, error.again())
        self._refusals.move_to_end(key)
        while len(self._refusals) > self._most:
            self._refusals.popitem(last=False)

    def forget(self, key: TokenKey) -> None:
        self._refusals.pop(key, None)


class ObjectIds:
    """Object ids by lower-cased client id, as tokens have shown them."""

    def __init__(self, most: int = OBJECT_IDS_MAX) -> None:
        self._most = most
        self._ids: OrderedDict[str, str] = OrderedDict()
        self.view: Mapping[str, str] = MappingProxyType(self._ids)

    def learn(self, client_id: str, object_id: str) -> None:
        if client_id and object_id:
            self._ids[client_id.lower()] = object_id
            self._ids.move_to_end(client_id.lower())
            while len(self._ids) > self._most:
                self._ids.popitem(last=False)
