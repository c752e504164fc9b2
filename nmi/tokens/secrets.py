"""The Secrets of service principals: read for one fetch, dropped after it, never shown.

`Secrets` stores only the version of a Secret that last brought a token: it is part of the token's cache key.
"""

import sys
from collections.abc import Callable
from typing import Final

from nmi.tokens.endpoints import Application
from nmi.tokens.namespace_table import NamespaceTable
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.hidden_fields import HidingStruct
from podidentity.kube import errors as kube
from podidentity.kube.client import Client
from podidentity.resources import Kind, Resource

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

CLIENT_SECRET_MAX: Final = 4096
"""Bytes. Azure's secrets have 40."""
VERSIONS_MAX: Final = 1024


class CredentialError(Refused):
    """The Secret does not exist, NMI may not read it, or its content is invalid.

    The message names the Secret and the next action, never its content.
    """


class SignerError(AzureError):
    """This node did not sign a request, so none was sent. The next attempt may succeed."""


class Secret(Resource, frozen=True):
    """A Secret with its decoded values."""

    data: dict[str, bytes] | None = None

    @override
    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name})"

    __str__ = __repr__

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Return the name only: msgspec's default shows every field to printers other than `repr`."""
        return [("name", f"{self.metadata.namespace}/{self.metadata.name}")]


SECRETS: Final = Kind("Secret", "secrets", Secret)


class ClientSecret(HidingStruct, frozen=True):
    """The credential of an application of type 1."""

    hidden = frozenset({"value"})

    value: str
    version: str
    note: str = ""
    """A peculiarity of the value, shown to the operator if Azure refuses it."""


class KeyStore(HidingStruct, frozen=True):
    """The credential of an application of type 2: an unchecked PKCS #12 file and its password."""

    hidden = frozenset({"pfx", "password"})

    pfx: bytes
    password: bytes
    version: str
    note: str = ""


class Secrets:
    """Reader of Secrets that stores the version with the last accepted credential. The caller owns the client."""

    def __init__(self, client: Client, *, count_failure: Callable[[], None] = lambda: None) -> None:
        """*count_failure* is called for each read that does not return the Secret."""
        self._client = client
        self._count_failure = count_failure
        self._versions: NamespaceTable[str, str] = NamespaceTable(VERSIONS_MAX)

    def accepted_version(self, application: Application) -> str:
        """Return the version of the Secret that last brought a token (`uid/resourceVersion`); empty if unknown.

        This is not the version read last: while Azure does not accept a new one yet, the tokens of the old one remain
        in use.
        """
        return self._versions.use(application.secret, application.namespace) or ""

    def accept(self, application: Application, version: str) -> None:
        """Store *version* as the one that last brought a token."""
        self._versions.put(application.secret, version, application.namespace)
        self._versions.trim()

    async def client_secret(self, application: Application) -> ClientSecret:
        """Return the value of the first key in alphabetical order. Raise AzureError."""
        secret = await self._read(application)
        data = secret.data or {}
        if not data:
            raise _unfit(application, "is empty: give it one key with the application's secret as its value")
        key = min(data)
        value = data[key]
        if not 0 < len(value) <= CLIENT_SECRET_MAX:
            raise _unfit(application, f"has {len(value)} bytes under its key: put the application's secret there")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise _unfit(application, "does not contain text: put the application's secret there")
        notes = ["its value begins or ends with a blank or a newline"] if text != text.strip() else []
        if len(data) > 1:
            notes.append("it has several keys, of which the first in alphabetical order is used")
        return ClientSecret(text, _version(secret), "; ".join(notes))

    async def key_store(self, application: Application) -> KeyStore:
        """Return the values of `certificate` and, if present, `password`. Raise AzureError."""
        secret = await self._read(application)
        data = secret.data or {}
        pfx = data.get("certificate", b"")
        if not pfx:
            raise _unfit(application, "has no key `certificate`: put the PKCS #12 (PFX) file there")
        password = data.get("password", b"")
        note = "its password begins or ends with a blank or a newline" if password != password.strip() else ""
        return KeyStore(pfx, password, _version(secret), note)

    async def _read(self, application: Application) -> Secret:
        try:
            return await self._client.get(SECRETS, application.secret_namespace, application.secret_name)
        except kube.ApiError as error:
            self._count_failure()
            failure = _failure(application, error)
        raise failure


def _version(secret: Secret) -> str:
    return f"{secret.metadata.uid}/{secret.metadata.resource_version}"


def _unfit(application: Application, fault: str) -> CredentialError:
    return CredentialError(f"Secret {application.secret} {fault}", code="secret_unfit")


def _failure(application: Application, error: kube.ApiError) -> AzureError:
    """Translate an error of the API server."""
    secret = application.secret
    if isinstance(error, kube.NotFound):
        return CredentialError(
            f"Secret {secret} does not exist: create it, or correct clientPassword of {application.identity}",
            code="secret_missing",
        )
    if isinstance(error, kube.Forbidden | kube.Unauthorized):
        return CredentialError(
            f"NMI may not read Secret {secret}: allow its service account the verb get on it, by adding namespace "
            f"{application.secret_namespace} to the chart's rbac.secretNamespaces, or by nmi.servicePrincipals=true "
            f"for all namespaces, with rbac.allowAccessToSecrets=true",
            code="secret_forbidden",
        )
    return Unreachable(
        f"the API server did not return Secret {secret}: {error}",
        code="secret_unavailable",
        retry_after=error.retry_after,
    )
