"""Requests of the demo: plain HTTP by the standard library, and a token by azure-identity, as in applications."""

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ManagedIdentityCredential
from requests.adapters import HTTPAdapter
from typing_extensions import override

TRY_SECONDS: Final = 80.0
"""As in the Go implementation's demo. Longer than NMI holds a request whose identity is still being assigned."""
BODY_MAX: Final = 1 << 20  # no response that this program needs is larger
TEXT_MAX: Final = 300
_TOKEN_LIKE: Final = re.compile(r"[\w-]{16,}\.[\w-]{16,}(?:\.[\w-]*)?")


class AskError(Exception):
    """A request that failed. The text is one line without secrets."""

    def __init__(self, text: str, *, status: int = 0) -> None:
        super().__init__(presentable(text))
        self.status = status
        """The HTTP status of the response; 0 if there was none."""


def presentable(text: str) -> str:
    """Return *text* as one printable line of at most TEXT_MAX characters, without anything that looks like a token."""
    line = " ".join(_TOKEN_LIKE.sub("(left out)", text).split())
    return "".join(each if each.isprintable() else "?" for each in line)[:TEXT_MAX]


def get(
    server: str,
    path: str,
    headers: Mapping[str, str],
    *,
    source: str = "",
    proxy: str = "",
    tls: ssl.SSLContext | None = None,
) -> dict[str, Any]:
    """Return the JSON object at *path* of *server* (a URL without path). Follow no redirect and reuse no connection.

    *source* is the source address of the connection. For https, *proxy* is the host and port of a proxy, and *tls*
    verifies the server (by default with the system's authorities). Raise AskError.
    """
    connection = _connection(server, source, proxy, tls)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(BODY_MAX)
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise AskError(f"no answer from {server}: {type(failure).__name__}: {failure}") from failure
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise AskError(f"{server} answers {response.status}: {_said(body)}", status=response.status)
    try:
        document = json.loads(body)
    except ValueError as failure:
        raise AskError(f"{server} answers with something that is no JSON", status=response.status) from failure
    if not isinstance(document, dict):
        raise AskError(f"{server} answers with JSON that is no object", status=response.status)
    return document


def _connection(server: str, source: str, proxy: str, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    where = urlsplit(server)
    from_address = (source, 0) if source else None
    if where.scheme != "https":
        return http.client.HTTPConnection(where.netloc, timeout=TRY_SECONDS, source_address=from_address)
    context = tls or ssl.create_default_context()
    if not proxy:
        return http.client.HTTPSConnection(
            where.netloc, timeout=TRY_SECONDS, source_address=from_address, context=context
        )
    connection = http.client.HTTPSConnection(proxy, timeout=TRY_SECONDS, source_address=from_address, context=context)
    connection.set_tunnel(where.hostname or "", where.port or 443)
    return connection


def _said(body: bytes) -> str:
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

    The library neither retries nor caches: each call sends one request. Raise AskError.
    """
    statuses = [0]  # the library's errors do not always contain it
    with requests.Session() as session:
        session.hooks["response"].append(lambda answer, **_: statuses.append(answer.status_code))
        if source:
            session.mount("http://", _FromAddress(source))
        transport = RequestsTransport(session=session, session_owner=False, read_timeout=TRY_SECONDS)
        with ManagedIdentityCredential(transport=transport, retry_total=0, retry_status=0) as credential:
            try:
                token: str = credential.get_token(f"{resource}/.default").token
            except AzureError as failure:
                raise AskError(f"azure-identity: {failure.message}", status=statuses[-1]) from failure
    return token


class _FromAddress(HTTPAdapter):
    """HTTP adapter that connects from a given source address."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, source_address=(self._address, 0))
