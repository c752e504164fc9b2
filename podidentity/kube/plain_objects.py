"""Fast decoding of AzureAssignedIdentities in the current spelling, which are most custom resources of a cluster. Pure.

An object that the fast way does not read is decoded in the general way, with the same result as before. The copies of
identities and bindings that an object embeds are decoded once for all objects that contain the same bytes.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import msgspec

from podidentity.resources import (
    AzureAssignedIdentity,
    AzureAssignedIdentitySpec,
    AzureAssignedIdentityStatus,
    AzureIdentity,
    AzureIdentityBinding,
    Meta,
)

C = TypeVar("C", AzureIdentity, AzureIdentityBinding)

_ABSENT: Final = msgspec.Raw(b"")


class _Plain(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base class of types that accept no other spelling, no unknown field and no null: these need the general way."""


class _PlainSpec(_Plain, frozen=True):
    azure_identity_ref: msgspec.Raw = _ABSENT
    azure_binding_ref: msgspec.Raw = _ABSENT
    pod: str = ""
    pod_namespace: str = ""
    nodename: str = ""
    metadata: msgspec.Raw = _ABSENT
    """Not read, as in every spec; `replicas` too."""
    replicas: msgspec.Raw = _ABSENT


class _PlainStatus(_Plain, frozen=True):
    status: str = ""
    available_replicas: int = 0


class _PlainAssigned(_Plain, frozen=True):
    metadata: Meta = Meta()
    spec: _PlainSpec = _PlainSpec()
    status: _PlainStatus = _PlainStatus()
    api_version: msgspec.Raw = _ABSENT
    kind: msgspec.Raw = _ABSENT


_PLAIN: Final = msgspec.json.Decoder(_PlainAssigned)
_IDENTITIES: Final[WeakValueDictionary[bytes, AzureIdentity]] = WeakValueDictionary()
_BINDINGS: Final[WeakValueDictionary[bytes, AzureIdentityBinding]] = WeakValueDictionary()
"""Embedded copies that exist, by their bytes. An entry ends with the last object that contains the copy."""

_NO_IDENTITY: Final = AzureIdentity()
_NO_BINDING: Final = AzureIdentityBinding()


def decode_plain(
    data: bytes | msgspec.Raw, share: Callable[[str], str], decode: Callable[[type[Any], bytes], Any]
) -> AzureAssignedIdentity | None:
    """Return the object, or None if it must be decoded in the general way.

    *share* returns a shared copy of a text. *decode* decodes an embedded copy in the general way; its exceptions are
    passed on.
    """
    try:
        plain = _PLAIN.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    spec = plain.spec
    identity = _embedded(_IDENTITIES, spec.azure_identity_ref, _NO_IDENTITY, decode)
    binding = _embedded(_BINDINGS, spec.azure_binding_ref, _NO_BINDING, decode)
    if identity is None or binding is None:
        return None
    return AzureAssignedIdentity(
        metadata=plain.metadata,
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=identity,
            azure_binding_ref=binding,
            pod=spec.pod,
            pod_namespace=share(spec.pod_namespace),
            nodename=share(spec.nodename),
        ),
        status=AzureAssignedIdentityStatus(
            status=share(plain.status.status), available_replicas=plain.status.available_replicas
        ),
    )


def _embedded(
    known: WeakValueDictionary[bytes, C], raw: msgspec.Raw, absent: C, decode: Callable[[type[Any], bytes], Any]
) -> C | None:
    """Return the embedded copy; None if its bytes are not an object."""
    data = bytes(raw)
    found = known.get(data)
    if found is not None:
        return found
    if not data:
        return absent
    if not data.startswith(b"{"):
        return None
    decoded: C = decode(type(absent), data)
    known[data] = decoded
    return decoded
