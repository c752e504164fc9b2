"""The identity part of a VM or scale set as Azure reports it, and changes to it as request bodies, and the
command for a missing role. Pure.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any, Final

import msgspec

from podidentity.azure.resource_ids import id_key

SYSTEM: Final = "SystemAssigned"
USER: Final = "UserAssigned"
BOTH: Final = "SystemAssigned, UserAssigned"
NONE: Final = "None"

UPDATING: Final = "updating"

MOST_IN_ONE_UPDATE: Final = 150
"""Azure's documented limit for one PATCH, additions and removals together."""


@dataclass(frozen=True, slots=True)
class Attached:
    """One user-assigned identity on a host."""

    text: str
    """Its id in Resource Manager's spelling: a removal must use exactly this key."""
    client_id: str = ""


@dataclass(frozen=True, slots=True)
class HostIdentities:
    """Azure's response for one VM or scale set at one time."""

    type: str = NONE
    """The type of the host's identities, in Azure's spelling."""
    attached: Mapping[str, Attached] = field(default_factory=dict)
    """The attached user-assigned identities, by their keys (lower-case ids)."""
    etag: str = ""
    """The etag of the response; empty if the cloud returns none."""
    provisioning_state: str = ""
    gone: bool = False
    """Azure has no such VM or scale set."""
    steady: frozenset[str] = frozenset()
    """During an operation: the identities (keys) that were attached before it."""

    @property
    def system_assigned(self) -> bool:
        return "systemassigned" in self.type.lower()

    @property
    def updating(self) -> bool:
        return self.provisioning_state.lower() == UPDATING

    def certain(self, key: str) -> bool:
        """Return whether the identity is attached and stays so, however a running operation ends. Azure shows the
        intended result of an operation, which may still fail."""
        return key in self.attached and (not self.updating or key in self.steady)

    def shows(self, change: "Change") -> bool:
        """Return whether *change* is visible: its additions are attached, its removals are not."""
        there = all(id_key(text) in self.attached for text in change.adds)
        return there and not any(id_key(text) in self.attached for text in change.removes)


GONE: Final = HostIdentities(gone=True)


@dataclass(frozen=True, slots=True)
class Change:
    """One merged change of a host's user-assigned identities. Removals are spelled as Azure spells them."""

    adds: tuple[str, ...]
    removes: tuple[str, ...]
    type: str
    etag: str = ""
    """Sent as If-Match, only if `type` changes. Azure merges the map by key, so that concurrent changes to it are kept,
    but it overwrites the type."""
    retypes: bool = False
    """Whether `type` changes. Without an etag, MIC reads the host again immediately before, so that another client's
    change can be lost only during one request."""

    def body(self) -> bytes:
        """Return the body of the PATCH: only the identity part, and only the difference.

        A type without user-assigned identities removes them all, and Azure then refuses a map.
        """
        identity: dict[str, Any] = {"type": self.type}
        if USER in self.type:
            entries: dict[str, Any] = {text: {} for text in self.adds}
            # Azure merges the map by key, so only null removes an identity.
            identity["userAssignedIdentities"] = entries | dict.fromkeys(self.removes)
        return json.dumps({"identity": identity}, separators=(",", ":")).encode()


def change(
    now: HostIdentities, adds: Iterable[str], removes: Iterable[str], *, most: int = MOST_IN_ONE_UPDATE
) -> Change | None:
    """Return the change that adds *adds* and removes *removes*; None if there is nothing to do.

    The system-assigned identity stays unchanged. The change has at most *most* entries, additions first; the next
    change contains the rest.
    """
    # Additions first: pods wait for them.
    adding = tuple(text for text in adds if id_key(text) not in now.attached)[:most]
    going = [now.attached[id_key(text)].text for text in removes if id_key(text) in now.attached]
    going = going[: most - len(adding)]
    if not adding and not going:
        return None
    left = len(now.attached) - len(going) + len(adding)
    with_users, without_users = (BOTH, SYSTEM) if now.system_assigned else (USER, NONE)
    type_ = with_users if left else without_users
    same_type = _flat(type_) == _flat(now.type)
    return Change(adding, tuple(going), type_, "" if same_type else now.etag, retypes=not same_type)


def applied(now: HostIdentities, change: Change) -> HostIdentities:
    """Return the identities of the host after *change*, as far as *now* shows; new ones have no client id."""
    going = {id_key(text) for text in change.removes}
    stay = {key: identity for key, identity in now.attached.items() if key not in going} if USER in change.type else {}
    return replace(now, type=change.type, attached=stay | {id_key(text): Attached(text) for text in change.adds})


def _flat(type_: str) -> str:
    return type_.replace(" ", "").lower() or NONE.lower()


def decode_identities(body: Mapping[str, Any], etag_header: str = "") -> HostIdentities:
    """Return the identities in the body of a GET or a finished update; absent parts are empty."""
    identity: Any = body.get("identity") or {}
    attached: Any = identity.get("userAssignedIdentities") or {}
    properties: Any = body.get("properties") or {}
    return HostIdentities(
        type=str(identity.get("type") or NONE),
        attached={
            id_key(text): Attached(text, str((about or {}).get("clientId") or "")) for text, about in attached.items()
        },
        etag=str(body.get("etag") or etag_header or ""),
        provisioning_state=str(properties.get("provisioningState") or ""),
    )


class _Properties(msgspec.Struct):
    state: Any = msgspec.field(name="provisioningState", default=None)


class _Resource(msgspec.Struct):
    """The parts of a VM or a scale set that MIC reads. The others, mostly extensions and profiles, are skipped."""

    identity: Any = None
    properties: _Properties | None = None
    etag: Any = None


_RESOURCE: Final = msgspec.json.Decoder(_Resource)


def read_identities(data: bytes, etag_header: str = "") -> HostIdentities:
    """Return the identities in the response to a GET. Raise ValueError if it is no resource."""
    try:
        resource = _RESOURCE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a VM or a scale set: {error}") from error
    properties = {} if resource.properties is None else {"provisioningState": resource.properties.state}
    return decode_identities(
        {"identity": resource.identity, "properties": properties, "etag": resource.etag}, etag_header
    )


def role_command(principal: str, role: str, scope: str) -> str:
    """Return the command that grants *role* to the *principal* (object id)."""
    # An AzureIdentity's author chooses the scope, and an operator runs the command in a shell.
    return (
        f"az role assignment create --role '{role}' --assignee-object-id {principal} "
        f"--assignee-principal-type ServicePrincipal --scope {quote(scope)}"
    )
