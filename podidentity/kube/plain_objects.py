"""Fast decoding of AzureAssignedIdentities with current field names, most custom resources of a cluster. Pure.

An object that the fast way does not read is decoded in the general way, with the same result as before. The copies of
identities and bindings that an object embeds are decoded once for all objects that contain the same bytes.
"""

import math
from collections.abc import Callable, Iterable
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


class _Plain(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, gc=False):
    """Base class of types that accept no old field name, no unknown field and no null: these need the general way."""


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


class PlainAssigned(_Plain, frozen=True):
    """An AzureAssignedIdentity whose embedded copies are not decoded."""

    metadata: Meta = Meta()
    spec: _PlainSpec = _PlainSpec()
    status: _PlainStatus = _PlainStatus()
    api_version: msgspec.Raw = _ABSENT
    kind: msgspec.Raw = _ABSENT


PART_MAX: Final = 4096
"""Maximum size in bytes of an embedded copy, and characters of a text, in an object of `assembled_list`."""

_PLAIN: Final = msgspec.json.Decoder(PlainAssigned)
_IDENTITIES: Final[WeakValueDictionary[bytes, AzureIdentity]] = WeakValueDictionary()
_BINDINGS: Final[WeakValueDictionary[bytes, AzureIdentityBinding]] = WeakValueDictionary()
"""Embedded copies that exist, by their bytes. An entry ends with the last object that contains the copy."""

_NO_IDENTITY: Final = AzureIdentity()
_NO_BINDING: Final = AzureIdentityBinding()


def decode_plain(data: bytes | msgspec.Raw, decode: Callable[[type[Any], bytes], Any]) -> AzureAssignedIdentity | None:
    """Return the object, or None if it must be decoded in the general way.

    *decode* decodes an embedded copy in the general way; its exceptions are passed on.
    """
    try:
        plain = _PLAIN.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _assembled(plain, decode)


def assembled_list(
    plain_objects: Iterable[PlainAssigned], decode: Callable[[type[Any], bytes], Any]
) -> list[AzureAssignedIdentity] | None:
    """Return the objects, or None if one of them must be decoded in the general way, perhaps because of its size."""
    objects = []
    for plain in plain_objects:
        spec = plain.spec
        if len(spec.pod) > PART_MAX or len(spec.pod_namespace) > PART_MAX or len(spec.nodename) > PART_MAX:
            return None
        made = _assembled(plain, decode, PART_MAX)
        if made is None:
            return None
        objects.append(made)
    return objects


def _assembled(
    plain: PlainAssigned, decode: Callable[[type[Any], bytes], Any], most: float = math.inf
) -> AzureAssignedIdentity | None:
    """Return the object, or None if an embedded copy is not an object or has more than *most* bytes."""
    spec, status = plain.spec, plain.status
    identity = _embedded(_IDENTITIES, bytes(spec.azure_identity_ref), _NO_IDENTITY, decode, most)
    binding = _embedded(_BINDINGS, bytes(spec.azure_binding_ref), _NO_BINDING, decode, most)
    if identity is None or binding is None:
        return None
    return AzureAssignedIdentity(
        metadata=plain.metadata,
        spec=AzureAssignedIdentitySpec(
            azure_identity_ref=identity,
            azure_binding_ref=binding,
            pod=spec.pod,
            pod_namespace=spec.pod_namespace,
            nodename=spec.nodename,
        ),
        status=AzureAssignedIdentityStatus(status=status.status, available_replicas=status.available_replicas),
    )


def _embedded(
    copies: WeakValueDictionary[bytes, C],
    data: bytes,
    absent: C,
    decode: Callable[[type[Any], bytes], Any],
    most: float,
) -> C | None:
    """Return the embedded copy; None if *data* is not an object or has more than *most* bytes."""
    copy = copies.get(data)
    if copy is not None:
        return copy
    if not data:
        return absent
    if len(data) > most or not data.startswith(b"{"):
        return None
    decoded: C = decode(type(absent), data)
    copies[data] = decoded
    return decoded
