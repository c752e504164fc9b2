"""VMs and scale sets in ARM: their identity section, its merge rules, and the operation in progress. No I/O.

The rules are those of Azure's compute API: the map of user-assigned identities is merged by key, null detaches one,
the `type` replaces the former one, and a narrower type detaches the identities that it excludes.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podidentity_sandbox.directory import Directory, ManagedIdentity

SYSTEM = "SystemAssigned"
USER = "UserAssigned"
NONE = "None"
MOST_ENTRIES = 150
"""Identities that one PATCH may name."""


class ArmRefusalError(Exception):
    """ARM refuses a request: the status, code and message of its response."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def document(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}


def no_such_identity(machine: "Machine", resource_id: str) -> ArmRefusalError:
    """Return the error of a PATCH that names a missing identity, in Azure's doubly wrapped wording."""
    return ArmRefusalError(
        400,
        "FailedIdentityOperation",
        f"Identity operation for resource '{machine.resource_id}' failed with error 'Failed to perform resource "
        'identity operation. Status: \'BadRequest\'. Response: \'{"error":{"code":"BadRequest","message":'
        f"\"Resource '{resource_id}' was not found.\"}}}}'.",
    )


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """The identity section after a PATCH, resolved against the former one."""

    types: frozenset[str]
    user_assigned: Mapping[str, ManagedIdentity]


@dataclass(kw_only=True)
class Operation:
    """A long-running operation, or one that has ended. Its outcome takes effect when its time has come."""

    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    ends: float
    before: IdentityChange
    error: ArmRefusalError | None = None
    """The error with which it will end; None: it succeeds."""
    completed: bool = False


@dataclass(kw_only=True)
class Machine:
    """One VM or scale set. Reading it after an operation's end first lets the operation take effect."""

    resource_id: str
    kind: str
    """`virtualMachines` or `virtualMachineScaleSets`."""
    location: str = "westeurope"
    clock: Callable[[], float]
    system_assigned: ManagedIdentity | None = None
    types: frozenset[str] = frozenset()
    user_assigned: dict[str, ManagedIdentity] = field(default_factory=dict)
    """By lower-case resource id."""
    attached_at: dict[str, float] = field(default_factory=dict)
    """When each identity was attached, by the clock. IMDS lags behind this."""
    operation_seconds: float = 0.2
    version: int = 1
    failing_next: list[ArmRefusalError] = field(default_factory=list)
    """Each makes one accepted PATCH fail in the end, first one first."""
    operation: Operation | None = None

    @property
    def name(self) -> str:
        return self.resource_id.rpartition("/")[2]

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    @property
    def identities(self) -> frozenset[str]:
        """The resource ids, lower-cased, of the user-assigned identities that are on the machine."""
        self.complete_operation()
        return frozenset(self.user_assigned)

    @property
    def updating(self) -> bool:
        self.complete_operation()
        return self.operation is not None and not self.operation.completed

    def attach(self, identity: ManagedIdentity) -> None:
        """Attach an identity immediately and without an operation, as a client other than MIC."""
        self.types |= {USER}
        self.user_assigned[identity.resource_id.lower()] = identity
        self.attached_at[identity.resource_id.lower()] = self.clock()
        self.version += 1

    def enable_system(self, identity: ManagedIdentity) -> None:
        """Set a system-assigned identity immediately and without an operation, as a client other than MIC."""
        self.system_assigned = identity
        self.types |= {SYSTEM}
        self.version += 1

    def complete_operation(self) -> None:
        """Apply an operation whose time is over."""
        operation = self.operation
        if operation is None or operation.completed or self.clock() < operation.ends:
            return
        operation.completed = True
        if operation.error is not None:
            self.types, self.user_assigned = operation.before.types, dict(operation.before.user_assigned)
        for key in self.user_assigned:
            self.attached_at.setdefault(key, operation.ends)
        for key in self.attached_at.keys() - self.user_assigned.keys():
            del self.attached_at[key]
        self.version += 1

    def update(self, change: IdentityChange) -> Operation:
        """Start the operation for *change*. The model has the new state immediately, IMDS only completed changes."""
        before = IdentityChange(self.types, dict(self.user_assigned))
        error = self.failing_next.pop(0) if self.failing_next else None
        self.types, self.user_assigned = change.types, dict(change.user_assigned)
        self.version += 1
        self.operation = Operation(ends=self.clock() + self.operation_seconds, before=before, error=error)
        return self.operation

    def document(self) -> dict[str, Any]:
        """Return the resource as in a GET response."""
        failed = self.operation is not None and self.operation.completed and self.operation.error is not None
        state = "Updating" if self.updating else "Failed" if failed else "Succeeded"
        document: dict[str, Any] = {
            "name": self.name,
            "id": self.resource_id,
            "type": f"Microsoft.Compute/{self.kind}",
            "location": self.location,
            "etag": self.etag,
            "properties": {"provisioningState": state},
        }
        if self.kind == "virtualMachines":
            # Clients such as Prometheus expect both in each VM.
            document["properties"] |= {
                "storageProfile": {"osDisk": {"osType": "Linux"}},
                "networkProfile": {"networkInterfaces": []},
            }
        identity = self._identity_section()
        if identity:
            document["identity"] = identity
        return document

    def _identity_section(self) -> dict[str, Any]:
        if not self.types:
            return {}
        section: dict[str, Any] = {"type": ", ".join(kind for kind in (SYSTEM, USER) if kind in self.types)}
        if SYSTEM in self.types and self.system_assigned is not None:
            section["principalId"] = self.system_assigned.object_id
            section["tenantId"] = self.system_assigned.tenant_id
        if self.user_assigned:
            section["userAssignedIdentities"] = {
                _arm_form(identity.resource_id): {
                    "principalId": identity.object_id,
                    "clientId": identity.client_id,
                }
                for identity in self.user_assigned.values()
            }
        return section


