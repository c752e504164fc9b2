"""What the demo pod runs: it uses its identity in four ways and prints a line for each, as the seed's demo does.

Standard library only, so that the demo's image carries nothing else. It reads its flags and five environment variables
and knows nothing of the sandbox; against Azure it does the same.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

METADATA_SERVICE = "http://169.254.169.254"
RESOURCE_MANAGER = "https://management.azure.com/"
TOKEN_PATH = "/metadata/identity/oauth2/token"  # noqa: S105 - a path, no secret
TRY_SECONDS = 60  # longer than NMI holds a request whose identity is still being assigned
BODY_MAX = 1 << 20  # no answer that this program asks for is larger


class StepError(Exception):
    """One of the four did not work; the message says what came instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to ask, and where."""

    subscription: str
    client_id: str
    resource_group: str
    resource: str
    """What the token is for."""
    wait_seconds: float
    """The pause between two rounds, and after a step that failed."""
    once: bool
    """End after the first round in which all four worked."""
    metadata_service: str
    resource_manager: str
    source_address: str
    """The address to ask from, where it is not the machine's own choice; empty: its choice."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Flags as the demo image of the versions before ours has them; exits with 2 on a wrong one."""
    parser = argparse.ArgumentParser(prog="demo", allow_abbrev=False)
    parser.add_argument("--subscriptionid", required=True, help="the subscription whose VMs are counted")
    parser.add_argument("--clientid", required=True, help="the client id of the identity")
    parser.add_argument("--resourcegroup", required=True, help="the resource group whose VMs are counted")
    parser.add_argument("--aad-resourcename", default=RESOURCE_MANAGER, help="what the tokens are for")
    parser.add_argument("--retry-wait-time", type=float, default=20, help="seconds between two rounds")
    parser.add_argument("--once", action="store_true", help="end after the first round in which everything worked")
    given = parser.parse_args(argv)
    return Settings(
        subscription=given.subscriptionid,
        client_id=given.clientid,
        resource_group=given.resourcegroup,
        resource=given.aad_resourcename,
        wait_seconds=given.retry_wait_time,
        once=given.once,
        # The first two names are what Azure's own client libraries and tools read.
        metadata_service=environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA_SERVICE).rstrip("/"),
        resource_manager=environ.get("AZURE_RESOURCE_MANAGER_ENDPOINT", RESOURCE_MANAGER).rstrip("/"),
        source_address=environ.get("SANDBOX_SOURCE_ADDRESS", ""),
    )


class Demo:
    """The four steps. Each returns the line that says it worked, or raises StepError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._endpoint = f"{settings.metadata_service}{TOKEN_PATH}"

    def count_machines(self) -> str:
        """Read the VMs of the resource group from Azure Resource Manager with a token of the identity."""
        settings = self._settings
        token = self._token(client_id=settings.client_id)
        path = (
            f"/subscriptions/{settings.subscription}/resourceGroups/{settings.resource_group}"
            "/providers/Microsoft.Compute/virtualMachines?api-version=2024-07-01"
        )
        listed = self._get(settings.resource_manager, path, {"Authorization": f"Bearer {token}"})
        return f"successfully doARMOperations vm count {len(listed.get('value', []))}"

    def token_by_msi(self) -> str:
        """A token without naming an identity."""
        self._token()
        return f"successfully acquired a token using the MSI, msiEndpoint({self._endpoint})"

    def token_by_client_id(self) -> str:
        """A token of the identity with the client id."""
        self._token(client_id=self._settings.client_id)
        return (
            f"successfully acquired a token, userAssignedID MSI, msiEndpoint({self._endpoint}) "
            f"clientID({self._settings.client_id})"
        )

    def instance_metadata(self) -> str:
        """What the VM says about itself."""
        found = self._get(
            self._settings.metadata_service, "/metadata/instance?api-version=2021-02-01", {"Metadata": "true"}
        )
        if "compute" not in found:
            raise StepError("the instance metadata says nothing about the VM")
        return "successfully made GET on instance metadata"

    @property
    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """The four, with the words for a failure's line."""
        return [
            ("doARMOperations", self.count_machines),
            ("acquire a token using the MSI", self.token_by_msi),
            ("acquire a token, userAssignedID MSI", self.token_by_client_id),
            ("make GET on instance metadata", self.instance_metadata),
        ]

    def _token(self, **selector: str) -> str:
        query = urlencode({"api-version": "2018-02-01", "resource": self._settings.resource, **selector})
        found = self._get(self._settings.metadata_service, f"{TOKEN_PATH}?{query}", {"Metadata": "true"})
        token = found.get("access_token")
        if not isinstance(token, str) or not token:
            raise StepError("the answer holds no access_token")
        return token

    def _get(self, server: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object at *path*. A connection of its own, so that each step stands for itself."""
        where = urlsplit(server)
        source = (self._settings.source_address, 0) if self._settings.source_address else None
        connection: http.client.HTTPConnection
        if where.scheme == "https":
            connection = http.client.HTTPSConnection(
                where.netloc, timeout=TRY_SECONDS, source_address=source, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(where.netloc, timeout=TRY_SECONDS, source_address=source)
        try:
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            body = response.read(BODY_MAX)
            document = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as failure:
            raise StepError(f"{server}: {type(failure).__name__}: {failure}") from failure
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise StepError(f"{server} answers {response.status}: {body[:300].decode(errors='replace')!r}")
        if not isinstance(document, dict):
            raise StepError(f"{server} answers with something that is no JSON object")
        return document


def run(settings: Settings, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> int:
    """Go through the steps, round after round; each is tried until it works. Returns the exit code."""
    demo = Demo(settings)
    while True:
        for name, step in demo.steps:
            while True:
                try:
                    say(step())
                    break
                except StepError as failure:
                    say(f"failed to {name}, error: {failure}")
                    sleep(settings.wait_seconds)
        if settings.once:
            return 0
        sleep(settings.wait_seconds)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """The program; ends by Ctrl-C or SIGTERM unless told to run once."""
    try:
        return run(parse(sys.argv[1:], os.environ), say=_say)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
