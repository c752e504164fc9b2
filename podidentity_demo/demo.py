"""The four ways to use the identity, reported in the Go implementation's words, the comparison of two tokens, and the
loop that repeats them.

A request is plain HTTP by the standard library, or azure-identity's, as in applications. An error ends with the next
action. Only `main` reads the process's arguments and environment.
"""

import base64
import http.client
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final, Never
from urllib.parse import quote, urlencode, urlsplit

import requests
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ManagedIdentityCredential
from requests.adapters import HTTPAdapter
from typing_extensions import override

from podidentity_demo.settings import DemoSettings, parse

TRY_SECONDS: Final = 80.0
"""As in the Go implementation's demo. Longer than NMI holds a request whose identity is still being assigned."""
BODY_MAX: Final = 1 << 20  # no response that this program needs is larger
TEXT_MAX: Final = 300
TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105 - a path, no secret
METADATA_PATH: Final = "/metadata/instance?api-version=2017-08-01"
COMPUTE: Final = "2024-07-01"
_METADATA: Final = {"Metadata": "true"}
_TOKEN_LIKE: Final = re.compile(r"[\w-]{16,}\.[\w-]{16,}(?:\.[\w-]*)?")
_NMI_LOG: Final = "see what NMI on this pod's node logs about it"
_NO_RESPONSE: Final = (
    "see that NMI runs on this pod's node (kubectl get pods -A -o wide) and that no proxy is set for this address"
)
_TOKEN: Final = {
    None: _NMI_LOG,
    0: _NO_RESPONSE,
    400: "see that the pod's label aadpodidbinding is the selector of an AzureIdentityBinding of this namespace, whose "
    "AzureIdentity exists, and that --clientid is its clientID",
    403: "see that --clientid is the clientID of an AzureIdentity that is bound to this pod, and what NMI logs of it",
    404: "the identity is still being assigned to the node, or never was: kubectl get azureassignedidentity -A, and "
    "MIC's log if it is not there or not Assigned",
    429: "Azure limits the requests of this node; this program tries again",
    503: "the node's metadata service does not answer NMI; this program tries again",
}
_RESOURCE_MANAGER: Final = {
    None: "check whether Azure has an outage; this program tries again",
    0: "see that the pod may reach Azure Resource Manager: network policies, the firewall, HTTPS_PROXY",
    401: "the token is not for Azure Resource Manager: leave --aad-resourcename out",
    403: "give the identity the role Reader on the resource group (az role assignment create --role Reader --assignee "
    "CLIENT_ID --scope /subscriptions/SUBSCRIPTION/resourceGroups/GROUP); it counts after some minutes",
    404: "see that --subscriptionid and --resourcegroup are right",
    429: "Azure limits the requests of this identity; this program tries again",
}
ADVICE: Final[Mapping[str, Mapping[int | None, str]]] = {
    "token": _TOKEN,
    "metadata": {None: _NMI_LOG, 0: _NO_RESPONSE},
    "Resource Manager": _RESOURCE_MANAGER,
}
"""The next action for an error response of each service, by its status: 0: there was no response; None: any other."""


class StepError(Exception):
    """A step failed. The text states the result and the next action."""


Step = tuple[str, Callable[[], str]]
"""The words for a failure's line; what to do: it returns the line that says it worked ("": there is nothing to say)."""


def presentable(text: str) -> str:
    """Return *text* as one printable line of at most TEXT_MAX characters, without anything that looks like a token."""
    line = " ".join(_TOKEN_LIKE.sub("(left out)", text).split())
    return "".join(character if character.isprintable() else "?" for character in line)[:TEXT_MAX]


def advice(service: str, status: int) -> str:
    """Return the next action, one sentence without a full stop. *status* 0 means that there was no response."""
    return ADVICE[service].get(status) or ADVICE[service][None]


def _error(service: str, text: str, status: int = 0) -> StepError:
    """Return the error of a request to *service*: one line without secrets. *status* is as in `advice`."""
    return StepError(f"{presentable(text).rstrip('. ')}; {advice(service, status)}")


