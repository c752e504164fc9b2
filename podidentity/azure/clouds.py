"""The Azure clouds by name: where to sign in, where Resource Manager answers, and whom its tokens are for.

Four are known to us; an Azure Stack describes itself in a file (go-autorest's `Environment` as JSON, the form that
AZURE_ENVIRONMENT_FILEPATH has always pointed at). Values only: nobody is called from here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit


class CloudError(Exception):
    """The cloud's name or its environment file is unusable; the message says in one line what to do."""


_ENDPOINT: Final = re.compile(
    r"https://(?P<host>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[a-z0-9_-][a-z0-9._-]*)*)/?",
    re.IGNORECASE | re.ASCII,
)
"""Nothing that two readers of URLs could take for different hosts: no user, no query, no escape, no dot segment."""
_HOST_MAX: Final = 253


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An https address that may be sent secrets, in the one spelling that is compared and used."""

    host: str
    """Lower-case; a name, or an IPv4 address as it was written."""
    port: int = 443
    path: str = ""
    """Empty, or with a slash at its beginning and none at its end."""

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        port = "" if self.port == 443 else f":{self.port}"
        return f"https://{self.host}{port}{self.path}"


def parse_endpoint(text: str) -> Endpoint | None:
    """The endpoint that *text* spells, or None where it is not exactly one: scheme, host, perhaps port and path."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or len(match["host"]) > _HOST_MAX:
        return None
    port = int(match["port"] or 443)
    return Endpoint(match["host"].lower(), port, match["path"]) if 0 < port < 65536 else None


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud. URLs are https without a slash at the end; the audience is used as it is spelled."""

    name: str
    authority: str
    """Where Microsoft Entra ID signs in, without the tenant."""
    resource_manager: str
    resource_manager_audience: str
    """The resource that a token for Resource Manager must be for."""
    known_hosts: frozenset[str]
    """The sign-in hosts of this cloud, lower-case, with the port where it is not 443."""


def _cloud(name: str, authority: str, manager: str, audience: str, *more_hosts: str) -> Cloud:
    hosts = frozenset({urlsplit(authority).netloc.lower(), *more_hosts})
    return Cloud(name, authority, manager, audience, hosts)


PUBLIC: Final = _cloud(
    "AzurePublicCloud",
    "https://login.microsoftonline.com",
    "https://management.azure.com",
    "https://management.azure.com/",
    "login.windows.net",
    "login.microsoft.com",
    "sts.windows.net",
)
US_GOVERNMENT: Final = _cloud(
    "AzureUSGovernmentCloud",
    "https://login.microsoftonline.us",
    "https://management.usgovcloudapi.net",
    "https://management.usgovcloudapi.net/",
    "login.usgovcloudapi.net",
)
CHINA: Final = _cloud(
    "AzureChinaCloud",
    "https://login.chinacloudapi.cn",
    "https://management.chinacloudapi.cn",
    "https://management.chinacloudapi.cn/",
    "login.partner.microsoftonline.cn",
)
GERMAN: Final = _cloud(
    "AzureGermanCloud",
    "https://login.microsoftonline.de",
    "https://management.microsoftazure.de",
    "https://management.microsoftazure.de/",
)
STACK_NAME: Final = "AzureStackCloud"

_KNOWN: Final[Mapping[str, Cloud]] = {cloud.name.lower(): cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA, GERMAN)}


def known_sign_in_hosts(clouds: Iterable[Cloud] = _KNOWN.values()) -> frozenset[str]:
    """The sign-in hosts of every cloud that is known by name."""
    return frozenset().union(*(cloud.known_hosts for cloud in clouds))


def by_name(name: str, environment_file: Path | None = None) -> Cloud:
    """The cloud called *name* in any case; an empty name is the public cloud.

    `AzureStackCloud` is read from *environment_file*. Raises CloudError for a name that nobody knows, for a stack
    without a file, and for a file that cannot be used.
    """
    wanted = (name or PUBLIC.name).strip().lower()
    known = _KNOWN.get(wanted)
    if known is not None:
        return known
    if wanted != STACK_NAME.lower():
        names = ", ".join(sorted([cloud.name for cloud in _KNOWN.values()] + [STACK_NAME]))
        raise CloudError(f"unknown cloud {name[:64]!r}: set it to one of {names}")
    if environment_file is None:
        raise CloudError(f"{STACK_NAME} needs its description: set AZURE_ENVIRONMENT_FILEPATH to that JSON file")
    return _described_in(environment_file)


def of_environment(environment_file: Path | None) -> Cloud:
    """The cloud that *environment_file* (AZURE_ENVIRONMENT_FILEPATH) describes, or the public one if there is none.

    Raises CloudError for a file that cannot be used. Reads it: not for the event loop.
    """
    return PUBLIC if environment_file is None else _described_in(environment_file)


def _described_in(path: Path) -> Cloud:
    try:
        described: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise CloudError(f"cannot read AZURE_ENVIRONMENT_FILEPATH {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CloudError(f"AZURE_ENVIRONMENT_FILEPATH {str(path)!r} is not JSON: {error}") from error
    if not isinstance(described, dict):
        raise CloudError(f"AZURE_ENVIRONMENT_FILEPATH {str(path)!r} must hold one JSON object")
    # Go decodes field names in any case, and files written for it exist.
    fields = {key.lower(): value for key, value in described.items() if isinstance(value, str)}

    def url(field: str) -> str:
        value = fields.get(field.lower(), "").rstrip("/")
        if not _is_https(value):
            raise CloudError(f"{str(path)!r}: {field} must be an https URL, and is {value[:128]!r}")
        return value

    authority = url("activeDirectoryEndpoint")
    manager = url("resourceManagerEndpoint")
    audience = fields.get("tokenaudience") or fields.get("servicemanagementendpoint") or manager + "/"
    return _cloud(fields.get("name") or STACK_NAME, authority, manager, audience)


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets around what is no address, or a port that is no number
        return False
