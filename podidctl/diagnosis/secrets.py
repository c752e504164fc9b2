"""Checks of the Secrets that identities of type 1 and 2 name, by NMI's own reader. No value leaves this module."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from nmi.policies import sign_in_policy
from nmi.settings import Settings
from nmi.tokens.endpoints import Application
from nmi.tokens.secrets import CredentialError, Secrets
from nmi.tokens.source import PolicyError
from podidctl.diagnosis.batches import in_batches
from podidctl.diagnosis.input import IdentityKey, ReadFailure, SecretCheck
from podidctl.diagnosis.token_source import SERVICE_PRINCIPAL_TYPES
from podidentity.azure.errors import AzureError
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, IdentityType

READ_PERMISSION: Final = (
    "run this command with permission to get these Secrets: only the presence of their keys is checked"
)
SECRETS_MAX: Final = 200
"""Secrets that one command reads."""
NOT_READ: Final = ReadFailure(f"one run reads at most {SECRETS_MAX} Secrets")
"""The check of a Secret beyond that limit."""


def application_of(settings: Settings, identity: AzureIdentity) -> Application | None:
    """Return the sign-in of a service principal, or None if NMI reads no Secret for *identity*."""
    if identity.spec.type not in SERVICE_PRINCIPAL_TYPES:
        return None
    try:
        return sign_in_policy(settings).application(identity)
    except PolicyError:
        return None


async def read_secret_checks(
    client: Client, settings: Settings, identities: Iterable[AzureIdentity]
) -> Mapping[IdentityKey, SecretCheck]:
    """Return the check of each service principal's Secret, by the identity's key. Identities without one are left out.

    The first SECRETS_MAX are read, and the others are NOT_READ. Raises ApiError only if the API server does not
    respond.
    """
    secrets = Secrets(client)
    applications = [(each.key, found) for each in identities if (found := application_of(settings, each)) is not None]
    read = applications[:SECRETS_MAX]
    checks = await in_batches(partial(_check, secrets, application) for _, application in read)
    result: dict[IdentityKey, SecretCheck] = {key: NOT_READ for key, _ in applications}
    result.update((key, check) for (key, _), check in zip(read, checks, strict=True))
    return result


async def _check(secrets: Secrets, application: Application) -> SecretCheck:
    try:
        if application.type == IdentityType.SECRET:
            await secrets.client_secret(application)
        else:
            await secrets.key_store(application)
    except CredentialError as error:
        # The text of `secret_forbidden` is about NMI's permission. Here the caller of the command lacks it.
        if error.code == "secret_forbidden":
            return ReadFailure(f"you may not get Secret {application.secret}")
        return error
    except AzureError as error:
        return ReadFailure(error.message)
    return None
