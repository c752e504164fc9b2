"""Whom NMI asks for a token of an identity that a pod may have, or what keeps it from asking anybody. Pure."""

from collections.abc import Mapping
from typing import Final

from nmi.error_refusals import refusal_of
from nmi.flag_table import OperationMode
from nmi.issuer import UNSUPPORTED_TYPE
from nmi.policies import sign_in_policy
from nmi.refusal import Reason, Refusal
from nmi.settings import Settings
from nmi.tokens import federated, user_assigned
from nmi.tokens.source import PolicyError
from podidctl.diagnosis.input import NmiConfiguration
from podidentity.azure.errors import AzureError
from podidentity.resources import AzureIdentity, IdentityType

TYPE_NAMES: Final[Mapping[int, str]] = {
    IdentityType.USER_ASSIGNED: "user-assigned identity",
    IdentityType.SECRET: "service principal with a secret",
    IdentityType.CERTIFICATE: "service principal with a certificate",
    IdentityType.FEDERATED: "federated identity",
}
SERVICE_PRINCIPAL_TYPES: Final = frozenset({IdentityType.SECRET, IdentityType.CERTIFICATE})
SIGN_IN_TYPES: Final = SERVICE_PRINCIPAL_TYPES | {IdentityType.FEDERATED}
"""Types source tokens NMI gets from a sign-in endpoint."""


def describe_token_source(
    settings: Settings, identity: AzureIdentity, resource: str, *, account: str = "the pod's own"
) -> str | Refusal:
    """Whom an NMI with these *settings* asks for a token of *identity*; or what it answers without asking.

    *account*: how the pod's service account is to be called.
    """
    try:
        return _source(settings, identity, resource, account) or UNSUPPORTED_TYPE
    except PolicyError as error:
        return Refusal(Reason.POLICY, error.sentence, error.detail)
    except AzureError as error:
        return refusal_of(error)


def unknown_cloud_note(rules: NmiConfiguration, identity: AzureIdentity) -> str:
    """What could make it otherwise, and is not known here; or an empty string."""
    if rules.cloud_file and identity.spec.type in SIGN_IN_TYPES:
        return f"NMI's own description of a cloud ({rules.cloud_file}) cannot be read from here and may allow more"
    return ""


def _source(settings: Settings, identity: AzureIdentity, resource: str, account: str) -> str:
    """Empty for a type that NMI does not know. Raises what keeps NMI from asking: PolicyError, AzureError."""
    match identity.spec.type:
        case IdentityType.USER_ASSIGNED:
            user_assigned.check(identity)
            managed = settings.operation_mode is OperationMode.MANAGED
            by = user_assigned.imds_selector(identity, by_resource_id=managed)
            return f"IMDS of the node, by {'client id' if by.client_id else 'resource id'}"
        case type_ if type_ in SERVICE_PRINCIPAL_TYPES:
            application = sign_in_policy(settings).application(identity)
            proof = "certificate" if type_ == IdentityType.CERTIFICATE else "secret"
            tenants = ", ".join(application.tenants)
            return (
                f"{application.authority.url}, tenant {tenants}, scope {resource}/.default, by the {proof} in Secret "
                f"{application.secret}"
            )
        case IdentityType.FEDERATED:
            enabled = settings.federated_identities
            trusting = federated.check(sign_in_policy(settings), identity, enabled=enabled)
            return (
                f"{trusting.authority.url}, tenant {trusting.tenant}, scope {resource}/.default, by a token of service "
                f"account {account} for {settings.federated_audience}"
            )
        case _:
            return ""
