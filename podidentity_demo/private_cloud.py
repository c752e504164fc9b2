"""The Resource Manager of a private cloud, from the file in AZURE_ENVIRONMENT_FILEPATH that NMI and MIC read too.

`podidentity.azure.clouds` reads it for them. The demo is an application and imports nothing of this project. The file
is go-autorest's `Environment` as JSON. Go decodes field names in any case, and existing files depend on it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class CloudFileError(Exception):
    """The file is unusable. The text is one line with the next action."""


@dataclass(frozen=True, slots=True)
class PrivateCloud:
    """What the demo needs of a description."""

    resource_manager: str
    """https URL without a slash at its end."""
    audience: str
    """The resource of tokens for it."""


def read(file: str) -> PrivateCloud:
    """Return the cloud that *file* describes. Raise CloudFileError."""
    variable = f"AZURE_ENVIRONMENT_FILEPATH {file!r}"
    try:
        described: Any = json.loads(Path(file).read_bytes())
    except OSError as failure:
        raise CloudFileError(f"cannot read {variable}: {failure.strerror}") from failure
    except (ValueError, RecursionError) as failure:
        raise CloudFileError(f"{variable} is not JSON: {failure}") from failure
    if not isinstance(described, dict):
        raise CloudFileError(f"{variable} must contain one JSON object")
    fields = {name.lower(): value for name, value in described.items() if isinstance(value, str)}
    manager = fields.get("resourcemanagerendpoint", "").rstrip("/")
    try:
        usable = (parts := urlsplit(manager)).scheme == "https" and bool(parts.hostname)
    except ValueError:  # brackets without an address
        usable = False
    if not usable:
        raise CloudFileError(f"{variable}: resourceManagerEndpoint must be an https URL, but is {manager[:128]!r}")
    audience = fields.get("tokenaudience") or fields.get("servicemanagementendpoint") or f"{manager}/"
    return PrivateCloud(manager, audience)
