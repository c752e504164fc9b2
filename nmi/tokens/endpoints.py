"""What may be proved to whom, decided before anything is read or sent: whose Secret is used, and where a proof goes.

Whoever may create an AzureIdentity must not thereby be able to read other people's Secrets, nor have NMI post one, or
a pod's assertion, to a server of their choosing. Pure: from an AzureIdentity to what a fetch needs, or a PolicyError.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from nmi.tokens.source import PolicyError
from podidentity.azure.clouds import Cloud, Endpoint, known_sign_in_hosts, parse_endpoint
from podidentity.flags import quoted
from podidentity.resources import AzureIdentity

AUXILIARY_MAX: Final = 8
"""Resource Manager, for which there are further tenants at all, takes tokens of three."""

ADFS: Final = "adfs"
"""What stands for a tenant where Active Directory Federation Services sign in."""

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TENANT: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)
"""A GUID, a domain name, or one word."""
_TENANT_MAX: Final = 253
_CLIENT_MAX: Final = 256
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
"""What Kubernetes accepts as the name of a Secret; stricter than it is for a namespace."""


@dataclass(frozen=True, slots=True)
class Application:
    """What an AzureIdentity of type 1 or 2 says, checked, in the spelling that is used."""

    identity: str
    """The AzureIdentity as `namespace/name`."""
    namespace: str
    type: int
    client_id: str
    tenants: tuple[str, ...]
    """The identity's own first."""
    authority: Endpoint
    secret_namespace: str
    secret_name: str

    @property
    def secret(self) -> str:
        """The Secret as `namespace/name`."""
        return f"{self.secret_namespace}/{self.secret_name}"


@dataclass(frozen=True, slots=True)
class Trusting:
    """What an AzureIdentity of type 3 says, checked, in the spelling that is used: who is to trust the pod."""

    identity: str
    """The AzureIdentity as `namespace/name`."""
    client_id: str
    tenant: str
    authority: Endpoint


class SignInPolicy:
    """Which Secrets and endpoints are open to service principals and federated identities on this node."""

    def __init__(
        self, cloud: Cloud, *, allowed_endpoints: Iterable[str] = (), allow_cross_namespace: bool = False
    ) -> None:
        """*cloud* is the one that NMI runs in. Raises ValueError for an allowed endpoint that is none."""
        self._authority = _own(cloud.authority)
        allowed = [_own(text) for text in allowed_endpoints]
        hosts = known_sign_in_hosts() | cloud.known_hosts
        self._allowed = frozenset((self._authority, *allowed, *(_own(f"https://{host}") for host in hosts)))
        self._allow_cross_namespace = allow_cross_namespace

    def application(self, identity: AzureIdentity) -> Application:
        """What a fetch for *identity* needs. Raises PolicyError, which tells of nothing but the identity itself."""
        spec, namespace = identity.spec, identity.metadata.namespace
        name = f"{namespace}/{identity.metadata.name}"
        client_id = _client(spec.client_id, name)
        secret_namespace, secret_name = self._secret(identity, name)
        tenants = _tenants(spec.tenant_id, spec.auxiliary_tenant_ids or (), name)
        authority = self._endpoint(spec.ad_endpoint, name)
        if tenants[0].lower() == ADFS and authority.path.lower().endswith(f"/{ADFS}"):
            # A stack describes its endpoint with what stands for the tenant already there.
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

    def trusting(self, identity: AzureIdentity) -> Trusting:
        """What a fetch for the federated *identity* needs. Raises PolicyError, which tells of the identity alone."""
        spec = identity.spec
        name = f"{identity.metadata.namespace}/{identity.metadata.name}"
        client_id = _client(spec.client_id, name)
        if spec.auxiliary_tenant_ids:
            raise _incomplete(name, "has auxiliaryTenantIDs, which type 3 (federated) has no use for: leave them out")
        (tenant,) = _tenants(spec.tenant_id, (), name)
        if tenant.lower() == ADFS:
            raise _incomplete(name, "has tenant adfs, where there are no federated identities: set tenantID to a GUID")
        return Trusting(name, client_id, tenant, self._endpoint(spec.ad_endpoint, name))

    def _secret(self, identity: AzureIdentity, name: str) -> tuple[str, str]:
        """Namespace and name of the Secret; one that is named without a namespace lies beside the identity."""
        own, reference = identity.metadata.namespace, identity.spec.client_password
        if reference is None or not _NAME.fullmatch(reference.name):
            raise _incomplete(name, "names no Secret: set clientPassword to the name and namespace of one")
        namespace = reference.namespace or own
        if not _NAME.fullmatch(namespace):
            raise _incomplete(name, f"names a Secret in namespace {quoted(namespace)}, which no namespace is called")
        if namespace != own and not self._allow_cross_namespace:
            raise PolicyError(
                "This identity names a Secret of another namespace, which this node does not allow "
                "(--allow-cross-namespace-secrets).",
                f"AzureIdentity {name} names Secret {namespace}/{reference.name}, which has not been read: put the "
                f"Secret and the AzureIdentity into one namespace, or start NMI with --allow-cross-namespace-secrets",
            )
        return namespace, reference.name

    def _endpoint(self, text: str, name: str) -> Endpoint:
        if not text:
            return self._authority
        endpoint = parse_endpoint(text)
        if endpoint is None or endpoint not in self._allowed:
            raise PolicyError(
                "This identity's adEndpoint is none that secrets may be sent to from this node "
                "(--allowed-ad-endpoints).",
                f"AzureIdentity {name} has adEndpoint {quoted(text)}, to which nothing has been sent: leave it out, "
                f"write a cloud's own as in https://login.microsoftonline.com/, or add it to --allowed-ad-endpoints",
            )
        return endpoint


def _own(text: str) -> Endpoint:
    """An endpoint out of the operator's hand. Raises ValueError."""
    endpoint = parse_endpoint(text)
    if endpoint is None:
        raise ValueError(f"{quoted(text)} is no endpoint; write it as https://host/")
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


def _incomplete(name: str, what: str) -> PolicyError:
    """For what no switch allows: the AzureIdentity itself must be set right."""
    return PolicyError(
        "This identity's AzureIdentity is not one that a token can be fetched for; its owner must set it right.",
        f"AzureIdentity {name} {what}",
    )