def merge(machine: Machine, section: Mapping[str, Any], directory: Directory) -> IdentityChange:
    """Return the identity section of *machine* after a PATCH with *section*.

    Raise ArmRefusalError for what Azure refuses: an unknown type or identity, a value that is neither null nor an empty
    object, identities under a type without them, or no identity under a type with user-assigned ones.
    """
    types = _types(section.get("type"), machine)
    entries = section.get("userAssignedIdentities") or {}
    if not isinstance(entries, Mapping):
        raise ArmRefusalError(400, "InvalidRequestContent", "The request content was invalid: userAssignedIdentities")
    if len(entries) > MOST_ENTRIES:
        raise ArmRefusalError(
            400, "InvalidParameter", f"{len(entries)} user assigned identities are given, the most is {MOST_ENTRIES}."
        )
    merged = dict(machine.user_assigned)
    for resource_id, value in entries.items():
        if value is None:
            merged.pop(resource_id.lower(), None)
            continue
        if value != {} and resource_id.lower() not in machine.user_assigned:
            raise ArmRefusalError(
                400,
                "InvalidIdentityValues",
                f"Invalid value for the identities '{resource_id}'. The 'UserAssignedIdentities' property values "
                "should be null or empty objects.",
            )
        identity = directory.identity(resource_id)
        if identity is None:
            raise no_such_identity(machine, resource_id)
        merged[resource_id.lower()] = identity
    if USER not in types:
        if any(value is not None for value in entries.values()):
            raise ArmRefusalError(
                400, "InvalidIdentityType", "userAssignedIdentities may be given only with the type 'UserAssigned'."
            )
        return IdentityChange(types, {})
    if not merged:
        raise ArmRefusalError(
            400,
            "InvalidParameter",
            "The identity ids must not be null or empty for 'UserAssigned' identity type.",
        )
    return IdentityChange(types, merged)


def _types(text: object, machine: Machine) -> frozenset[str]:
    if text is None:
        return machine.types
    names = {SYSTEM.lower(): SYSTEM, USER.lower(): USER, NONE.lower(): NONE}
    parts = [names.get(part.strip().lower(), "") for part in str(text).split(",")]
    if "" in parts or (NONE in parts and len(parts) > 1):
        raise ArmRefusalError(400, "InvalidIdentityType", f"The identity type {str(text)[:100]!r} is not known.")
    return frozenset(parts) - {NONE}


def _arm_form(resource_id: str) -> str:
    """Return the id with `resourceGroups` as Compute returns it: clients must not compare ids byte by byte."""
    parts = resource_id.split("/")
    return "/".join("resourcegroups" if part.lower() == "resourcegroups" else part for part in parts)
