"""Azure resource ids that both programs read: user-assigned identities, and the VM or scale set behind a node.

Azure compares ids without regard to case and spells them differently from one answer to the next. So each value has a
`key`, lower-case, to compare and index by, and keeps `text`, the spelling that it came in, to send and to show.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

PROVIDER_PREFIX: Final = "azure://"
TEXT_MAX: Final = 2048
"""Longer than any id that Azure makes (names have 260 characters at most): nothing longer is even looked at."""
_KELVIN: Final = "\N{KELVIN SIGN}"
"""In lower case it is a k, and for Azure it is not."""

# Names in Azure have none of the characters that end an id where Azure quotes it in a message: what had them could be
# taken for another identity.
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
    """What every id has in common. Compare by `key`: two values of one resource may differ in spelling."""

    text: str
    subscription: str
    resource_group: str
    name: str

    @property
    def key(self) -> str:
        """The same for every spelling of one resource."""
        return self.text.lower()


@dataclass(frozen=True, slots=True)
class UserAssignedIdentity(ResourceId):
    """A user-assigned managed identity."""


@dataclass(frozen=True, slots=True)
class VirtualMachine(ResourceId):
    """A VM of its own, or an instance of a Flex scale set, whose nodes have VM ids: identities are put on the VM."""


@dataclass(frozen=True, slots=True)
class ScaleSet(ResourceId):
    """A uniform scale set: identities are put on the set. `text` and `key` are the set's, without the instance."""

    instance: str = ""


Host: TypeAlias = VirtualMachine | ScaleSet
"""What an identity is put on."""


def parse_user_assigned(text: str) -> UserAssignedIdentity | None:
    """The identity that *text* names, or None where it is not exactly such an id."""
    match = _USER_ASSIGNED.fullmatch(text) if len(text) <= TEXT_MAX and _KELVIN not in text else None
    return UserAssignedIdentity(text, match["subscription"], match["group"], match["name"]) if match else None


def parse_provider_id(text: str) -> Host | None:
    """The VM or scale set that a node's providerID names, or None for another cloud's or a malformed one.

    Takes the id with or without `azure://`, so that what `text` gives can be read again.
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
