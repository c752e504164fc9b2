"""Settings of the demo: the flags of the Go implementation's demo image, with both names of each.

Reference: cmd/demo/main.go. Up to v1.7 the flags were --subscriptionid, --clientid, --resourcegroup, --aad-resourcename
and --retry-wait-time; v1.8 renamed them. Manifests with either name work. Additions: `--once`, `--timeout`,
`--ca-bundle`.
"""

import argparse
import json
import math
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed hides it from some platforms

METADATA_SERVICE: Final = "http://169.254.169.254"
RESOURCE_MANAGER: Final = "https://management.azure.com/"
WAIT_SECONDS: Final = 20.0
ONCE_SECONDS: Final = 300.0
"""Azure may take minutes until a VM has an identity, and as long until a role counts."""
LONGEST_SECONDS: Final = 86_400.0
SUBSCRIPTION: Final = "the subscription of the resource group"
CLIENT_ID: Final = "the client id of the identity that is bound to this pod"
GROUP: Final = "a resource group on which the identity has the role Reader; its VMs are counted"
RESOURCE: Final = f"the resource of the tokens ({RESOURCE_MANAGER}, or that of AZURE_ENVIRONMENT_FILEPATH)"
WAIT: Final = "the pause between two runs of the steps, also with a unit: 100s, 1m30s (%(default)g)"
ONCE: Final = (
    "end with code 0 after the first run of the steps without a failure, with 1 if there is none within --timeout"
)
TIMEOUT: Final = "with --once: the time limit; a run of the steps that has begun is finished (%(default)g)"
BUNDLE: Final = "file with further certificate authorities to trust for Azure Resource Manager"

_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|[smh])")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """The requests of the demo, and their servers."""

    subscription: str
    client_id: str
    resource_group: str
    resource: str
    """The resource of the tokens."""
    wait_seconds: float
    """The pause between two runs of the steps."""
    once_seconds: float | None
    """The time limit until the first run of the steps without a failure, which is the last one; None: no end."""
    metadata_service: str
    """URL without a slash at its end, as is *resource_manager*."""
    resource_manager: str
    tls: ssl.SSLContext = field(compare=False)
    """For connections by https."""
    proxy: str
    """The host and port of the HTTP proxy for Azure Resource Manager; empty if none is needed."""
    pod: str
    """The pod's namespace, name and address, as far as the manifest contains them."""
    source_address: str
    """The source address of requests; empty for the machine's choice."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> DemoSettings:
    """Parse the command line. Exit with 2 and a line on stderr if it is invalid, with 0 after --help."""
    parser = argparse.ArgumentParser(
        prog="podidentity-demo",
        description="Use the pod's Azure identity in four ways, repeatedly, and print the result of each.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--subscriptionid", "--subscription-id", type=_given, required=True, metavar="ID", help=SUBSCRIPTION)
    add("--clientid", "--identity-client-id", type=_given, required=True, metavar="ID", help=CLIENT_ID)
    add("--resourcegroup", "--resource-group", type=_given, required=True, metavar="NAME", help=GROUP)
    add("--aad-resourcename", "--resource-name", type=_given, metavar="URI", help=RESOURCE)
    add("--retry-wait-time", "--period", type=seconds, default=WAIT_SECONDS, metavar="SECONDS", help=WAIT)
    add("--once", action="store_true", help=ONCE)
    add("--timeout", type=seconds, default=ONCE_SECONDS, metavar="SECONDS", help=TIMEOUT)
    add("--ca-bundle", default="", metavar="FILE", help=BUNDLE)
    given = parser.parse_args(argv)
    try:
        resource_manager, audience = _cloud(environ)
    except ValueError as failure:
        parser.error(str(failure))
    tls = ssl.create_default_context()
    if given.ca_bundle:
        try:
            tls.load_verify_locations(given.ca_bundle)
        except OSError as failure:  # also ssl.SSLError
            parser.error(f"--ca-bundle {given.ca_bundle!r} cannot be used: {failure.strerror or failure}")
    return DemoSettings(
        subscription=given.subscriptionid,
        client_id=given.clientid,
        resource_group=given.resourcegroup,
        resource=given.aad_resourcename or audience,
        wait_seconds=given.retry_wait_time,
        once_seconds=given.timeout if given.once else None,
        # These two names are those that Azure's own client libraries and tools read.
        metadata_service=environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA_SERVICE).rstrip("/"),
        resource_manager=resource_manager,
        tls=tls,
        proxy=_proxy(resource_manager, environ),
        pod=_pod(environ),
        source_address=environ.get("SANDBOX_SOURCE_ADDRESS", ""),
    )


def seconds(text: str) -> float:
    """Return the seconds of a number, or of a duration as Go's flags write it (`1m30s`). Raise ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        parts = _DURATION.findall(text)
        if not parts or "".join(parts) != text:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a number of seconds nor a duration like 1m30s"
            ) from None
        value = sum(float(part.rstrip("msh")) * _UNITS[part.lstrip("0123456789.")] for part in parts)
    if not math.isfinite(value) or not 0 < value <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0 and at most {LONGEST_SECONDS:.0f} seconds")
    return value


