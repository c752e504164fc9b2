"""Who exists in the sandbox's Azure: managed identities, service principals, and what roles they hold.

A stand-in for the directory behind AAD, ARM and IMDS: one object, shared by the three emulators. It knows no protocol.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """A user-assigned identity (with a resource id of its own) or a VM's system-assigned one (with the VM's)."""

    resource_id: str
    client_id: str
    object_id: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class ServicePrincipal:
    """An application that proves itself with a secret."""

    client_id: str
    object_id: str
    tenant_id: str
    secret: str = field(repr=False)


class Directory:
    """The identities of one tenant. Look-ups leave letter case aside, as Azure does."""

    def __init__(self, tenant_id: str = "") -> None:
        self.tenant_id = tenant_id or str(uuid.uuid4())
        self._managed: dict[str, ManagedIdentity] = {}
        self._principals: dict[str, ServicePrincipal] = {}
        self._roles: dict[str, set[str]] = {}

    def add_identity(self, resource_id: str, *, client_id: str = "", object_id: str = "") -> ManagedIdentity:
        """Create a user-assigned identity; ids that are not given are drawn."""
        identity = ManagedIdentity(
            resource_id, client_id or str(uuid.uuid4()), object_id or str(uuid.uuid4()), self.tenant_id
        )
        self._managed[resource_id.lower()] = identity
        return identity

    def remove_identity(self, resource_id: str) -> None:
        """Forget the identity, and with it its roles. One that does not exist is no error."""
        gone = self._managed.pop(resource_id.lower(), None)
        if gone is not None:
            self._roles.pop(gone.object_id, None)

    def add_principal(self, *, client_id: str = "", secret: str = "") -> ServicePrincipal:
        """Create a service principal; what is not given is drawn."""
        principal = ServicePrincipal(
            client_id or str(uuid.uuid4()), str(uuid.uuid4()), self.tenant_id, secret or uuid.uuid4().hex
        )
        self._principals[principal.client_id.lower()] = principal
        return principal

    def identity(self, resource_id: str) -> ManagedIdentity | None:
        """The user-assigned identity with this resource id."""
        return self._managed.get(resource_id.lower())

    def principal(self, client_id: str) -> ServicePrincipal | None:
        """The service principal with this client id."""
        return self._principals.get(client_id.lower())

    def grant(self, object_id: str, *roles: str) -> None:
        """Give roles (`Reader`, `Contributor`) to whoever has this object id, on everything ARM holds."""
        self._roles.setdefault(object_id, set()).update(roles)

    def may(self, object_id: str, roles: Iterable[str]) -> bool:
        """Whether whoever has this object id holds any one of *roles*."""
        return not self._roles.get(object_id, set()).isdisjoint(roles)
