"""Azure resource ids that both daemons read: user-assigned identities, and the VM or scale set of a node.

Azure ignores case in ids, and its spelling differs between responses. Each value has a lower-case `key` for comparison
and indexing, and the original spelling `text` for requests and output.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

PROVIDER_PREFIX: Final = "azure://"
TEXT_MAX: Final = 2048
"""Longer than any id on Azure (names have at most 260 characters). Longer text is not parsed."""
RECENT_MAX: Final = 8192
"""Identities that are parsed once, with an id of at most RECENT_CHARS characters: thousands of pods have the same one.
An attacker can fill 12 MiB, or 40 MiB with wide characters."""
RECENT_CHARS: Final = 512
_KELVIN: Final = "\N{KELVIN SIGN}"
"""Its lower case is the letter k, but Azure distinguishes the two."""

# Names on Azure never contain the characters that end an id in Azure's messages. An id with one could pass for another
# identity.
_PART: Final = r"[^/\s'\",\\]+"
_LAST_PART: Final = r"[^/\s'\",\\;)\]}]+"
_GROUP: Final = rf"/subscriptions/(?P<subscription>{_PART})/resourcegroups/(?P<group>{_PART})/providers"
_USER_ASSIGNED: Final = re.compile(
    _GROUP + rf"/microsoft\.managedidentity/userassignedidentities/(?P<name>{_LAST_PART})", re.IGNORECASE
)
_VIRTUAL_MACHINE: Final = re.compile(_GROUP + r"/microsoft\.compute/virtualmachines/(?P<name>[^/\s]+)", re.IGNORECASE)
_SCALE_SET: Final = re.compile(
    _GROUP
    + r"/microsoft\.compute/virtualmachinescalesets/(?P<name>[^/\s]+)(?:/virtualmachines/(?P<instance>[^/\s]+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ResourceId:
    """Base class of ids. Compare by `key`: two values of one resource may differ in spelling."""

    text: str
    subscription: str
    resource_group: str
    name: str
    key: str = field(init=False, repr=False, compare=False)
    """The same value for every spelling of one resource."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.text.lower())


@dataclass(frozen=True, slots=True)
class UserAssignedIdentity(ResourceId):
    """A user-assigned managed identity."""


@dataclass(frozen=True, slots=True)
class VirtualMachine(ResourceId):
    """A standalone VM, or an instance of a Flex scale set, whose nodes have VM ids. Identities are attached to
    the VM.
    """


@dataclass(frozen=True, slots=True)
class ScaleSet(ResourceId):
    """A uniform scale set. Identities are attached to the set. `text` and `key` are the set's, without the instance."""

    instance: str = ""


Host: TypeAlias = VirtualMachine | ScaleSet
"""The resource that an identity is attached to."""


def parse_user_assigned(text: str) -> UserAssignedIdentity | None:
    """Return the identity that *text* names, or None for any other text. Recent values are shared."""
    return _recent_user_assigned(text) if len(text) <= RECENT_CHARS else _parse_user_assigned(text)


def _parse_user_assigned(text: str) -> UserAssignedIdentity | None:
    match = _USER_ASSIGNED.fullmatch(text) if len(text) <= TEXT_MAX and _KELVIN not in text else None
    return UserAssignedIdentity(text, match["subscription"], match["group"], match["name"]) if match else None


_recent_user_assigned = lru_cache(maxsize=RECENT_MAX)(_parse_user_assigned)


def parse_provider_id(text: str) -> Host | None:
    """Return the VM or scale set of a node's providerID, or None for another cloud or an invalid id.

    Accepts the id with or without `azure://`, so that `text` can be parsed again.
    """
    if len(text) > TEXT_MAX:
        return None
    bare = text[len(PROVIDER_PREFIX) :] if text[: len(PROVIDER_PREFIX)].lower() == PROVIDER_PREFIX else text
    if match := _VIRTUAL_MACHINE.fullmatch(bare):
        return VirtualMachine(bare, match["subscription"], match["group"], match["name"])
    if match := _SCALE_SET.fullmatch(bare):
        return ScaleSet(
            bare[: match.end("name")], match["subscription"], match["group"], match["name"], match["instance"] or ""
        )
    return None