def _given(text: str) -> str:
    """Return *text* unless it is empty or the placeholder of an example manifest. Raise ArgumentTypeError."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("is empty or not printable; insert the real value")
    if text in {"SUBSCRIPTION_ID", "CLIENT_ID", "RESOURCE_GROUP"} or text.startswith("$"):
        raise argparse.ArgumentTypeError(f"{text!r} is a placeholder; insert the real value")
    return text


def _cloud(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the URL of Resource Manager, without a slash at its end, and the audience of its tokens.

    A private cloud's are in the file in AZURE_ENVIRONMENT_FILEPATH, which NMI and MIC read too: go-autorest's
    `Environment` as JSON. Go decodes field names in any case, and existing files depend on it. Raise ValueError, with
    the next action, if the file is unusable.
    """
    file = environ.get("AZURE_ENVIRONMENT_FILEPATH")
    if not file:
        return environ.get("AZURE_RESOURCE_MANAGER_ENDPOINT", RESOURCE_MANAGER).rstrip("/"), RESOURCE_MANAGER
    variable = f"AZURE_ENVIRONMENT_FILEPATH {file!r}"
    try:
        described: Any = json.loads(Path(file).read_bytes())
    except OSError as failure:
        raise ValueError(f"cannot read {variable}: {failure.strerror}") from failure
    except (ValueError, RecursionError) as failure:
        raise ValueError(f"{variable} is not JSON: {failure}") from failure
    if not isinstance(described, dict):
        raise ValueError(f"{variable} must contain one JSON object")  # noqa: TRY004 - callers handle one kind
    fields = {name.lower(): value for name, value in described.items() if isinstance(value, str)}
    manager = fields.get("resourcemanagerendpoint", "").rstrip("/")
    try:
        usable = (parts := urlsplit(manager)).scheme == "https" and bool(parts.hostname)
    except ValueError:  # brackets without an address
        usable = False
    if not usable:
        raise ValueError(f"{variable}: resourceManagerEndpoint must be an https URL, but is {manager[:128]!r}")
    return manager, fields.get("tokenaudience") or fields.get("servicemanagementendpoint") or f"{manager}/"


def _pod(environ: Mapping[str, str]) -> str:
    """Return the pod for the first line, as the Go implementation's demo prints it."""
    name, namespace, address = (environ.get(f"MY_POD_{part}", "") for part in ("NAME", "NAMESPACE", "IP"))
    return " ".join(filter(None, (f"{namespace}/{name}".strip("/"), address)))


def _proxy(server: str, environ: Mapping[str, str]) -> str:
    """Return the host and port of HTTPS_PROXY, unless NO_PROXY names the server. IMDS is never behind a proxy."""
    chosen = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    excepted = {"no": environ.get("NO_PROXY") or environ.get("no_proxy") or ""}
    where = urlsplit(server)
    if not chosen or where.scheme != "https" or proxy_bypass_environment(where.netloc, excepted):
        return ""
    return urlsplit(chosen if "//" in chosen else f"//{chosen}").netloc.rpartition("@")[2]
