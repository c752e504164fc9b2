"""Azure resource ids that both daemons read: user-assigned identities, and the VM or scale set of a node.

Azure ignores case in ids, and its spelling differs between responses. Each value has a lower-case `key` for comparison
and indexing, and the original spelling `text` for requests and output.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias
from unicodedata import category
from urllib.parse import quote

PROVIDER_PREFIX: Final = "azure://"
TEXT_MAX: Final = 2048
"""Longer than any id on Azure (names have at most 260 characters). Longer text is not parsed."""
RECENT_MAX: Final = 8192
"""Identities that are parsed once, with an id of at most RECENT_CHARS characters: thousands of pods have the same one.
An attacker can fill 12 MiB, or 40 MiB with wide characters."""
RECENT_CHARS: Final = 512
_LETTERS: Final = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd"})
"""Unicode categories of the non-ASCII characters that Azure permits in names of resource groups."""
_CONFUSED: Final = frozenset("\u03f4\u1e9e\u2126\u212a\u212b")
"""Letters whose lower case is that of another letter, which Azure distinguishes: the Kelvin sign is not k. With them,
the keys of two resources would be equal."""

# The grammar of Azure's naming rules (learn.microsoft.com, "Naming rules and restrictions for Azure resources"), apart
# from minimum lengths. VMs and scale sets may have underscores, which the page refuses: Azure gives them to VMs of Flex
# scale sets. No part can be `.` or `..`, which HTTP clients remove from a URL together with the part before.
# Non-ASCII characters are checked by `_is_of_letters`. With re.ASCII, IGNORECASE folds no non-ASCII letter to a-z.
_OTHER: Final = r"\u0080-\U0010ffff"
_SUBSCRIPTION: Final = r"(?P<subscription>[0-9a-z][0-9a-z-]{0,35})"
_GROUP_NAME: Final = rf"(?P<group>[0-9a-z_.()\-{_OTHER}]{{0,89}}[0-9a-z_()\-{_OTHER}])"
_GROUP: Final = rf"/subscriptions/{_SUBSCRIPTION}/resourcegroups/{_GROUP_NAME}/providers"
_HOST_NAME: Final = rf"(?P<name>[0-9a-z{_OTHER}](?:[0-9a-z_.\-{_OTHER}]{{0,78}}[0-9a-z_{_OTHER}])?)"
_FLAGS: Final = re.ASCII | re.IGNORECASE
_GROUP_REFERENCE: Final = re.compile(rf"(?:{_SUBSCRIPTION}/)?{_GROUP_NAME}", _FLAGS)
_USER_ASSIGNED: Final = re.compile(
    _GROUP + r"/microsoft\.managedidentity/userassignedidentities/(?P<name>[0-9a-z][0-9a-z_-]{0,127})", _FLAGS
)
_VIRTUAL_MACHINE: Final = re.compile(rf"{_GROUP}/microsoft\.compute/virtualmachines/{_HOST_NAME}", _FLAGS)
_SCALE_SET: Final = re.compile(
    rf"{_GROUP}/microsoft\.compute/virtualmachinescalesets/{_HOST_NAME}"
    r"(?:/virtualmachines/(?P<instance>[0-9a-z_-]{1,64}))?",
    _FLAGS,
)


def id_key(text: str) -> str:
    """Return *text*, an id or a part of one, in the spelling of keys. Python's lower case of a capital sigma depends on
    the letters around it, and Azure compares letter by letter."""
    return text.lower().replace("\u03c2", "\u03c3")


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
        object.__setattr__(self, "key", id_key(self.text))


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
    match = _USER_ASSIGNED.fullmatch(text) if len(text) <= TEXT_MAX and _is_of_letters(text) else None
    return UserAssignedIdentity(text, match["subscription"], match["group"], match["name"]) if match else None


_recent_user_assigned = lru_cache(maxsize=RECENT_MAX)(_parse_user_assigned)


def parse_provider_id(text: str) -> Host | None:
    """Return the VM or scale set of a node's providerID, or None for another cloud or an invalid id.

    Accepts the id with or without `azure://`, so that `text` can be parsed again.
    """
    if len(text) > TEXT_MAX or not _is_of_letters(text):
        return None
    bare = text[len(PROVIDER_PREFIX) :] if text[: len(PROVIDER_PREFIX)].lower() == PROVIDER_PREFIX else text
    if match := _VIRTUAL_MACHINE.fullmatch(bare):
        return VirtualMachine(bare, match["subscription"], match["group"], match["name"])
    if match := _SCALE_SET.fullmatch(bare):
        return ScaleSet(
            bare[: match.end("name")], match["subscription"], match["group"], match["name"], match["instance"] or ""
        )
    return None


def resource_path(resource: ResourceId, kind: str) -> str:
    """Return the path of *resource*, whose type is *kind*, in a URL."""
    # The name of a resource group may have letters outside of ASCII.
    subscription, group, name = (
        quote(part, safe="") for part in (resource.subscription, resource.resource_group, resource.name)
    )
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind}/{name}"


def is_group_reference(text: str) -> bool:
    """Return whether *text* is the name of a resource group, or `subscription/group`."""
    return _GROUP_REFERENCE.fullmatch(text) is not None and _is_of_letters(text)


def _is_of_letters(text: str) -> bool:
    """Return whether each non-ASCII character is a letter or a digit of a name on Azure, and no other letter's twin."""
    return text.isascii() or all(
        character.isascii() or (category(character) in _LETTERS and character not in _CONFUSED) for character in text
    )
