"""What the demo is told: the flags of the reference's demo image, in both spellings that it has had.

Reference: cmd/demo/main.go. Up to v1.7 the flags were --subscriptionid, --clientid, --resourcegroup, --aad-resourcename
and --retry-wait-time; v1.8 renamed them. Manifests of either go on working. `--once` and `--timeout` are ours.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
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
RESOURCE: Final = "what the tokens are for (%(default)s)"
WAIT: Final = "the pause between two rounds, also with a unit: 100s, 1m30s (%(default)g)"
ONCE: Final = "end with code 0 after the first round in which everything worked, with 1 if there is none in --timeout"
TIMEOUT: Final = "with --once: how long to try; a round that has begun is finished (%(default)g)"

_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|[smh])")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to ask, and where."""

    subscription: str
    client_id: str
    resource_group: str
    resource: str
    """What the tokens are for."""
    wait_seconds: float
    """The pause between two rounds."""
    once: bool
    """End after the first round in which everything worked."""
    once_seconds: float
    """With *once*: how long to try."""
    metadata_service: str
    """URL without a slash at its end, as is *resource_manager*."""
    resource_manager: str
    proxy: str
    """The host and port of the HTTP proxy that leads to Azure Resource Manager; empty: none is needed."""
    pod: str
    """The pod by namespace, name and address, where the manifest tells them."""
    source_address: str
    """The address to ask from, where it is not the machine's own choice; empty: its choice."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Exits with 2 and a line on stderr when the command line cannot be used, with 0 after --help."""
    parser = argparse.ArgumentParser(
        prog="podidentity-demo",
        description="Uses the pod's Azure identity in four ways, again and again, and says what came of each.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--subscriptionid", "--subscription-id", type=_given, required=True, metavar="ID", help=SUBSCRIPTION)
    add("--clientid", "--identity-client-id", type=_given, required=True, metavar="ID", help=CLIENT_ID)
    add("--resourcegroup", "--resource-group", type=_given, required=True, metavar="NAME", help=GROUP)
    add("--aad-resourcename", "--resource-name", type=_given, default=RESOURCE_MANAGER, metavar="URI", help=RESOURCE)
    add("--retry-wait-time", "--period", type=seconds, default=WAIT_SECONDS, metavar="SECONDS", help=WAIT)
    add("--once", action="store_true", help=ONCE)
    add("--timeout", type=seconds, default=ONCE_SECONDS, metavar="SECONDS", help=TIMEOUT)
    given = parser.parse_args(argv)
    resource_manager = environ.get("AZURE_RESOURCE_MANAGER_ENDPOINT", RESOURCE_MANAGER).rstrip("/")
    return Settings(
        subscription=given.subscriptionid,
        client_id=given.clientid,
        resource_group=given.resourcegroup,
        resource=given.aad_resourcename,
        wait_seconds=given.retry_wait_time,
        once=given.once,
        once_seconds=given.timeout,
        # These two names are what Azure's own client libraries and tools read.
        metadata_service=environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA_SERVICE).rstrip("/"),
        resource_manager=resource_manager,
        proxy=_proxy(resource_manager, environ),
        pod=_pod(environ),
        source_address=environ.get("SANDBOX_SOURCE_ADDRESS", ""),
    )


def seconds(text: str) -> float:
    """Seconds from a number, or a duration as Go's flags take it (`1m30s`). Raises ArgumentTypeError."""
    try:
        found = float(text)
    except ValueError:
        parts = _DURATION.findall(text)
        if not parts or "".join(parts) != text:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a number of seconds nor a duration like 1m30s"
            ) from None
        found = sum(float(part.rstrip("msh")) * _UNITS[part.lstrip("0123456789.")] for part in parts)
    if not math.isfinite(found) or not 0 < found <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0 and at most {LONGEST_SECONDS:.0f} seconds")
    return found


def _given(text: str) -> str:
    """*text*, unless it is empty or still the placeholder that an example manifest has. Raises ArgumentTypeError."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("is empty, or has characters that cannot be printed: put the real value in")
    if text in {"SUBSCRIPTION_ID", "CLIENT_ID", "RESOURCE_GROUP"} or text.startswith("$"):
        raise argparse.ArgumentTypeError(f"{text!r} is a placeholder: put the real value in")
    return text


def _pod(environ: Mapping[str, str]) -> str:
    """Reference: the demo's first line is made of these three."""
    name, namespace, address = (environ.get(f"MY_POD_{part}", "") for part in ("NAME", "NAMESPACE", "IP"))
    return " ".join(filter(None, (f"{namespace}/{name}".strip("/"), address)))


def _proxy(server: str, environ: Mapping[str, str]) -> str:
    """Host and port of HTTPS_PROXY, unless NO_PROXY names the server. The metadata service is never behind one."""
    chosen = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    excepted = {"no": environ.get("NO_PROXY") or environ.get("no_proxy") or ""}
    where = urlsplit(server)
    if not chosen or where.scheme != "https" or proxy_bypass_environment(where.netloc, excepted):
        return ""
    return urlsplit(chosen if "//" in chosen else f"//{chosen}").netloc.rpartition("@")[2]
