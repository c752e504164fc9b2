"""The Azure clouds by name: sign-in authority, Resource Manager endpoint, and the audience of its tokens.

Four clouds are built in. A file describes an Azure Stack (go-autorest's `Environment` as JSON, in
AZURE_ENVIRONMENT_FILEPATH as with the Go implementation). This module contains values only and sends no requests.
"""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec


class CloudError(Exception):
    """The cloud's name or its environment file is unusable; the message is one line with the next action."""


_ENDPOINT: Final = re.compile(
    r"https://(?:(?P<host>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"|\[(?P<ipv6>[0-9a-f:]{2,39})\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[a-z0-9_-][a-z0-9._-]*)*)/?",
    re.IGNORECASE | re.ASCII,
)
"""Excludes everything that two URL parsers could read as different hosts: user, query, escapes, dot segments."""
_HOST_MAX: Final = 253


class Endpoint(msgspec.Struct, frozen=True):
    """An https address that may receive secrets, in one normalized spelling."""

    host: str
    """Lower-case; a name, an IPv4 address as written, or the short form of an IPv6 address without brackets."""
    port: int = 443
    path: str = ""
    """Empty, or a path with a leading slash and no trailing one."""

    @property
    def url(self) -> str:
        """Return the URL without a trailing slash."""
        port = "" if self.port == 443 else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}{port}{self.path}"


def parse_endpoint(text: str, *, ipv6: bool = False) -> Endpoint | None:
    """Return the endpoint that *text* spells, or None if it is anything but scheme, host, optional port and path.

    *ipv6*: the host may be an IPv6 address in brackets, without a zone and without an embedded IPv4 address.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        return None
    host = _ipv6_host(match["ipv6"]) if ipv6 and match["ipv6"] else (match["host"] or "").lower()
    port = int(match["port"] or 443)
    return Endpoint(host, port, match["path"]) if 0 < len(host) <= _HOST_MAX and 0 < port < 65536 else None


def _ipv6_host(text: str) -> str:
    """Return the short form of the address, or an empty string if *text* is none, or is one of IPv4."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return ""
    # An IPv4 address in this form would be a second spelling of its host.
    return "" if address.ipv4_mapped is not None else address.compressed


class Cloud(msgspec.Struct, frozen=True):
    """One cloud. URLs are https without a trailing slash; the audience is used as spelled."""

    name: str
    authority: str
    """Sign-in endpoint of Microsoft Entra ID, without the tenant."""
    resource_manager: str
    resource_manager_audience: str
    """The resource of tokens for Resource Manager."""
    known_hosts: frozenset[str]
    """Sign-in hosts of this cloud, lower-case, with the port if it is not 443."""


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
    """Return the sign-in hosts of all *clouds*, by default of all built-in ones."""
    return frozenset().union(*(cloud.known_hosts for cloud in clouds))


def by_name(name: str, environment_file: Path | None = None) -> Cloud:
    """Return the cloud *name*, ignoring case; an empty name is the public cloud.

    `AzureStackCloud` is read from *environment_file*. Raises CloudError for an unknown name, for a stack without a
    file, and for a file that cannot be used.
    """
    key = (name or PUBLIC.name).strip().lower()
    cloud = _KNOWN.get(key)
    if cloud is not None:
        return cloud
    if key != STACK_NAME.lower():
        names = ", ".join(sorted([cloud.name for cloud in _KNOWN.values()] + [STACK_NAME]))
        raise CloudError(f"unknown cloud {name[:64]!r}: set it to one of {names}")
    if environment_file is None:
        raise CloudError(f"{STACK_NAME} needs its description: set AZURE_ENVIRONMENT_FILEPATH to that JSON file")
    return _described_in(environment_file)


def of_environment(environment_file: Path | None) -> Cloud:
    """Return the cloud that *environment_file* (AZURE_ENVIRONMENT_FILEPATH) describes, or the public one without a
    file.

    Raises CloudError for a file that cannot be used. Blocking: reads the file.
    """
    return PUBLIC if environment_file is None else _described_in(environment_file)


def unambiguous(content: bytes) -> Any:
    """Return the JSON document in *content*, with or without a byte-order mark.

    Raise ValueError if it is none, or if an object has a field twice, in any letter case, with different values: of
    those, programs use different ones. Field names in another letter case are common, because Go ignores it.
    """
    return json.loads(content, object_pairs_hook=_without_contradiction)


def _without_contradiction(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if values.setdefault(name.lower(), value) != value:
            raise ValueError(f"the field {name[:64]!a} is there twice, with different values")
    return dict(pairs)


def _described_in(path: Path) -> Cloud:
    try:
        described = unambiguous(path.read_bytes())
    except OSError as error:
        raise CloudError(f"cannot read AZURE_ENVIRONMENT_FILEPATH {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CloudError(f"AZURE_ENVIRONMENT_FILEPATH {str(path)!r} is not JSON: {error}") from error
    if not isinstance(described, dict):
        raise CloudError(f"AZURE_ENVIRONMENT_FILEPATH {str(path)!r} must contain one JSON object")
    # Go decodes field names in any case, and existing files depend on it.
    fields = {key.lower(): value for key, value in described.items() if isinstance(value, str)}

    def url(field: str) -> str:
        value = fields.get(field.lower(), "").rstrip("/")
        if not _is_https(value):
            raise CloudError(f"{str(path)!r}: {field} must be an https URL, but is {value[:128]!r}")
        return value

    authority = url("activeDirectoryEndpoint")
    manager = url("resourceManagerEndpoint")
    audience = fields.get("tokenaudience") or fields.get("servicemanagementendpoint") or manager + "/"
    return _cloud(fields.get("name") or STACK_NAME, authority, manager, audience)


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address, or an invalid port
        return False