class Demo:
    """The steps. Tokens live only while a step runs, and nothing that is returned or raised holds one."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._endpoint = f"{settings.metadata_service}{TOKEN_PATH}"
        self._unnamed = ""
        """The client id in the last token requested without naming one; empty if there is none or it is unknown."""

    @property
    def steps(self) -> list[Step]:
        """Return the steps in the Go implementation's order."""
        return [
            ("doARMOperations", self.count_machines),
            ("acquire a token using the MSI", self.token_by_msi),
            ("acquire a token, userAssignedID MSI", self.token_by_client_id),
            ("make GET on instance metadata", self.instance_metadata),
            ("get the same identity without its client id", self.compare),
        ]

    def count_machines(self) -> str:
        """Read the VMs of the resource group from Azure Resource Manager with a token of the identity."""
        settings = self._settings
        headers = {"Authorization": f"Bearer {self._token()}"}
        path = (
            f"/subscriptions/{quote(settings.subscription, '')}/resourceGroups/{quote(settings.resource_group, '')}"
            f"/providers/Microsoft.Compute/virtualMachines?api-version={COMPUTE}"
        )
        listed = get("Resource Manager", settings.resource_manager, path, headers, settings).get("value")
        if not isinstance(listed, list):
            raise StepError(f"{settings.resource_manager} answers without a list of VMs; see what answers there")
        return f"successfully doARMOperations vm count {len(listed)}"

    def token_by_msi(self) -> str:
        """Return a token without naming an identity, by Azure's own library."""
        self._unnamed = ""
        self._unnamed = client_id_in(token_by_sdk(self._settings.resource, source=self._settings.source_address))
        return f"successfully acquired a token using the MSI, msiEndpoint({self._endpoint})"

    def token_by_client_id(self) -> str:
        """Return a token of the identity with the client id."""
        self._token()
        return (
            f"successfully acquired a token, userAssignedID MSI, msiEndpoint({self._endpoint}) "
            f"clientID({self._settings.client_id})"
        )

    def instance_metadata(self) -> str:
        """Read the instance metadata of the VM."""
        server = self._settings.metadata_service
        document = get("metadata", server, METADATA_PATH, _METADATA, self._settings)
        if "compute" not in document:
            raise StepError(f"{server} says nothing about the VM; see what answers there instead of Azure's IMDS")
        return "successfully made GET on instance metadata"

    def compare(self) -> str:
        """Return whether the token without a client id is the same identity's. If it is, the text is empty."""
        if self._unnamed and self._unnamed.lower() != self._settings.client_id.lower():
            raise StepError(
                f"the token without a client id is of {presentable(self._unnamed)}; bind only one AzureIdentity to "
                f"this pod, or let applications name the client id"
            )
        return ""

    def _token(self) -> str:
        """Return a token of the identity with the client id, by plain HTTP."""
        settings = self._settings
        wanted = {"api-version": "2018-02-01", "resource": settings.resource, "client_id": settings.client_id}
        path = f"{TOKEN_PATH}?{urlencode(wanted)}"
        response = get("token", settings.metadata_service, path, _METADATA, settings)
        token = response.get("access_token")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token.strip()):
            raise StepError(f"{settings.metadata_service} answers without an access_token; see what answers there")
        return token


def get(service: str, server: str, path: str, headers: Mapping[str, str], settings: DemoSettings) -> dict[str, Any]:
    """Return the JSON object at *path* of *server* (a URL without path). Follow no redirect and reuse no connection.

    *service* selects the advice. Raise StepError.
    """
    connection = _connection(server, settings)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(BODY_MAX)
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise _error(service, f"no answer from {server}: {type(failure).__name__}: {failure}") from failure
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise _error(service, f"{server} answers {response.status}: {_message_of(body)}", response.status)
    try:
        document = json.loads(body)
    except ValueError as failure:
        raise _error(service, f"{server} answers with something that is no JSON", response.status) from failure
    if not isinstance(document, dict):
        raise _error(service, f"{server} answers with JSON that is no object", response.status)
    return document


