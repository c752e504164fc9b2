"""The identity part of a VM or scale set: what Azure says it is, and a change to it as it goes over the wire. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

SYSTEM: Final = "SystemAssigned"
USER: Final = "UserAssigned"
BOTH: Final = "SystemAssigned, UserAssigned"
NONE: Final = "None"

UPDATING: Final = "updating"

MOST_IN_ONE_UPDATE: Final = 150
"""What Azure promises to take in one PATCH, adds and removes together."""


@dataclass(frozen=True, slots=True)
class Attached:
    """One user-assigned identity on a host."""

    text: str
    """Its id in Resource Manager's own spelling: removal wants exactly this key."""
    client_id: str = ""


@dataclass(frozen=True, slots=True)
class HostIdentities:
    """What Azure said of one VM or scale set at one moment."""

    type: str = NONE
    """As Azure spelled it."""
    attached: Mapping[str, Attached] = field(default_factory=dict)
    """By the identity's key (lower-case id)."""
    etag: str = ""
    """Empty where the cloud gives none."""
    provisioning_state: str = ""
    gone: bool = False
    """Azure knows no such VM or scale set."""
    steady: frozenset[str] = frozenset()
    """While an operation runs: the identities (keys) that were there before it."""

    @property
    def system_assigned(self) -> bool:
        return "systemassigned" in self.type.lower()

    @property
    def updating(self) -> bool:
        return self.provisioning_state.lower() == UPDATING

    def certain(self, key: str) -> bool:
        """Whether the identity is there and stays so however an operation that runs ends: of others Azure shows what it
        is to lead to, and it may fail."""
        return key in self.attached and (not self.updating or key in self.steady)

    def shows(self, change: "Change") -> bool:
        """Whether *change* has been made: what it adds is there, and what it removes is not."""
        there = all(text.lower() in self.attached for text in change.adds)
        return there and not any(text.lower() in self.attached for text in change.removes)


GONE: Final = HostIdentities(gone=True)


@dataclass(frozen=True, slots=True)
class Change:
    """One merged change of a host's user-assigned identities. Removals are spelled as Azure spells them."""

    adds: tuple[str, ...]
    removes: tuple[str, ...]
    type: str
    etag: str = ""
    """Sent as If-Match. Only where `type` changes: the map is merged by key, so nobody's concurrent change to it is
    lost, but a type is simply overwritten."""
    retypes: bool = False
    """Whether `type` changes. Without an etag, read the host again right before: that leaves one request's time in
    which a second writer's change of it could be lost."""

    def body(self) -> bytes:
        """The PATCH's body: the identity part only, and of that only the difference.

        A type without user-assigned identities clears them all, and Azure refuses a map beside it.
        """
        identity: dict[str, Any] = {"type": self.type}
        if USER in self.type:
            entries: dict[str, Any] = {text: {} for text in self.adds}
            identity["userAssignedIdentities"] = entries | dict.fromkeys(self.removes)
        return json.dumps({"identity": identity}, separators=(",", ":")).encode()


def change(
    now: HostIdentities, adds: Iterable[str], removes: Iterable[str], *, most: int = MOST_IN_ONE_UPDATE
) -> Change | None:
    """What makes of *now* a host with *adds* and without *removes*; None where there is nothing to do.

    The system-assigned identity stays as it is. At most *most* entries, additions first: the rest is for the next
    change.
    """
    adding = tuple(text for text in adds if text.lower() not in now.attached)[:most]
    going = [now.attached[text.lower()].text for text in removes if text.lower() in now.attached]
    going = going[: most - len(adding)]
    if not adding and not going:
        return None
    left = len(now.attached) - len(going) + len(adding)
    with_users, without_users = (BOTH, SYSTEM) if now.system_assigned else (USER, NONE)
    type_ = with_users if left else without_users
    same_type = _flat(type_) == _flat(now.type)
    return Change(adding, tuple(going), type_, "" if same_type else now.etag, retypes=not same_type)


def applied(now: HostIdentities, change: Change) -> HostIdentities:
    """What is on the host once *change* is carried out, as far as *now* tells: without client ids of what is new."""
    going = {text.lower() for text in change.removes}
    stay = {key: each for key, each in now.attached.items() if key not in going} if USER in change.type else {}
    return replace(now, type=change.type, attached=stay | {text.lower(): Attached(text) for text in change.adds})


def _flat(type_: str) -> str:
    return type_.replace(" ", "").lower() or NONE.lower()


def read(body: Mapping[str, Any], etag_header: str = "") -> HostIdentities:
    """What a GET's or a finished update's body says; absent parts are read as empty."""
    identity: Any = body.get("identity") or {}
    attached: Any = identity.get("userAssignedIdentities") or {}
    properties: Any = body.get("properties") or {}
    return HostIdentities(
        type=str(identity.get("type") or NONE),
        attached={
            text.lower(): Attached(text, str((about or {}).get("clientId") or "")) for text, about in attached.items()
        },
        etag=str(body.get("etag") or etag_header or ""),
        provisioning_state=str(properties.get("provisioningState") or ""),
    )
