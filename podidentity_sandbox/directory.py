"""The directory of the emulated Azure: managed identities, service principals and their roles.

AAD, ARM and IMDS share one object. It implements no protocol.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

FEDERATED_MAX: Final = 20
"""Federated credentials of one identity; Azure refuses any more."""


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """A user-assigned identity (with its own resource id) or a system-assigned one (with the resource id of its VM)."""

    resource_id: str
    client_id: str
    object_id: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class ServicePrincipal:
    """An application in one tenant, with its first secret."""

    client_id: str
    object_id: str
    tenant_id: str
    secret: str = field(repr=False)


@dataclass(slots=True)
class AppRegistration:
    """An application, in all tenants that know it, and the credentials that it may use."""

    client_id: str
    secrets: dict[str, float] = field(default_factory=dict, repr=False)
    """Each with the time from which it is effective, in Unix seconds: AAD replicates it with a delay."""
    certificates: list[x509.Certificate] = field(default_factory=list)
    subjects: set[str] = field(default_factory=set)
    """Certificates of these subjects are trusted with any key, if the request contains the certificate (x5c)."""


@dataclass(frozen=True, slots=True)
class FederatedCredential:
    """The assertions that an identity trusts. All three fields are compared with case."""

    issuer: str
    subject: str
    audience: str
    known_from: float = float("-inf")
    """The time from which it is effective, in Unix seconds: AAD needs seconds to minutes to replicate one."""


class DirectoryError(Exception):
    """Azure refuses the change. The message is in Azure's style."""


class Directory:
    """The identities of one tenant, and applications also of others. Look-ups ignore case, as on Azure."""

    def __init__(self) -> None:
        self.tenant_id = str(uuid.uuid4())
        self._managed: dict[str, ManagedIdentity] = {}
        self._tenants: dict[str, str] = {self.tenant_id.lower(): self.tenant_id}
        self._applications: dict[str, AppRegistration] = {}
        self._principals: dict[tuple[str, str], ServicePrincipal] = {}
        self._roles: dict[str, set[str]] = {}
        self._federated: dict[str, list[FederatedCredential]] = {}

    def add_tenant(self, tenant_id: str = "", *, domain: str = "") -> str:
        """Create another tenant, which can be named by *domain* too; return its id."""
        added = tenant_id or str(uuid.uuid4())
        for name in (added, domain):
            if name:
                self._tenants[name.lower()] = added
        return added

    def tenant(self, name: str) -> str:
        """Return the id of the tenant with this id or domain; empty where there is none."""
        return self._tenants.get(name.lower(), "")

    def add_identity(self, resource_id: str, *, client_id: str = "", object_id: str = "") -> ManagedIdentity:
        """Create a user-assigned identity; ids that are not given are drawn."""
        identity = ManagedIdentity(
            resource_id, client_id or str(uuid.uuid4()), object_id or str(uuid.uuid4()), self.tenant_id
        )
        self._managed[resource_id.lower()] = identity
        return identity

    def remove_identity(self, resource_id: str) -> None:
        """Remove the identity and its roles. Do nothing if it does not exist."""
        gone = self._managed.pop(resource_id.lower(), None)
        if gone is not None:
            self._roles.pop(gone.object_id, None)
            self._federated.pop(gone.client_id.lower(), None)

    def add_principal(
        self, *, client_id: str = "", secret: str = "", certificate: x509.Certificate | None = None
    ) -> ServicePrincipal:
        """Create an application and its principal in the own tenant, with a new secret if no credential is given."""
        chosen = secret or ("" if certificate is not None else uuid.uuid4().hex)
        application = AppRegistration(client_id or str(uuid.uuid4()))
        if chosen:
            application.secrets[chosen] = float("-inf")
        if certificate is not None:
            application.certificates.append(certificate)
        self._applications[application.client_id.lower()] = application
        return self._join(application, self.tenant_id, chosen)

    def consent(self, client_id: str, tenant: str) -> ServicePrincipal:
        """Create a principal of the application in another tenant. Raise KeyError if either is unknown."""
        return self._join(self._applications[client_id.lower()], self._tenants[tenant.lower()], "")

    def _join(self, application: AppRegistration, tenant_id: str, secret: str) -> ServicePrincipal:
        principal = ServicePrincipal(application.client_id, str(uuid.uuid4()), tenant_id, secret)
        self._principals[tenant_id.lower(), application.client_id.lower()] = principal
        return principal

    def application(self, client_id: str) -> AppRegistration | None:
        """Return the application with this client id, in any tenant."""
        return self._applications.get(client_id.lower())

    def identity(self, resource_id: str) -> ManagedIdentity | None:
        """Return the user-assigned identity with this resource id."""
        return self._managed.get(resource_id.lower())

    def managed(self, client_id: str, tenant: str = "") -> ManagedIdentity | None:
        """Return the user-assigned identity with this client id. None if *tenant* is given and is another one."""
        if tenant and self.tenant(tenant) != self.tenant_id:
            return None
        return next(
            (identity for identity in self._managed.values() if identity.client_id.lower() == client_id.lower()), None
        )

    def principal(self, client_id: str, tenant: str = "") -> ServicePrincipal | None:
        """Return the application's service principal in *tenant*, or in the directory's own."""
        tenant_id = self.tenant(tenant) if tenant else self.tenant_id
        return self._principals.get((tenant_id.lower(), client_id.lower()))

    def federate(self, client_id: str, credential: FederatedCredential) -> None:
        """Let a user-assigned identity or an application trust assertions. Raise DirectoryError as Azure refuses."""
        if self.managed(client_id) is None and self.application(client_id) is None:
            raise DirectoryError(f"There is no identity and no application with client id '{client_id}'.")
        credentials = self._federated.setdefault(client_id.lower(), [])
        if any((former.issuer, former.subject) == (credential.issuer, credential.subject) for former in credentials):
            raise DirectoryError("Issuer and subject combination already exists for this identity.")
        if len(credentials) >= FEDERATED_MAX:
            raise DirectoryError(f"Too many federated identity credentials: an identity may have {FEDERATED_MAX}.")
        credentials.append(credential)

    def unfederate(self, client_id: str, issuer: str, subject: str) -> None:
        """Remove the credential. Do nothing if it does not exist."""
        credentials = self._federated.get(client_id.lower(), [])
        credentials[:] = [
            credential for credential in credentials if (credential.issuer, credential.subject) != (issuer, subject)
        ]

    def federated(self, client_id: str, now: float) -> list[FederatedCredential]:
        """Return the credentials of the identity or application that are effective at *now*."""
        return [credential for credential in self._federated.get(client_id.lower(), []) if credential.known_from <= now]

    def grant(self, object_id: str, *roles: str) -> None:
        """Grant roles (`Reader`, `Contributor`, `Storage Blob Data Contributor`) on everything to this object id."""
        self._roles.setdefault(object_id, set()).update(roles)

    def revoke(self, object_id: str) -> None:
        """Revoke all roles of this object id."""
        self._roles.pop(object_id, None)

    def may(self, object_id: str, roles: Iterable[str]) -> bool:
        """Return whether this object id has one of *roles*."""
        return not self._roles.get(object_id, set()).isdisjoint(roles)

    def has_role(self, object_id: str) -> bool:
        """Return whether this object id has any role."""
        return bool(self._roles.get(object_id))
