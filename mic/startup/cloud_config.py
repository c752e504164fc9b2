"""MIC's own credentials: azure.json, or the environment if there is no such file. podidctl can also use those of the
Azure CLI.

MIC reads the file again when it changes, so that a rotated secret needs no restart. No message and no `repr` contains a
secret.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, NoReturn

import aiohttp
from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity import AzureCliCredential
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential
from typing_extensions import override

from podidentity.azure.ca_bundle import CaBundle, CaBundleError
from podidentity.azure.clouds import Cloud, CloudError, by_name, unambiguous
from podidentity.azure.resource_ids import parse_user_assigned

log = logging.getLogger(__name__)

REREAD_SECONDS: Final = 5.0
"""Interval of checks of the file. Kubernetes itself takes a minute to update a mounted Secret."""

MANAGED: Final = "msi"
"""Value in azure.json in place of a client id or secret if a managed identity is used."""


class ConfigError(Exception):
    """The configuration cannot be used; the message is one line and states what to do."""


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """MIC's identity at Azure, and the cloud."""

    cloud: str = ""
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    use_managed_identity: bool = False
    user_assigned_identity: str = ""
    """MIC's managed identity by client id or resource id. On most clusters it is the cluster's own, so MIC neither
    detaches nor assigns it. Empty means the system-assigned identity."""

    @property
    def managed(self) -> bool:
        """Return whether MIC uses a managed identity rather than a service principal."""
        return self.use_managed_identity or MANAGED in {self.client_id.lower(), self.client_secret.lower()}


_ENVIRONMENT: Final = {
    "cloud": "CLOUD",
    "tenantid": "TENANT_ID",
    "aadclientid": "CLIENT_ID",
    "aadclientsecret": "CLIENT_SECRET",
    "usemanagedidentityextension": "USE_MSI",
    "userassignedidentityid": "USER_ASSIGNED_MSI_CLIENT_ID",
}


def read(path: str, environ: Mapping[str, str]) -> CloudConfig:
    """Return the configuration in the file *path*, or in *environ* if *path* is empty. Raise ConfigError."""
    if path:
        source, fields = f"--cloudconfig {path!r}", _in_file(Path(path))
    else:
        source, fields = "the environment", {name: environ.get(key, "") for name, key in _ENVIRONMENT.items()}

    def text(name: str) -> str:
        value = fields.get(name.lower(), "")
        return value.strip() if isinstance(value, str) else ""

    # A boolean in azure.json, a text in the environment.
    use_msi = fields.get("usemanagedidentityextension", "")
    config = CloudConfig(
        cloud=text("cloud"),
        tenant_id=text("tenantId"),
        client_id=text("aadClientId"),
        client_secret=text("aadClientSecret"),
        use_managed_identity=use_msi is True or (isinstance(use_msi, str) and use_msi.strip().lower() == "true"),
        user_assigned_identity=text("userAssignedIdentityID"),
    )
    # A misspelled id would protect nothing: MIC compares it with the ids in objects.
    if "/" in config.user_assigned_identity and parse_user_assigned(config.user_assigned_identity) is None:
        name = "userAssignedIdentityID" if path else "USER_ASSIGNED_MSI_CLIENT_ID"
        raise ConfigError(f"{source}: {name} must be a client id, or the resource id of a user-assigned identity")
    if not config.managed:
        names = ("tenantId", "aadClientId", "aadClientSecret") if path else ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")
        values = (config.tenant_id, config.client_id, config.client_secret)
        missing = [name for name, value in zip(names, values, strict=True) if not value]
        if missing:
            instead = "useManagedIdentityExtension" if path else "USE_MSI"
            raise ConfigError(
                f"{source} lacks {', '.join(missing)}: set them, or {instead}=true for a managed identity"
            )
    return config


def _in_file(path: Path) -> dict[str, Any]:
    try:
        document = unambiguous(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read --cloudconfig {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"--cloudconfig {str(path)!r} is not JSON: {error}; write the node's azure.json there"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"--cloudconfig {str(path)!r} must hold one JSON object")
    return {name.lower(): value for name, value in document.items()}


def cloud_of(config: CloudConfig, environment_file: Path | None) -> Cloud:
    """Return the cloud that *config* names. Raise ConfigError."""
    try:
        return by_name(config.cloud, environment_file)
    except CloudError as error:
        raise ConfigError(str(error)) from error


def ca_bundle(path: Path | None) -> CaBundle | None:
    """Return the bundle in *path*, None without a path. Raise ConfigError. Blocking: reads files."""
    try:
        return None if path is None else CaBundle(path)
    except CaBundleError as error:
        raise ConfigError(str(error)) from error


class _Transport(AioHttpTransport):  # type: ignore[misc]  # azure-core declares this name without a type
    """The transport of azure-core, with a TLS context for its connections."""

    def __init__(self, trust: SSLContext) -> None:
        super().__init__()
        self._trust = trust
        self.session: aiohttp.ClientSession | None

    @override
    async def open(self) -> None:
        if self.session is None and not self._has_been_opened:
            # The options of azure-core's own session, apart from the connector.
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=True,
            )
        await super().open()


