"""Cached tokens on their way from one NMI to its successor: their form as packets, their checks, and their store.

A received token stays apart from the cache until a request that this NMI has decided itself has the token's key.
Packets and the store are bounded, and exist in memory only.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from nmi.tokens.cache import SOON_SECONDS, TOKENS_MAX, ObjectIds, TokenCache
from nmi.tokens.source import FetchedToken, Token, TokenKey, decode_claims
from podidentity.resources import IdentityType

PACKET_MAX: Final = 90 * 1024
"""Bytes of a packet: in base64 it fits into a message of the handover."""
RECEIVED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of all accepted packets: TOKENS_MAX tokens of 4 KiB, twice the usual size."""
TEXT_MAX: Final = 4096
ACCESS_TOKEN_MAX: Final = 64 * 1024
TENANTS_MAX: Final = 32
LIFETIME_MAX_SECONDS: Final = 7 * 24 * 3600.0
TIME_MAX: Final = 2**40
"""Unix seconds."""
EXPIRED_STEP_SECONDS: Final = 60.0
"""The interval at which expired tokens are dropped."""

_HEADER_BYTES: Final = 5
"""Of a msgpack array of any length."""
_ACCESS_TOKEN: Final = re.compile(r"[!-~]+")
_TYPES: Final = frozenset(IdentityType)


class PassedToken(msgspec.Struct, frozen=True, array_like=True):
    """One cached token. The repr of a Token hides its secrets."""

    key: TokenKey
    tokens: tuple[Token, ...]
    """The token and then those of the auxiliary tenants."""
    expires_in: float
    """Seconds."""
    refresh_in: float
    """Seconds until the sender would have refreshed it; may be negative."""
    object_id: str = ""
    correlation: str = ""


_decoder: Final = msgspec.msgpack.Decoder(list[PassedToken])
_encoder: Final = msgspec.msgpack.Encoder()


def passed_tokens(cache: TokenCache, object_ids: ObjectIds, now: float) -> Iterator[PassedToken]:
    """Yield the tokens of *cache* that a successor can use, the most recently used first."""
    for key, cached in cache.newest():
        passed = PassedToken(
            key,
            (cached.token, *cached.auxiliary),
            cached.left(now),
            cached.refresh_at - now,
            object_ids.view.get(key.client_id, ""),
            cached.correlation,
        )
        # The successor would refuse it by the same rule.
        if is_valid(passed):
            yield passed


def packets_of(tokens: Iterable[PassedToken]) -> Iterator[bytes]:
    """Return *tokens* as packets. One that is too large for a packet is omitted."""
    batch: list[bytes] = []
    size = 0
    for token in tokens:
        encoded = _encoder.encode(token)
        # The successor fetches this token itself, so the handover need not fail for it.
        if len(encoded) + _HEADER_BYTES > PACKET_MAX:
            continue
        if size + len(encoded) + _HEADER_BYTES > PACKET_MAX:
            yield _packet(batch)
            batch, size = [], 0
        batch.append(encoded)
        size += len(encoded)
    if batch:
        yield _packet(batch)


def _packet(encoded: list[bytes]) -> bytes:
    return b"\xdd" + len(encoded).to_bytes(4, "big") + b"".join(encoded)  # array 32


def tokens_in(packet: bytes) -> tuple[list[PassedToken], int]:
    """Return the valid tokens of *packet* and the number of the others; a packet that is none counts as one."""
    if len(packet) > PACKET_MAX:
        return [], 1
    try:
        tokens = _decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [], 1
    valid = [token for token in tokens if is_valid(token)]
    return valid, len(tokens) - len(valid)


def is_valid(passed: PassedToken) -> bool:
    """Return whether *passed* can be a token of its key that another NMI has cached."""
    key = passed.key
    return (
        key.type in _TYPES
        and _are_short(*key[1:], passed.object_id, passed.correlation)
        and 1 <= len(passed.tokens) <= TENANTS_MAX
        # SDKs treat a token with less remaining time as expired, so the successor fetches its own.
        and SOON_SECONDS < passed.expires_in <= LIFETIME_MAX_SECONDS
        and math.isfinite(passed.refresh_in)
        and all(_belongs_to(token, key.client_id.strip()) for token in passed.tokens)
    )


def _belongs_to(token: Token, client_id: str) -> bool:
    if not _are_short(token.resource, token.client_id, token.token_type, token.ext_expires_in):
        return False
    if not (0 <= token.expires_on <= TIME_MAX and 0 <= token.not_before <= TIME_MAX):
        return False
    if len(token.access_token) > ACCESS_TOKEN_MAX or not _ACCESS_TOKEN.fullmatch(token.access_token):
        return False
    if token.refresh_token and not _ACCESS_TOKEN.fullmatch(token.refresh_token):
        return False
    # A token of another client than its key names would give a pod another pod's identity.
    named = (token.client_id, decode_claims(token.access_token).client_id)
    return not client_id or all(name.strip().lower() in {"", client_id} for name in named)


def _are_short(*texts: str | int) -> bool:
    return all(isinstance(text, str) and len(text) <= TEXT_MAX and text.isprintable() for text in texts)


class _Received(msgspec.Struct, frozen=True):
    passed: PassedToken
    at: float


class ReceivedTokens:
    """Tokens of another NMI that no request has used yet, by their key without the version of a Secret."""

    def __init__(self, most: int = TOKENS_MAX, most_bytes: int = RECEIVED_BYTES_MAX) -> None:
        self._most = most
        self._bytes_left = most_bytes
        self._tokens: dict[TokenKey, _Received] = {}
        self._next_step = 0.0

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, packet: bytes, now: float) -> tuple[int, int]:
        """Store the tokens of *packet*. Return the number of stored tokens, and of refused ones."""
        if len(packet) > self._bytes_left:
            return 0, 1
        tokens, refused = tokens_in(packet)
        # Refused tokens count too, which bounds the work for a peer that sends only these.
        self._bytes_left -= len(packet)
        stored = 0
        for token in tokens:
            key = token.key.lasting
            # The sender passes the most recently used tokens first.
            if len(self._tokens) < self._most and key not in self._tokens:
                self._tokens[key] = _Received(token, now)
                stored += 1
        return stored, refused + len(tokens) - stored

    def take(self, key: TokenKey, now: float) -> tuple[TokenKey, FetchedToken, float] | None:
        """Remove the token of *key*. Return its key, the token, and the seconds to its refresh; None if it has expired.

        If *key* has a version of a Secret, a token of another version is dropped.
        """
        if now >= self._next_step:
            self._drop_expired(now)
        received = self._tokens.pop(key.lasting, None)
        if received is None or key.credential not in {"", received.passed.key.credential}:
            return None
        passed, age = received.passed, now - received.at
        if passed.expires_in - age <= SOON_SECONDS:
            return None
        fetched = FetchedToken(
            passed.tokens[0],
            int(passed.expires_in - age),
            passed.object_id,
            passed.tokens[1:],
            passed.key.credential,
            passed.correlation,
        )
        return passed.key, fetched, passed.refresh_in - age

    def forget_pod(self, uid: str) -> None:
        """Drop the tokens of this pod only."""
        for key in [key for key in self._tokens if key.pod == uid]:
            del self._tokens[key]

    def _drop_expired(self, now: float) -> None:
        self._next_step = now + EXPIRED_STEP_SECONDS
        for key in [key for key, token in self._tokens.items() if token.passed.expires_in <= now - token.at]:
            del self._tokens[key]
