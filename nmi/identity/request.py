"""A pod's token request after its bytes have been parsed."""

from enum import IntEnum

import msgspec


class SelectorKind(IntEnum):
    """The property by which a request names one of the pod's identities. The numbers are those of `_native.query`."""

    NONE = 0
    CLIENT_ID = 1
    OBJECT_ID = 2
    RESOURCE_ID = 3


class TokenRequest(msgspec.Struct, frozen=True):
    """One request on the token path that passed all syntax checks."""

    resource: str
    """The audience, percent-decoded and otherwise as sent: not trimmed, never empty."""
    selector: SelectorKind = SelectorKind.NONE
    selector_value: str = ""
    """As sent; compared case-insensitively. Empty if and only if *selector* is NONE."""
    xms_cc: str = ""
    """Client capabilities, passed on and part of every cache key."""
    force_refresh: bool = False
    """bypass_cache=true: skip every cache; the response replaces the cached one."""
    rejected_sha256: str = ""
    """token_sha256_to_refresh, in lower case: the SHA-256 in hex of a token that a service has rejected. If NMI would
    return this token, the request is a forced refresh, else an ordinary one."""