def credential_for(config: CloudConfig, cloud: Cloud, *, trust: SSLContext | None = None) -> AsyncTokenCredential:
    """Return a new credential of azure-identity, which the caller closes. Raise ConfigError.

    *trust* replaces the CA certificates that the machine trusts.
    """
    if config.managed:
        identity = config.user_assigned_identity
        if "/" in identity:
            return ManagedIdentityCredential(identity_config={"msi_res_id": identity})
        return ManagedIdentityCredential(client_id=identity or None)
    try:
        return ClientSecretCredential(
            config.tenant_id,
            config.client_id,
            config.client_secret,
            authority=cloud.authority,
            # A private cloud is not in Microsoft's directory of clouds, and may not reach it.
            disable_instance_discovery=True,
            **({} if trust is None else {"transport": _Transport(trust)}),
        )
    except ValueError as error:
        raise ConfigError(f"the credentials in the cloud config cannot be used: {error}") from error


class CliCredential(AsyncTokenCredential):
    """Credential of the Azure CLI's sign-in (az login). The CLI runs for each token."""

    def __init__(self, timeout_seconds: int) -> None:
        self._inner = AzureCliCredential(process_timeout=timeout_seconds)

    @override
    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token. Raise what azure-identity raises."""
        # azure-identity's own asynchronous class searches the PATH in the event loop.
        return await asyncio.to_thread(self._inner.get_token, *scopes, **options)

    @override
    async def close(self) -> None:
        """Do nothing: the CLI has ended."""

    @override
    async def __aexit__(self, *_: object) -> None: ...


class RotatingCredential(AsyncTokenCredential):
    """Credential of the current configuration. The task `follow` reads the file again."""

    def __init__(
        self,
        path: str,
        environ: Mapping[str, str],
        cloud: Cloud,
        make: Callable[[CloudConfig, Cloud], AsyncTokenCredential] = credential_for,
    ) -> None:
        """Raise ConfigError. Reads the file, which blocks."""
        self._path = path
        self._environ = environ
        self._cloud = cloud
        self._make = make
        # Before the read: a change in between is read again.
        self._seen = self._stamp()
        self.config = read(path, environ)
        """The configuration in use."""
        self._inner = make(self.config, cloud)

    @override
    async def get_token(
        self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, **options: Any
    ) -> AccessToken:
        """Return a token of the current credential. Raise what azure-identity raises."""
        return await self._inner.get_token(*scopes, claims=claims, tenant_id=tenant_id, **options)

    @override
    async def close(self) -> None:
        """Close the current credential."""
        await self._inner.close()

    @override
    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def follow(self, changed: Callable[[CloudConfig], None]) -> NoReturn:
        """Check the file periodically. If a new one is invalid, log that and keep the old credential.

        *changed* receives each new configuration before its first use.
        """
        while True:
            await asyncio.sleep(REREAD_SECONDS)
            await self.reread(changed)

    async def reread(self, changed: Callable[[CloudConfig], None] = lambda _config: None) -> bool:
        """Read the file if it has changed. Return whether the credential was replaced."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp == self._seen:
            return False
        # Also for a file that turns out to be invalid, which is then reported once.
        self._seen = stamp
        try:
            config = await asyncio.to_thread(self._reread_config)
            fresh = self._make(config, self._cloud)
        except ConfigError as error:
            log.warning("the changed cloud config is invalid; still using the previous one", extra={"error": error})
            return False
        changed(config)
        old, self._inner, self.config = self._inner, fresh, config
        await old.close()
        log.info("the cloud config has changed; using the new credentials", extra={"path": self._path})
        return True

    def _reread_config(self) -> CloudConfig:
        config = read(self._path, self._environ)
        if config.cloud.lower() != self.config.cloud.lower():
            raise ConfigError(f"the cloud has become {config.cloud!r}: restart MIC to move to another one")
        return config

    def _stamp(self) -> tuple[int, int, int] | None:
        """Return a value that changes with the file: Kubernetes replaces the file of a mounted Secret."""
        if not self._path:
            return None
        try:
            status = Path(self._path).stat()
        except OSError:
            return None  # the read states the reason
        return status.st_ino, status.st_mtime_ns, status.st_size
