"""Endpoint that NMI would ask for a token of an identity, or its refusal, by NMI's own rules. Pure."""

from collections.abc import Mapping
from typing import Final

from nmi.choices import OperationMode
from nmi.error_refusals import refusal_of
from nmi.policies import sign_in_policy
from nmi.refusal import UNSUPPORTED_TYPE, Reason, Refusal
from nmi.settings import NmiSettings
from nmi.tokens import federated, user_assigned
from nmi.tokens.endpoints import Application
from nmi.tokens.source import PolicyError
from nmi.tokens.token_proxy import Exchanges
from podidctl.facts.model import NmiConfiguration
from podidentity.azure.errors import AzureError
from podidentity.azure.federation import BINDING_AUDIENCE, Exchange
from podidentity.resources import AzureIdentity, IdentityType

TYPE_NAMES: Final[Mapping[int, str]] = {
    IdentityType.USER_ASSIGNED: "user-assigned identity",
    IdentityType.SECRET: "service principal with a secret",
    IdentityType.CERTIFICATE: "service principal with a certificate",
    IdentityType.FEDERATED: "federated identity",
}
SERVICE_PRINCIPAL_TYPES: Final = frozenset({IdentityType.SECRET, IdentityType.CERTIFICATE})
SIGN_IN_TYPES: Final = SERVICE_PRINCIPAL_TYPES | {IdentityType.FEDERATED}
"""Identity types whose tokens come from a sign-in endpoint."""
PROXY_NAME: Final = "the cluster's token proxy (AKS identity bindings)"


def exchanges_of(settings: NmiSettings) -> Exchanges:
    """Return the exchanges of an NMI with these *settings*. Its token proxy is not known: AKS sets that in its pod."""
    return Exchanges(settings.federated_exchange, settings.federated_exchange_annotation)


def exchange_of(settings: NmiSettings, identity: AzureIdentity) -> Exchange:
    """Return the exchange for *identity*. Raise PolicyError if NMI refuses the identity's annotation."""
    return exchanges_of(settings).choose(identity)


def audience_of(settings: NmiSettings, exchange: Exchange) -> str:
    """Return the audience of the service account tokens that NMI requests."""
    return BINDING_AUDIENCE if exchange is Exchange.IDENTITY_BINDINGS else settings.federated_audience


def describe_token_source(
    settings: NmiSettings, identity: AzureIdentity, resource: str, *, account: str = "the pod's own"
) -> str | Refusal:
    """Return the endpoint that an NMI with these *settings* asks for a token of *identity*, or its refusal.

    *account* is the text for the pod's service account.
    """
    try:
        return _source(settings, identity, resource, account) or UNSUPPORTED_TYPE
    except PolicyError as error:
        return Refusal(Reason.POLICY, error.sentence, error.detail)
    except AzureError as error:
        return refusal_of(error)


def unknown_cloud_note(rules: NmiConfiguration, identity: AzureIdentity) -> str:
    """Return a note if settings that cannot be read here may allow more endpoints; else an empty string."""
    if rules.cloud_file and identity.spec.type in SIGN_IN_TYPES:
        return f"NMI's cloud file ({rules.cloud_file}) cannot be read from here and may allow more endpoints"
    return ""


def _source(settings: NmiSettings, identity: AzureIdentity, resource: str, account: str) -> str:
    """Return the endpoint, or an empty string for an unknown type. Raises PolicyError or AzureError if NMI refuses."""
    match identity.spec.type:
        case IdentityType.USER_ASSIGNED:
            user_assigned.check(identity)
            # NMI names an identity to IMDS by its resource id in managed mode, and by its client id in standard mode.
            managed = settings.operation_mode is OperationMode.MANAGED
            by = user_assigned.imds_selector(identity, by_resource_id=managed)
            return f"IMDS of the node, by {'client id' if by.client_id else 'resource id'}"
        case type_ if type_ in SERVICE_PRINCIPAL_TYPES:
            application = sign_in_policy(settings).application(identity)
            proof = "certificate" if type_ == IdentityType.CERTIFICATE else "secret"
            tenants = ", ".join(application.tenants)
            return (
                f"{application.authority.url}, tenant {tenants}, scope {resource}/.default, with the {proof} in Secret "
                f"{application.secret}"
            )
        case IdentityType.FEDERATED:
            enabled = settings.federated_identities
            trusting = federated.check(
                sign_in_policy(settings), identity, enabled=enabled, exchanges=exchanges_of(settings)
            )
            exchange = exchange_of(settings, identity)
            direct = exchange is Exchange.DIRECT
            return (
                f"{trusting.authority.url if direct else PROXY_NAME}, tenant {trusting.tenant}, scope "
                f"{resource}/.default, with a token of service account {account} for {audience_of(settings, exchange)}"
            )
        case _:
            return ""


def application_of(settings: NmiSettings, identity: AzureIdentity) -> Application | None:
    """Return the sign-in of a service principal, or None if NMI reads no Secret for *identity*."""
    if identity.spec.type not in SERVICE_PRINCIPAL_TYPES:
        return None
    try:
        return sign_in_policy(settings).application(identity)
    except PolicyError:
        return None