def _connection(server: str, settings: DemoSettings) -> http.client.HTTPConnection:
    where = urlsplit(server)
    source = (settings.source_address, 0) if settings.source_address else None
    if where.scheme != "https":
        return http.client.HTTPConnection(where.netloc, timeout=TRY_SECONDS, source_address=source)
    proxy = settings.proxy if server == settings.resource_manager else ""  # IMDS is never behind a proxy
    connection = http.client.HTTPSConnection(
        proxy or where.netloc, timeout=TRY_SECONDS, source_address=source, context=settings.tls
    )
    if proxy:
        connection.set_tunnel(where.hostname or "", where.port or 443)
    return connection


def _message_of(body: bytes) -> str:
    """Return the message in an error body of IMDS, AAD or Azure Resource Manager, or the beginning of another body."""
    text = body[: 4 * TEXT_MAX].decode(errors="replace")
    try:
        document = json.loads(body)
    except ValueError:
        return text
    if isinstance(document, dict):
        error = document.get("error")
        if isinstance(error, dict):
            return f"{error.get('code', '')}: {error.get('message', '')}"
        if isinstance(error, str):
            return f"{error}: {document.get('error_description', '')}"
    return text


def token_by_sdk(resource: str, *, source: str = "") -> str:
    """Return a token from azure-identity, which finds the metadata service itself, without naming an identity.

    The library neither retries nor caches: each call sends one request. Raise StepError.
    """
    statuses = [0]  # the library's errors do not always contain it
    with requests.Session() as session:
        session.hooks["response"].append(lambda response, **_: statuses.append(response.status_code))
        if source:
            session.mount("http://", _FromAddress(source))
        transport = RequestsTransport(session=session, session_owner=False, read_timeout=TRY_SECONDS)
        with ManagedIdentityCredential(transport=transport, retry_total=0, retry_status=0) as credential:
            try:
                token: str = credential.get_token(f"{resource}/.default").token
            except AzureError as failure:
                raise _error("token", f"azure-identity: {failure.message}", statuses[-1]) from failure
    return token


class _FromAddress(HTTPAdapter):
    """HTTP adapter that connects from a given source address."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, source_address=(self._address, 0))


def client_id_in(token: str) -> str:
    """Return the client id in *token*, or "" if it is unreadable: only Azure must understand a token."""
    part = token.split(".")[1:2]
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4))) if part else None
    except ValueError:
        return ""
    client_id = claims.get("appid") if isinstance(claims, dict) else None
    return client_id if isinstance(client_id, str) else ""


def go_round(steps: Sequence[Step], say: Callable[[str], None]) -> list[str]:
    """Run each step and print its line, also after a step that failed. Return the names of the failed steps."""
    failed = []
    for name, step in steps:
        try:
            line = step()
        except StepError as failure:
            failed.append(name)
            line = f"failed to {name}, error: {failure}"
        if line:
            say(line)
    return failed


def run(
    steps: Sequence[Step],
    *,
    wait_seconds: float,
    once_seconds: float | None,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Repeat the steps; with *once_seconds* until all succeed, for at most this time. Return the exit code."""
    began = clock()
    while True:
        failed = go_round(steps, say)
        if once_seconds is not None:
            if not failed:
                return 0
            if clock() - began + wait_seconds > once_seconds:
                say(f"gave up after {clock() - began:.0f} s; failed last: {'; '.join(failed)}")
                return 1
        sleep(wait_seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with *argv* (by default sys.argv[1:]) and return its exit code.

    0 after SIGTERM, or with --once when every step succeeded; 1 with --once when a step failed; 2 for an invalid
    command line; 130 after Ctrl-C.
    """
    settings = parse(sys.argv[1:] if argv is None else argv, os.environ)
    signal.signal(signal.SIGTERM, _end)  # without a handler the first process of a container ignores it
    # The printed lines contain every error; the libraries' warnings would repeat them.
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        _say(f"starting demo pod {settings.pod}".rstrip())
        return run(
            Demo(settings).steps,
            wait_seconds=settings.wait_seconds,
            once_seconds=settings.once_seconds,
            say=_say,
        )
    except KeyboardInterrupt:
        return 130


def _end(signum: int, frame: FrameType | None) -> Never:
    del signum, frame
    sys.exit(0)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
