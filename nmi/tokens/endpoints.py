"""The policy for sign-ins, applied before anything is read or sent: the allowed Secrets and the allowed endpoints.

Permission to create an AzureIdentity must not give access to other namespaces' Secrets, nor let NMI send a Secret or a
pod's assertion to an arbitrary server. Pure: it turns an AzureIdentity into the values of a sign-in or a PolicyError.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from nmi.tokens.source import IdentityKey, PolicyError
from podidentity.azure.clouds import Cloud, Endpoint, known_sign_in_hosts, parse_endpoint
from podidentity.flags import quoted
from podidentity.resources import AzureIdentity, IdentityType

AUXILIARY_MAX: Final = 8
"""Resource Manager, the only service with auxiliary tenants, accepts tokens of three."""

ADFS: Final = "adfs"
"""The value of the tenant for a sign-in at Active Directory Federation Services."""

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TENANT: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)
"""A GUID, a domain name, or one word."""
_TENANT_MAX: Final = 253
_CLIENT_MAX: Final = 256
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
"""The names that Kubernetes accepts for a Secret; looser than its rule for namespaces."""


class Application(msgspec.Struct, frozen=True):
    """The validated, normalized values of an AzureIdentity of type 1 or 2."""

    identity: str
    """The AzureIdentity as `namespace/name`."""
    namespace: str
    type: int
    client_id: str
    tenants: tuple[str, ...]
    """The identity's own tenant first."""
    authority: Endpoint
    secret_namespace: str
    secret_name: str

    @property
    def secret(self) -> str:
        """The Secret as `namespace/name`."""
        return f"{self.secret_namespace}/{self.secret_name}"

    def key(self, credential: str) -> IdentityKey:
        """Return the part of a token's key that depends on the application; *credential* as in IdentityKey."""
        tenants, endpoint = " ".join(self.tenants).lower(), self.authority.url
        return IdentityKey(self.type, self.client_id.lower(), "", tenants, endpoint, self.secret, credential)


class Federation(msgspec.Struct, frozen=True):
    """The validated, normalized values of an AzureIdentity of type 3."""

    identity: str
    """The AzureIdentity as `namespace/name`."""
    client_id: str
    tenant: str
    authority: Endpoint

    def key(self, exchange: str) -> IdentityKey:
        """Return the part of a token's key that depends on the identity. The exchange is part of it, because a refresh
        uses the identity of its first request: after a change of the exchange it would use the former one.
        """
        endpoint = f"{self.authority.url} {exchange}"
        return IdentityKey(IdentityType.FEDERATED, self.client_id.lower(), "", self.tenant.lower(), endpoint)


class SignInPolicy:
    """The Secrets and endpoints that service principals and federated identities may use on this node."""

    def __init__(
        self, cloud: Cloud, *, allowed_endpoints: Iterable[str] = (), allow_cross_namespace: bool = False
    ) -> None:
        """*cloud* is the cloud of the node. Raise ValueError for an invalid allowed endpoint."""
        self._authority = _own(cloud.authority)
        allowed = [_own(text) for text in allowed_endpoints]
        # An exact set: a disguised adEndpoint must not receive a Secret or a pod's assertion.
        hosts = known_sign_in_hosts() | cloud.known_hosts
        self._allowed = frozenset((self._authority, *allowed, *(_own(f"https://{host}") for host in hosts)))
        self._allow_cross_namespace = allow_cross_namespace

    def application(self, identity: AzureIdentity) -> Application:
        """Return the values for a fetch of *identity*. Raise PolicyError, which describes the identity only."""
        spec, namespace = identity.spec, identity.metadata.namespace
        name = f"{namespace}/{identity.metadata.name}"
        client_id = _client(spec.client_id, name)
        secret_namespace, secret_name = self._secret(identity, name)
        tenants = _tenants(spec.tenant_id, spec.auxiliary_tenant_ids or (), name)
        authority = self._endpoint(spec.ad_endpoint, name)
        if tenants[0].lower() == ADFS and authority.path.lower().endswith(f"/{ADFS}"):
            # The endpoint of an Azure Stack already ends with the tenant part.
            authority = replace(authority, path=authority.path[: -len(ADFS) - 1])
        return Application(
            identity=name,
            namespace=namespace,
            type=spec.type,
            client_id=client_id,
            tenants=tenants,
            authority=authority,
            secret_namespace=secret_namespace,
            secret_name=secret_name,
        )

    def federation(self, identity: AzureIdentity) -> Federation:
        """Return the values for a fetch of the federated *identity*. Raise PolicyError, which describes it only."""
        spec = identity.spec
        name = f"{identity.metadata.namespace}/{identity.metadata.name}"
        client_id = _client(spec.client_id, name)
        if spec.auxiliary_tenant_ids:
            raise _incomplete(name, "has auxiliaryTenantIDs, which type 3 (federated) does not use: omit them")
        (tenant,) = _tenants(spec.tenant_id, (), name)
        if tenant.lower() == ADFS:
            raise _incomplete(name, "has tenant adfs, where there are no federated identities: set tenantID to a GUID")
        return Federation(name, client_id, tenant, self._endpoint(spec.ad_endpoint, name))

    def _secret(self, identity: AzureIdentity, name: str) -> tuple[str, str]:
        """Return namespace and name of the Secret. Without a namespace, it is in the identity's namespace."""
        own, reference = identity.metadata.namespace, identity.spec.client_password
        if reference is None or not _NAME.fullmatch(reference.name):
            raise _incomplete(name, "names no Secret: set clientPassword to the name and namespace of one")
        namespace = reference.namespace or own
        if not _NAME.fullmatch(namespace):
            raise _incomplete(name, f"names a Secret in namespace {quoted(namespace)}, which is not a valid name")
        # Anyone who may write an AzureIdentity could otherwise use Secrets of all namespaces.
        if namespace != own and not self._allow_cross_namespace:
            raise PolicyError(
                "This identity names a Secret of another namespace, which this node does not allow "
                "(--allow-cross-namespace-secrets).",
                f"AzureIdentity {name} names Secret {namespace}/{reference.name}, which was not read: put the "
                f"Secret and the AzureIdentity into one namespace, or start NMI with --allow-cross-namespace-secrets",
            )
        return namespace, reference.name

    def _endpoint(self, text: str, name: str) -> Endpoint:
        if not text:
            return self._authority
        endpoint = parse_endpoint(text)
        if endpoint is None or endpoint not in self._allowed:
            raise PolicyError(
                "This identity's adEndpoint is not allowed on this node (--allowed-ad-endpoints).",
                f"AzureIdentity {name} has adEndpoint {quoted(text)}; nothing was sent to it: omit it, use a cloud's "
                f"endpoint such as https://login.microsoftonline.com/, or add it to --allowed-ad-endpoints",
            )
        return endpoint


def _own(text: str) -> Endpoint:
    """Return the endpoint of an operator's setting. Raise ValueError."""
    endpoint = parse_endpoint(text)
    if endpoint is None:
        raise ValueError(f"{quoted(text)} is not an endpoint; write it as https://host/")
    return endpoint


def _client(client_id: str, name: str) -> str:
    stripped = client_id.strip()
    if not 0 < len(stripped) <= _CLIENT_MAX:
        raise _incomplete(name, "has no usable clientID: set it to the client id of the application or identity")
    return stripped


def _tenants(own: str, further: Iterable[str], name: str) -> tuple[str, ...]:
    tenants = tuple(tenant.strip() for tenant in (own, *further))
    if len(tenants) > AUXILIARY_MAX + 1:
        raise _incomplete(name, f"has more than {AUXILIARY_MAX} auxiliaryTenantIDs: Azure itself uses three")
    for tenant in tenants:
        if len(tenant) > _TENANT_MAX or not _TENANT.fullmatch(tenant):
            raise _incomplete(
                name, f"has tenant {quoted(tenant)}: write the tenant's id (a GUID) or one of its domain names"
            )
    return tenants


def _incomplete(name: str, fault: str) -> PolicyError:
    """Return the error for a fault that no flag allows: the AzureIdentity itself must be corrected."""
    return PolicyError(
        "No token can be fetched for this identity's AzureIdentity; its owner must correct it.",
        f"AzureIdentity {name} {fault}",
    )
